# SPDX-License-Identifier: GPL-2.0-or-later
"""Balloon: sets guests' balloon targets, where that is safe and of use. One call to momhelper-guests a cycle for all guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

from momservice.controllers import Outcome, Status, World
from momservice.controllers.balloon_watch import BalloonWatch
from momservice.controllers.guest_helper import Result
from momservice.controllers.values import ValueRefused, clamp, to_integer
from momservice.decisions import Wanted
from momservice.fields import Control
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.facts import MAX_KIB
from momservice.hypervisor.guests_state import NO_BALLOON, held_reason, stale_reason
from momservice.slices import each, in_turns

TARGET = Control(
    "balloon_target",
    "guest",
    "KiB",
    1024,
    MAX_KIB,
    "memory that the balloon leaves to the guest, clamped to [`balloon_min`, `balloon_max`]; not sent when it changes nothing, when the "
    "guest is held, or (shrinking) when its statistics are missing or older than three guest intervals or its balloon doesn't work",
)


class MemorySetter(Protocol):
    """What is needed of momhelper-guests."""

    async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
        """Set balloon targets by UUID. Raises HelperUnavailable."""

    async def probe(self) -> None:
        """Ask the helper whether it is there. Raises HelperUnavailable."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A target to be sent. `clamped`: why it isn't what was wanted, "" if it is."""

    wanted: Wanted
    kib: int
    current_kib: int
    clamped: str


class _NotSent(Exception):
    """A target that isn't sent, and why."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason


class Balloon:
    """The guest control `balloon_target`."""

    NAME: ClassVar[str] = "Balloon"
    CONTROLS: ClassVar[Sequence[Control]] = (TARGET,)

    def __init__(self, helper: MemorySetter) -> None:
        self._helper = helper
        self._watch = BalloonWatch()

    def works(self, uuid: str) -> bool | None:
        """Whether the guest's balloon followed its targets; None when that hasn't been seen yet."""
        return self._watch.works(uuid)

    def forget(self, uuid: str) -> None:
        """The guest is gone."""
        self._watch.forget(uuid)

    async def probe(self) -> None:
        """Ask the helper whether it is there. Raises HelperUnavailable."""
        await self._helper.probe()

    async def apply(self, wanted: Sequence[Wanted], world: World) -> list[Outcome]:
        """Send what is safe. Raises HelperUnavailable if nothing of it could be sent."""
        await in_turns(self._watch.observe(world.guests, world.monotonic_s))
        mine = (control for control in wanted if control.name == TARGET.name)
        planned = await in_turns(each(partial(self._planned, world=world), mine))
        outcomes = [plan for plan in planned if isinstance(plan, Outcome)]
        return outcomes + await self._send([plan for plan in planned if isinstance(plan, _Plan)], world)

    def _planned(self, wanted: Wanted, world: World) -> _Plan | Outcome | None:
        """What to send, or what became of it already; None for nil."""
        try:
            return self._plan(wanted, world)
        except _NotSent as error:
            return Outcome(wanted.entity, TARGET.name, wanted.value, None, error.status, error.reason)

    def _plan(self, wanted: Wanted, world: World) -> _Plan | None:
        """What to send; None for nil. Raises _NotSent."""
        try:
            number = to_integer(TARGET, wanted.value)
        except ValueRefused as error:
            raise _NotSent("refused", str(error)) from error
        if number is None:
            return None
        record = world.guests.get(wanted.entity)
        if record is None:
            raise _NotSent("refused", "the guest is gone")
        if reason := held_reason(record):
            raise _NotSent("held", reason)
        if not record.facts.balloon:
            raise _NotSent("refused", NO_BALLOON)
        return self._fit(wanted, number, record, world)

    def _fit(self, wanted: Wanted, number: int, record: GuestRecord, world: World) -> _Plan:
        current_kib, maximum_kib = record.balloon.get("current"), record.balloon.get("maximum")
        if current_kib is None or maximum_kib is None:
            raise _NotSent("refused", "libvirt doesn't tell the size of the guest's balloon")
        minimum_kib = min(record.facts.min_guarantee_kib, maximum_kib)
        if not number and not minimum_kib:
            raise _NotSent("refused", "a target of 0 would take all of the guest's memory")
        kib = max(min(clamp(TARGET, number), maximum_kib), minimum_kib)
        clamped = "" if kib == number else f"clamped to the guest's {'minimum' if kib > number else 'maximum'}, {kib} KiB"
        if self._watch.asked(record.uuid, kib, current_kib):
            raise _NotSent("unchanged", clamped)
        if kib < current_kib and (reason := self._no_shrink_reason(record, world)):
            raise _NotSent("refused", reason)
        return _Plan(wanted, kib, current_kib, clamped)

    def _no_shrink_reason(self, record: GuestRecord, world: World) -> str:
        if reason := stale_reason(record, world.wall_s, world.interval_s):
            return f"not shrunk: {reason}"
        return "" if self._watch.may_shrink(record.uuid, world.monotonic_s) else "not shrunk: the guest's balloon doesn't work"

    async def _send(self, plans: Sequence[_Plan], world: World) -> list[Outcome]:
        if not plans:
            return []
        results = await self._helper.set_memory({plan.wanted.entity: plan.kib * 1024 for plan in plans})
        silence = ("failed", "momhelper-guests says nothing of it")
        return await in_turns(each(lambda plan: self._outcome(plan, results.get(plan.wanted.entity, silence), world), plans))

    def _outcome(self, plan: _Plan, result: Result, world: World) -> Outcome:
        told, message = result
        if told == "ok":
            self._watch.sent(plan.wanted.entity, plan.kib, plan.current_kib, world.monotonic_s)
            status: Status = "clamped" if plan.clamped else "applied"
            return Outcome(plan.wanted.entity, TARGET.name, plan.wanted.value, plan.kib, status, plan.clamped)
        # A job that has started since libvirt was asked.
        status = "held" if told == "busy" else "failed"
        return Outcome(plan.wanted.entity, TARGET.name, plan.wanted.value, None, status, f"{told}: {message}")
