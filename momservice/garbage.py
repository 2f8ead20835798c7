# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's search for cyclic garbage, kept short: with thousands of guests a full one holds up everything for a tenth of a second and more.

What has outlived a search of the young is set aside and not searched again: it lives as long as its guest, or goes with its last reference,
as nearly everything does. Cycles that are set aside before they become garbage stay, until they would be too many.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from momservice.controllers import World
from momservice.watching import Watcher

# So many new objects are searched within a millisecond. There are more when the collector was off: policies run without it, for they
# make no cycles.
MOST_YOUNG: Final = 2000
# What has outlived so many searches of the youngest is searched once more: Python's 10 make that take ten milliseconds.
YOUNG_SEARCHES: Final = 3
# All is searched when so many times as many objects are set aside as were left by the last full search, and some more.
GROWTH: Final = 1.5
SLACK: Final = 20_000
# To count what is set aside takes milliseconds.
COUNTED_EVERY_S: Final = 60.0


class Garbage(Watcher):
    """The collector's settings; there is one collector in a process. `end` gives them back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_s = clock()
        self._threshold = gc.get_threshold()
        gc.set_threshold(self._threshold[0], YOUNG_SEARCHES)
        self._searching = False
        self._search()
        self._left = gc.get_freeze_count()
        # About how many have been set aside unsearched since they were last counted.
        self._unsearched = 0
        gc.callbacks.append(self._heard)

    def end(self) -> None:
        """Let the collector be as it was."""
        gc.callbacks.remove(self._heard)
        gc.set_threshold(*self._threshold)
        gc.unfreeze()

    def sampled(self, world: World) -> None:
        """See Watcher. Not after runs: while the service is paused there are none, and garbage is made all the same."""
        most = GROWTH * self._left + SLACK
        if self._unsearched < most and self._clock() - self._counted_s < COUNTED_EVERY_S:
            return
        self._counted_s, self._unsearched = self._clock(), 0
        if gc.get_freeze_count() > most:
            self._search()
            self._left = gc.get_freeze_count()

    def _search(self) -> None:
        self._searching = True
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._searching = False

    def _heard(self, phase: str, info: Mapping[str, Any]) -> None:
        """Before and after each search."""
        if phase == "stop" and not info["generation"]:
            return
        if phase == "start":
            young = gc.get_count()[0]
            if young <= MOST_YOUNG or self._searching:
                return
            self._unsearched += young
        # This takes no time, however much there is.
        gc.freeze()
