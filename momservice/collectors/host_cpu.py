# SPDX-License-Identifier: GPL-2.0-or-later
"""HostCpu: how many CPUs the host has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from momservice.collectors import Moment
from momservice.collectors.files import read_text, to_count
from momservice.fields import Field
from momservice.snapshot import EMPTY, Sample

# More than any kernel can be built for.
MAX_CPUS = 65536


class HostCpu:
    """Online CPUs from /sys/devices/system/cpu/online."""

    NAME: ClassVar[str] = "HostCpu"
    FIELDS: ClassVar[Sequence[Field]] = (Field("cpu_count", "int", "", "/sys/devices/system/cpu/online: online CPUs"),)

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = root / "sys/devices/system/cpu/online"

    def collect(self, _moment: Moment) -> Sample:
        """The count now: CPUs can be plugged."""
        count = _count_list(read_text(self._file) or "")
        return EMPTY if count is None else {"cpu_count": count}


def _count_list(text: str) -> int | None:
    """The length of a kernel list such as "0-3,8"; None if it isn't one."""
    total = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = to_count(first), to_count(last if dash else first)
        if low is None or high is None or not low <= high < MAX_CPUS:
            return None
        total += high - low + 1
    return total if total <= MAX_CPUS else None
