# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether balloons obey: keeps the targets that were sent and looks at what the balloons do about them. No I/O, no clock."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from momservice.hypervisor import GuestRecord
from momservice.hypervisor.guests_state import held_reason
from momservice.slices import Steps, each

log = logging.getLogger(__name__)

# A target that the balloon hasn't come nearer to for so long: the balloon doesn't obey.
PATIENCE_S = 30.0
# Less than this is no movement, unless the target is reached.
PROGRESS_KIB = 1024
# Balloons move in pages: this near is reached.
TOLERANCE_KIB = 64
FIRST_PROBE_S, MAX_PROBE_S = 60.0, 3600.0


@dataclass(slots=True)
class _Target:
    """A target that was sent. `from_kib`, `since_s`: where the balloon was when it last made progress, and when that was."""

    kib: int
    from_kib: int
    since_s: float
    state: Literal["moving", "reached", "stuck"] = "moving"

    @property
    def direction(self) -> int:
        return 1 if self.kib > self.from_kib else -1


@dataclass(slots=True)
class _Probing:
    """A balloon that doesn't obey, and when it may be tried again."""

    due_s: float
    back_off_s: float


class BalloonWatch:
    """What is known of each guest's balloon, by UUID. Sizes in KiB, times on the monotonic clock."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}
        self._works: dict[str, bool] = {}
        self._probing: dict[str, _Probing] = {}

    def works(self, uuid: str) -> bool | None:
        """Whether the balloon followed its targets; None when that hasn't been seen yet."""
        return self._works.get(uuid)

    def forget(self, uuid: str) -> None:
        """The guest is gone."""
        for table in (self._targets, self._works, self._probing):
            table.pop(uuid, None)

    def asked(self, uuid: str, kib: int, current_kib: int) -> bool:
        """Whether this target was sent already, or there is nothing to send: the balloon is there and was told nothing else."""
        target = self._targets.get(uuid)
        if target is None:
            return kib == current_kib
        if target.state == "stuck":
            return False
        return kib == target.kib or (target.state == "reached" and kib == current_kib)

    def may_shrink(self, uuid: str, now_s: float) -> bool:
        """False while a balloon that doesn't obey isn't due for another try."""
        probing = self._probing.get(uuid)
        return probing is None or now_s >= probing.due_s

    def sent(self, uuid: str, kib: int, current_kib: int, now_s: float) -> None:
        """Libvirt has taken a target."""
        probing = self._probing.get(uuid)
        if probing is not None and kib < current_kib:
            probing.back_off_s = min(2 * probing.back_off_s, MAX_PROBE_S)
            probing.due_s = now_s + probing.back_off_s
        before = self._targets.pop(uuid, None)
        if kib == current_kib:
            return
        target = _Target(kib, current_kib, now_s)
        # A target that moves with each cycle gives a balloon that doesn't move no more time.
        if before is not None and before.state == "moving" and before.direction == target.direction:
            target.from_kib, target.since_s = before.from_kib, before.since_s
        self._targets[uuid] = target

    def observe(self, guests: Mapping[str, GuestRecord], now_s: float) -> Steps[None]:
        """Look at the balloons of all guests there are."""
        # One that ended while its target was under way was forgotten before `sent`.
        self._targets = {uuid: target for uuid, target in self._targets.items() if uuid in guests}
        yield from each(partial(self._look, now_s), guests.values())

    def _look(self, now_s: float, record: GuestRecord) -> None:
        """Held guests don't move and aren't blamed for it."""
        target, current_kib = self._targets.get(record.uuid), record.balloon.get("current")
        if target is None:
            return
        if current_kib is None or held_reason(record):
            target.since_s = now_s
            return
        near = abs(current_kib - target.kib) <= TOLERANCE_KIB
        if target.state == "reached":
            if not near:
                # Somebody else has moved it.
                del self._targets[record.uuid]
        elif near or (current_kib - target.from_kib) * target.direction >= PROGRESS_KIB:
            target.state = "reached" if near else "moving"
            target.from_kib, target.since_s = current_kib, now_s
            self._obeys(record)
        elif now_s - target.since_s >= PATIENCE_S:
            target.state = "stuck"
            self._disobeys(record, target.kib, now_s)

    def _obeys(self, record: GuestRecord) -> None:
        self._works[record.uuid] = True
        if self._probing.pop(record.uuid, None):
            log.info("guest %s: its balloon works again", record.name)

    def _disobeys(self, record: GuestRecord, kib: int, now_s: float) -> None:
        self._works[record.uuid] = False
        if record.uuid not in self._probing:
            self._probing[record.uuid] = _Probing(now_s + FIRST_PROBE_S, FIRST_PROBE_S)
            log.warning(
                "guest %s: its balloon doesn't work: no nearer to %d KiB for %.0f s; it isn't shrunk any more", record.name, kib, PATIENCE_S
            )
