# SPDX-License-Identifier: GPL-2.0-or-later
"""GuestMemory: what the guest's balloon driver tells of the guest's memory. Hostile input, range-checked where it comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from momservice.collectors import Moment
from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.guests_state import stale_reason
from momservice.snapshot import EMPTY, Sample

# Field -> libvirt's name of the balloon statistic.
STATISTICS: Mapping[str, str] = {
    "mem_available": "available",
    "mem_unused": "unused",
    "mem_free": "usable",
    "major_fault": "major_fault",
    "minor_fault": "minor_fault",
    "swap_in": "swap_in",
    "swap_out": "swap_out",
}


class GuestMemory:
    """Memory statistics of the guest's balloon driver; none when they are older than three guest intervals."""

    NAME: ClassVar[str] = "GuestMemory"
    FIELDS: ClassVar[Sequence[Field]] = (
        Field("mem_available", "int", "KiB", "balloon statistic `available`: the guest's MemTotal"),
        Field("mem_unused", "int", "KiB", "balloon statistic `unused`: the guest's MemFree"),
        Field("mem_free", "int", "KiB", "balloon statistic `usable`: what the guest could use without swapping"),
        Field("major_fault", "int", "", "balloon statistic: page faults that needed the disk, since the guest started"),
        Field("minor_fault", "int", "", "balloon statistic: other page faults, since the guest started"),
        Field("swap_in", "int", "KiB", "balloon statistic: swapped in, since the guest started"),
        Field("swap_out", "int", "KiB", "balloon statistic: swapped out, since the guest started"),
        Field("swap_total", "int", "KiB", "the guest's swap space; told by the guest agent only"),
        Field("swap_usage", "int", "KiB", "the guest's used swap space; told by the guest agent only"),
    )

    def collect(self, guest: GuestRecord, moment: Moment) -> Sample:
        """The statistics, if they are fresh."""
        if stale_reason(guest, moment.wall_s, moment.interval_s):
            return EMPTY
        return {field: guest.balloon[name] for field, name in STATISTICS.items() if name in guest.balloon}

    def forget(self, uuid: str) -> None:
        """Nothing is kept of a guest."""


class GuestMemoryOptional(GuestMemory):
    """The same under the name of old configurations: every field is optional."""

    NAME = "GuestMemoryOptional"
