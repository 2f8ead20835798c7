# SPDX-License-Identifier: GPL-2.0-or-later
"""What one caller may take, so that something is left for the others: memory, and lines in the log.

Part of the code that runs as root.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from momservice.bus.objects import ERROR, CallError

# What calls under way may take in all, and what each is counted with besides its body.
ROOM_BYTES = 64 << 20
CALL_BYTES = 16 << 10
SMALL_CALL_BYTES = 64 << 10
MAX_RECORDS, PER_S = 10, 60


class Room:
    """The memory that calls under way may take, in bytes.

    A user may take a quarter of what is left, so that something is left for the next. One small call everyone may always have.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._taken: Counter[object] = Counter()

    def take(self, user: object, size: int) -> None:
        """Take room for a call, to be given back. Raises CallError (LimitsExceeded)."""
        taken = self._taken[user]
        if taken + size > self._left // 4 and (taken or size > SMALL_CALL_BYTES):
            if not taken:
                del self._taken[user]
            raise CallError(ERROR + "LimitsExceeded", "too many calls under way: try again later")
        self._taken[user] += size
        self._left -= size

    def give(self, user: object, size: int) -> None:
        """Give back what a call took."""
        self._left += size
        self._taken[user] -= size
        if not self._taken[user]:
            del self._taken[user]

    def charge(self, user: object, size: int) -> Charge:
        """Take, as something that can be moved and ended."""
        self.take(user, size)
        return Charge(self, user, size)


class Charge:
    """What a call has taken."""

    def __init__(self, room: Room, user: object, size: int) -> None:
        self._room, self._user, self._size = room, user, size

    def move(self, user: object) -> None:
        """Charge somebody else. Raises CallError (LimitsExceeded); nobody is charged then."""
        if user != self._user:
            self.end()
            self._room.take(user, self._size)
            self._user = user

    def end(self) -> None:
        """Give it back."""
        if self._user is not None:
            self._room.give(self._user, self._size)
            self._user = None


class Minutely:
    """Lets one record of each kind a minute through, and counts the others. Kinds are ours, so that they are few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def due(self, kind: str) -> str | None:
        """None: not now. Otherwise what to add to the record: how many were left out, or ""."""
        now = self._clock()
        if now - self._since.get(kind, -PER_S) < PER_S:
            self._left_out[kind] += 1
            return None
        self._since[kind] = now
        left_out = self._left_out.pop(kind, 0)
        return f" (and {left_out} more like this since the last such line)" if left_out else ""


class Seldom(logging.Filter):
    """Lets a few records a minute through: what callers can cause must not fill the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since, self._count = clock(), 0

    def filter(self, _record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        if self._clock() - self._since >= PER_S:
            self._since, self._count = self._clock(), 0
        self._count += 1
        return self._count <= MAX_RECORDS
