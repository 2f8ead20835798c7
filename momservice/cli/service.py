# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl's connection to the service."""

from __future__ import annotations

import sys

from momservice.bus.names import UUID
from momservice.cli.output import Problem
from momservice.client import BlockingClient


def connected() -> BlockingClient:
    """A client. Where a person sits at the terminal, polkit may ask for a password."""
    return BlockingClient(interactive=sys.stdin is not None and sys.stdin.isatty())


def guest_uuid(client: BlockingClient, guest: str) -> str:
    """The UUID of a guest by name or UUID. Raises Problem."""
    if UUID.fullmatch(guest.lower()):
        return guest
    found = [uuid for uuid, name in client.active_guests() if name == guest]
    if not found:
        raise Problem(f"no guest named {guest} is monitored; `momctl stats` lists those that are")
    return found[0]
