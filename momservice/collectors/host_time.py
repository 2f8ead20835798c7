# SPDX-License-Identifier: GPL-2.0-or-later
"""HostTime: the local time, for policies that know working hours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from momservice.collectors import Moment
from momservice.fields import Field
from momservice.snapshot import EMPTY, Sample

PARTS = ("year", "month", "day", "hour", "minute", "second", "microsecond")


class HostTime:
    """The moment of the sample as local time. Reads no file; takes a root as all host collectors do."""

    NAME: ClassVar[str] = "HostTime"
    FIELDS: ClassVar[Sequence[Field]] = tuple(Field(f"time_{part}", "int", "", f"local time: {part}") for part in PARTS)

    def __init__(self, _root: Path = Path("/")) -> None:
        pass

    def collect(self, moment: Moment) -> Sample:
        """Nothing for a time that no calendar has."""
        try:
            local = datetime.fromtimestamp(moment.wall_s)
        except (OverflowError, OSError, ValueError):
            return EMPTY
        return {f"time_{part}": getattr(local, part) for part in PARTS}
