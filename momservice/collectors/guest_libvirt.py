# SPDX-License-Identifier: GPL-2.0-or-later
"""GuestLibvirt: all that the bulk call tells of a guest, with the field names of 2011."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from momservice.collectors import Moment
from momservice.collectors.guest_balloon import GuestBalloon
from momservice.collectors.guest_memory import GuestMemory
from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.snapshot import Sample


class GuestLibvirt:
    """The fields of GuestMemory and GuestBalloon, and three more."""

    NAME: ClassVar[str] = "GuestLibvirt"
    FIELDS: ClassVar[Sequence[Field]] = (
        *GuestMemory.FIELDS,
        *GuestBalloon.FIELDS,
        Field("libvirt_curmem", "int", "KiB", "= `balloon_cur`"),
        Field("libvirt_maxmem", "int", "KiB", "= `balloon_max`"),
        Field("libvirt_state", "int", "", "libvirt's domain state: 1 running, 3 paused, 4 shutting down..."),
    )

    def __init__(self) -> None:
        self._memory, self._balloon = GuestMemory(), GuestBalloon()

    def collect(self, guest: GuestRecord, moment: Moment) -> Sample:
        """Whatever of all this has a value."""
        balloon = self._balloon.collect(guest, moment)
        again = {"libvirt_curmem": balloon.get("balloon_cur"), "libvirt_maxmem": balloon.get("balloon_max")}
        told = {field: value for field, value in again.items() if value is not None}
        return {**self._memory.collect(guest, moment), **balloon, **told, "libvirt_state": guest.state}

    def forget(self, uuid: str) -> None:
        """Nothing is kept of a guest."""
