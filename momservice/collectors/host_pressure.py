# SPDX-License-Identifier: GPL-2.0-or-later
"""HostPressure: how much time processes lose to want of memory (PSI)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from momservice.collectors import Moment
from momservice.collectors.files import read_text
from momservice.fields import Field
from momservice.snapshot import Sample

KINDS = ("some", "full")
WINDOWS = ("avg10", "avg60")


class HostPressure:
    """Averages of /proc/pressure/memory. A kernel without PSI has none."""

    NAME: ClassVar[str] = "HostPressure"
    FIELDS: ClassVar[Sequence[Field]] = tuple(
        Field(f"psi_mem_{kind}_{window}", "float", "%", f"/proc/pressure/memory: {kind} {window}") for kind in KINDS for window in WINDOWS
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = root / "proc/pressure/memory"

    def collect(self, _moment: Moment) -> Sample:
        """What the file tells now."""
        sample: dict[str, float] = {}
        for line in (read_text(self._file) or "").splitlines():
            kind, *words = line.split() or [""]
            for window, _, number in (word.partition("=") for word in words):
                percent = _to_percent(number)
                if kind in KINDS and window in WINDOWS and percent is not None:
                    sample[f"psi_mem_{kind}_{window}"] = percent
        return sample


def _to_percent(text: str) -> float | None:
    # The kernel writes two decimals, never a sign or an exponent.
    whole, _, decimals = text.partition(".")
    if not (whole + decimals).isdigit() or not text.isascii():
        return None
    percent = float(text)
    return percent if percent <= 100 else None  # noqa: PLR2004 - per cent
