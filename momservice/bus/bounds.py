# SPDX-License-Identifier: GPL-2.0-or-later
"""What one caller may take, so that something is left for the others: memory, turns, and lines in the log.

Part of the code that runs as root.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from momservice.bus.objects import ERROR, CallError

# What calls under way may take in all, and what each is counted with besides its body.
ROOM_BYTES = 64 << 20
CALL_BYTES = 16 << 10
SMALL_CALL_BYTES = 64 << 10
MAX_RECORDS, PER_S = 10, 60


class Room:
    """The memory that calls under way may take, in bytes.

    A user may take a quarter of what is left, so that something is left for the next. One small call every connection may always have.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._taken: Counter[object] = Counter()
        self._calls: Counter[str] = Counter()

    def take(self, user: object, sender: str, size: int) -> Charge:
        """Take room for a call. Raises CallError (LimitsExceeded)."""
        self._take(user, size, may_always=not self._calls[sender] and size <= SMALL_CALL_BYTES)
        self._calls[sender] += 1
        return Charge(user, sender, size)

    def move(self, charge: Charge, user: object) -> None:
        """Charge somebody else, or nobody if that raises CallError (LimitsExceeded)."""
        if user == charge.user:
            return
        self._give(charge.user, charge.size)
        charge.user = None
        self._take(user, charge.size, may_always=self._calls[charge.sender] == 1 and charge.size <= SMALL_CALL_BYTES)
        charge.user = user

    def give(self, charge: Charge) -> None:
        """Give back what a call took."""
        if charge.user is not None:
            self._give(charge.user, charge.size)
        self._calls[charge.sender] -= 1
        if not self._calls[charge.sender]:
            del self._calls[charge.sender]

    def _take(self, user: object, size: int, may_always: bool) -> None:
        if self._taken[user] + size > self._left // 4 and not may_always:
            raise CallError(ERROR + "LimitsExceeded", "too many calls under way: try again later")
        self._taken[user] += size
        self._left -= size

    def _give(self, user: object, size: int) -> None:
        self._left += size
        self._taken[user] -= size
        if not self._taken[user]:
            del self._taken[user]


@dataclass(slots=True)
class Charge:
    """What a call has taken. `user`: who is charged, None: nobody."""

    user: object
    sender: str
    size: int


class Turns:
    """What waits to be done. Users take turns, and a user's connections do, however much one of them has waiting."""

    def __init__(self) -> None:
        self._users: dict[object, dict[str, deque[Callable[[], None]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._users)

    def put(self, user: object, sender: str, work: Callable[[], None]) -> None:
        """Add something to be done."""
        self._users.setdefault(user, {}).setdefault(sender, deque()).append(work)

    def take(self) -> Callable[[], None]:
        """What is to be done next."""
        # Whoever had a turn goes to the end.
        user, senders = next(iter(self._users.items()))
        sender, works = next(iter(senders.items()))
        del self._users[user], senders[sender]
        work = works.popleft()
        if works:
            senders[sender] = works
        if senders:
            self._users[user] = senders
        return work


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
