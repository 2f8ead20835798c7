# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells systemd how the service is (sd_notify(3)): a datagram to the socket that systemd names."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send e.g. "READY=1" or "WATCHDOG=1". Without systemd, or when it doesn't listen, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
    except OSError:
        # Nothing that systemd misses may stop the service.
        return
