# SPDX-License-Identifier: GPL-2.0-or-later
"""All collectors by the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from momservice.collectors import GuestCollector, HostCollector
from momservice.collectors.guest_balloon import GuestBalloon, GuestBalloonOptional
from momservice.collectors.guest_libvirt import GuestLibvirt
from momservice.collectors.guest_memory import GuestMemory, GuestMemoryOptional
from momservice.collectors.guest_qemu_proc import GuestQemuProc
from momservice.collectors.guest_state import GuestState
from momservice.collectors.host_cpu import HostCpu
from momservice.collectors.host_ksm import HostKSM
from momservice.collectors.host_memory import HostMemory
from momservice.collectors.host_pressure import HostPressure
from momservice.collectors.host_time import HostTime

HOST: Final[Mapping[str, type[HostCollector]]] = {part.NAME: part for part in (HostMemory, HostKSM, HostPressure, HostCpu, HostTime)}
GUEST: Final[Mapping[str, type[GuestCollector]]] = {
    part.NAME: part
    for part in (GuestMemory, GuestMemoryOptional, GuestBalloon, GuestBalloonOptional, GuestLibvirt, GuestQemuProc, GuestState)
}


def make_guest(name: str, works: Callable[[str], bool | None]) -> GuestCollector:
    """A collector by its name. `works`: what the Balloon controller has seen of a guest's balloon, by UUID."""
    return GuestState(works) if name == GuestState.NAME else GUEST[name]()
