# SPDX-License-Identifier: GPL-2.0-or-later
"""Has guests report memory statistics: libvirt asks a balloon driver for them only if it is told how often."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from momservice.controllers import HelperUnavailable, World
from momservice.controllers.guest_helper import Result
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.guests_state import held_reason, stale_reason

log = logging.getLogger(__name__)

MAX_PERIOD_S = 3600
FIRST_BACK_OFF_S, MAX_BACK_OFF_S = 30.0, 3600.0


class PeriodSetter(Protocol):
    """What is needed of momhelper-guests."""

    async def set_stats_period(self, uuids: Sequence[str], seconds: int) -> Mapping[str, Result]:
        """Set how often these guests report statistics. Raises HelperUnavailable."""


@dataclass(slots=True)
class _Asked:
    """When a guest was last asked. Another process (`pid`) or period: a new start of the guest, or of our configuration."""

    pid: int | None
    period_s: int
    done: bool
    due_s: float
    back_off_s: float = FIRST_BACK_OFF_S


class StatsPeriod:
    """Sets the period of each guest when it is found, and again while its statistics stay away."""

    def __init__(self, helper: PeriodSetter) -> None:
        self._helper = helper
        self._asked: dict[str, _Asked] = {}
        self._retry_s = 0.0
        self._back_off_s = FIRST_BACK_OFF_S

    async def ensure(self, guests: Iterable[GuestRecord], world: World) -> None:
        """Call after each round with all guests: at most one call to the helper. What fails is logged, and tried again later."""
        here = list(guests)
        period_s = min(max(1, math.ceil(world.interval_s)), MAX_PERIOD_S)
        self._asked = {record.uuid: self._asked[record.uuid] for record in here if record.uuid in self._asked}
        due = [record for record in here if self._is_due(record, period_s, world)]
        if not due or world.monotonic_s < self._retry_s:
            return
        try:
            results = await self._helper.set_stats_period([record.uuid for record in due], period_s)
        except HelperUnavailable as error:
            log.warning("cannot set the statistics period of %d guests, trying again in %.0f s: %s", len(due), self._back_off_s, error)
            self._retry_s = world.monotonic_s + self._back_off_s
            self._back_off_s = min(2 * self._back_off_s, MAX_BACK_OFF_S)
            return
        self._back_off_s = FIRST_BACK_OFF_S
        for record in due:
            self._note(record, period_s, results.get(record.uuid, ("failed", "no answer")), world)

    def _is_due(self, record: GuestRecord, period_s: int, world: World) -> bool:
        if not record.facts.balloon or held_reason(record):
            return False
        asked = self._asked.get(record.uuid)
        if asked is None or (asked.pid, asked.period_s) != (record.pid, period_s):
            return True
        silent = not asked.done or stale_reason(record, world.wall_s, world.interval_s)
        return bool(silent) and world.monotonic_s >= asked.due_s

    def _note(self, record: GuestRecord, period_s: int, result: Result, world: World) -> None:
        before = self._asked.get(record.uuid)
        again = before is not None and (before.pid, before.period_s) == (record.pid, period_s)
        back_off_s = min(2 * before.back_off_s, MAX_BACK_OFF_S) if before is not None and again else FIRST_BACK_OFF_S
        done = result[0] == "ok"
        self._asked[record.uuid] = _Asked(record.pid, period_s, done, world.monotonic_s + back_off_s, back_off_s)
        if not done:
            log.log(logging.DEBUG if again else logging.WARNING, "guest %s: no statistics period: %s: %s", record.name, *result)
