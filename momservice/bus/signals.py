# SPDX-License-Identifier: GPL-2.0-or-later
"""The signals of org.ovirt.Mom1.Manager and org.ovirt.Mom1.Policy: what the engine tells, gathered over a cycle.

They reach every local user, so no guest's name and no policy's text may get into them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from momservice.bus.changes import Emits
from momservice.bus.connection import Interface, clean
from momservice.bus.names import MANAGER, MAX_ENTRIES, MAX_SIGNAL_CHARACTERS, PATH, POLICY
from momservice.bus.variants import to_variants
from momservice.controllers import SENT, Outcome, World
from momservice.controllers.balloon import TARGET
from momservice.hypervisor import GuestRecord
from momservice.policy import Place
from momservice.pressure import Pressure
from momservice.slices import Steps, each
from momservice.snapshot import HOST, Value
from momservice.text import shown
from momservice.watching import PolicyRun, Watcher

FAILED = ("refused", "failed")


@dataclass(slots=True)
class _Cycle:
    """What is told at the end of a cycle."""

    targets: list[list[Any]] = field(default_factory=list)
    failed: list[list[str]] = field(default_factory=list)


class Signals(Watcher):
    """Sends each kind of signal at most once a cycle."""

    def __init__(self, emits: Emits, interfaces: Mapping[str, Interface], pressure: Pressure) -> None:
        self._emits, self._interfaces, self._pressure = emits, interfaces, pressure
        self._guests: Mapping[str, GuestRecord] = {}
        self._states: dict[str, list[str]] = {}
        self._cycle = _Cycle()
        # By UUID, in KiB: where balloons were last told to go.
        self._targets: dict[str, int] = {}
        # By entity and control: why, without figures, as it was told last.
        self._reasons: dict[tuple[str, str], str] = {}
        self._failures: frozenset[tuple[str, str, str, int]] = frozenset()

    def state_changed(self, uuid: str, state: str, reasons: Sequence[str]) -> None:
        """A guest has another state or other reasons for it; told with the sample in which that was seen."""
        self._states[uuid] = [uuid, state, clean("; ".join(reasons))]

    # As a watcher

    def sampled(self, world: World) -> None:
        """See Watcher."""
        self._guests = world.guests
        for uuid in self._targets.keys() - world.guests.keys():
            del self._targets[uuid]
        if self._pressure.update(world.host):
            self._send(MANAGER, "PressureChanged", self._pressure.level, self._pressure.some, self._pressure.full)
        states, self._states = [*self._states.values()][:MAX_ENTRIES], {}
        if states:
            self._send(MANAGER, "GuestStateChanged", states)

    def guests_changed(self, added: Sequence[str], removed: Sequence[str]) -> None:
        """See Watcher."""
        self._send(MANAGER, "GuestsChanged", [*added[:MAX_ENTRIES]], [*removed[:MAX_ENTRIES]])

    def policies_changed(self, generation: int, names: Sequence[str]) -> None:
        """See Watcher."""
        self._send(POLICY, "PolicyChanged", generation, [clean(name) for name in names[:MAX_ENTRIES]])

    def parameters_changed(self, values: Mapping[str, Value]) -> None:
        """See Watcher."""
        self._send(POLICY, "ParametersChanged", to_variants(dict([*values.items()][:MAX_ENTRIES])))

    def ran(self, run: PolicyRun) -> None:
        """See Watcher."""
        found = [(f.entity or HOST, f.code, shown(f.place.fragment), f.place.line) for f in run.decisions.failures]
        before, self._failures = self._failures, frozenset(found)
        if self._failures - before:
            self._send(MANAGER, "EvaluationFailed", [list(failure) for failure in dict.fromkeys(found)][:MAX_ENTRIES])
        elif before and not self._failures:
            self._send(MANAGER, "EvaluationRecovered")

    def applied(self, run: PolicyRun, outcomes: Sequence[Outcome]) -> Steps[None]:
        """See Watcher."""
        places = {control.entity: control.place for control in run.decisions.controls if control.name == TARGET.name}
        yield from each(partial(self._applied, places), outcomes)

    def _applied(self, places: Mapping[str, Place], outcome: Outcome) -> None:
        if outcome.control == TARGET.name and outcome.status in SENT and outcome.applied is not None:
            self._target(outcome, outcome.applied, str(places.get(outcome.entity, "")))
        self._judge(outcome)

    def acted(self, run: PolicyRun) -> None:
        """See Watcher."""
        wanted = {(control.entity, control.name) for control in run.decisions.controls}
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in wanted}
        cycle, self._cycle = self._cycle, _Cycle()
        if cycle.targets:
            self._send(MANAGER, "BalloonTargetsChanged", cycle.targets[:MAX_ENTRIES])
        if cycle.failed:
            self._send(MANAGER, "ControlFailed", cycle.failed[:MAX_ENTRIES])

    def _target(self, outcome: Outcome, kib: int, place: str) -> None:
        record = self._guests.get(outcome.entity)
        old = self._targets.get(outcome.entity) or (record.balloon.get("current", 0) if record else 0)
        self._targets[outcome.entity] = kib
        reason = ": ".join(filter(None, (shown(place), self._public(outcome.entity, outcome.reason))))
        self._cycle.targets.append([outcome.entity, old * 1024, kib * 1024, time.time_ns() // 1000, reason])

    def _judge(self, outcome: Outcome) -> None:
        key = (outcome.entity, outcome.control)
        if outcome.status not in FAILED:
            self._reasons.pop(key, None)
            return
        # Ages and sizes in it change with every run and are no news.
        reason = re.sub(r"\d+", "#", outcome.reason)
        if self._reasons.get(key) != reason:
            self._reasons[key] = reason
            self._cycle.failed.append([outcome.entity, outcome.control, self._public(outcome.entity, outcome.reason)])

    def _public(self, entity: str, reason: str) -> str:
        """A reason as everybody may read it: libvirt's errors name guests."""
        record = self._guests.get(entity)
        if record and record.name:
            reason = re.sub(rf"(?<!\w){re.escape(record.name)}(?!\w)", "...", reason)
        return shown(reason, MAX_SIGNAL_CHARACTERS)

    def _send(self, interface: str, member: str, *args: Any) -> None:
        self._emits.emit(PATH, interface, member, self._interfaces[interface].signals[member], *args)
