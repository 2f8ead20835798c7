# SPDX-License-Identifier: GPL-2.0-or-later
"""How short of memory the host is, in a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from momservice.snapshot import Sample

Level = Literal["none", "some", "full"]
SOME: Final = "psi_mem_some_avg10"
FULL: Final = "psi_mem_full_avg10"

# Per cent of the time that some, or all, processes wait for memory. Below half of it the level ends: between the two it stays what it is.
SOME_PERCENT: Final = 10.0
FULL_PERCENT: Final = 5.0


@dataclass(slots=True)
class Pressure:
    """The level, and the averages of the last sample that had them, in per cent."""

    level: Level = "none"
    some: float = 0.0
    full: float = 0.0

    def update(self, host: Sample) -> bool:
        """Take a sample of the host's fields; whether the level has changed. Without figures it stays what it is."""
        some, full = host.get(SOME), host.get(FULL)
        if not isinstance(some, float) or not isinstance(full, float):
            return False
        before, self.some, self.full = self.level, some, full
        if full >= FULL_PERCENT / (2 if before == "full" else 1):
            self.level = "full"
        elif some >= SOME_PERCENT / (1 if before == "none" else 2):
            self.level = "some"
        else:
            self.level = "none"
        return self.level != before
