# SPDX-License-Identifier: GPL-2.0-or-later
"""All collectors by the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from momservice.collectors import GuestCollector
from momservice.collectors.guest_balloon import GuestBalloon, GuestBalloonOptional
from momservice.collectors.guest_libvirt import GuestLibvirt
from momservice.collectors.guest_memory import GuestMemory, GuestMemoryOptional
from momservice.collectors.guest_qemu_proc import GuestQemuProc
from momservice.collectors.guest_state import GuestState

GUEST: Final[Mapping[str, type[GuestCollector]]] = {
    part.NAME: part
    for part in (GuestMemory, GuestMemoryOptional, GuestBalloon, GuestBalloonOptional, GuestLibvirt, GuestQemuProc, GuestState)
}


def make_guest(name: str, works: Callable[[str], bool | None]) -> GuestCollector:
    """A collector by its name. `works`: what the Balloon controller has seen of a guest's balloon, by UUID."""
    return GuestState(works) if name == GuestState.NAME else GUEST[name]()
