# SPDX-License-Identifier: GPL-2.0-or-later
"""GuestState: what can be done with a guest at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from momservice.collectors import Moment
from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.guests_state import held_reason, stale_reason
from momservice.snapshot import Sample, Value


class GuestState:
    """Held or not, whether its balloon obeys, whether KSM can merge it; its settings, once there are such.

    `works`: what the Balloon controller has seen of the guest's balloon, by UUID; None when it has seen nothing.
    """

    NAME: ClassVar[str] = "GuestState"
    FIELDS: ClassVar[Sequence[Field]] = (
        Field("held", "bool", "", "paused, migrating or otherwise not to be touched"),
        Field("balloon_works", "bool", "", "false: no device, no driver, no fresh statistics, or a target not approached for 30 s"),
        Field("mergeable", "bool", "", "false: nosharepages, huge pages, shared memory or encrypted"),
        Field("shares", "int", "", "setting: the guest's weight when memory is short"),
        Field("balloon_enabled", "bool", "", "setting: whether the guest may be ballooned"),
        Field("ksm_enabled", "bool", "", "setting: whether the guest's memory may be merged"),
        Field("swap_limit", "int", "KiB", "setting: how much of the guest may be swapped out"),
    )

    def __init__(self, works: Callable[[str], bool | None] = lambda uuid: None) -> None:
        self._works = works

    def collect(self, guest: GuestRecord, moment: Moment) -> Sample:
        """All but the settings; `balloon_works` not for a held guest whose balloon nobody has tried."""
        sample: dict[str, Value] = {"held": bool(held_reason(guest)), "mergeable": not guest.facts.unmergeable}
        works = self._balloon_works(guest, moment)
        return sample if works is None else {**sample, "balloon_works": works}

    def _balloon_works(self, guest: GuestRecord, moment: Moment) -> bool | None:
        works = self._works(guest.uuid)
        if not guest.facts.balloon or works is False:
            return False
        # A held guest's statistics stand still; that says nothing of its driver.
        return works if held_reason(guest) else not stale_reason(guest, moment.wall_s, moment.interval_s)

    def forget(self, uuid: str) -> None:
        """Nothing is kept of a guest."""
