# SPDX-License-Identifier: GPL-2.0-or-later
"""Throw-away hosts by the bus that they have, for what must work with either."""

from pathlib import Path

from lab.anyhost import AnyHost
from lab.booted import BootedHost
from lab.buses import BROKER, DAEMON
from lab.host import Host

HOSTS: dict[str, type[AnyHost]] = {DAEMON: Host, BROKER: BootedHost}


def host_with(bus: str, *, service: bool = True, policy: Path | None = None, drop_in: str = "") -> AnyHost:
    """A host with dbus-daemon, where the lab starts what runs, or with dbus-broker, where systemd does; for the rest as AnyHost says.

    Neither has libvirt, nor KSM knobs that can be written.
    """
    return HOSTS[bus](guests=0, libvirt=False, service=service, ksm=False, policy=policy, drop_in=drop_in)
