# SPDX-License-Identifier: GPL-2.0-or-later
"""What the configuration chose."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from momservice.collectors import GuestCollector, HostCollector
from momservice.controllers import Controller, World
from momservice.fields import Schema
from momservice.hypervisor import GuestRecord


@dataclass(frozen=True, slots=True)
class Parts:
    """The collectors and controllers in use, and the names that policies may use with them."""

    schema: Schema
    host: Sequence[HostCollector]
    # What controllers need for safety, or clients see, and policies don't.
    unseen: Sequence[HostCollector]
    guest: Sequence[GuestCollector]
    controllers: Sequence[Controller]
    # Called after each guest round: sets the statistics period of new guests.
    settle: Callable[[Sequence[GuestRecord], World], Awaitable[None]]
    # Called before the first round: puts back what a service that crashed has left.
    begin: Callable[[], Awaitable[None]]
    # Called every few seconds: prolongs the lease of the knobs.
    renew: Callable[[], Awaitable[None]]
    # Called at the end: puts the knobs back.
    restore: Callable[[], Awaitable[None]]
