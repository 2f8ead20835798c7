# SPDX-License-Identifier: GPL-2.0-or-later
"""What we have sent and others haven't read.

Part of the code that runs as root. dbus-daemon keeps it, and takes nothing more from us while that is 127 MiB in all: whoever asks and
never reads could cut us off. It tells how much waits for whom; dbus-broker doesn't, and needn't, since it charges those who don't read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from heapq import nlargest
from operator import itemgetter

from momservice.bus.bounds import Seldom
from momservice.bus.objects import CallError
from momservice.bus.wire import BusLost, Reply, outcome

# What answers may be unread in all; a user's may be a quarter of what is left, and refusals a little more.
ROOM_BYTES, SPARE_BYTES = 64 << 20, 1 << 20
# While the bus keeps more of ours than this signals are dropped. It is asked after so much more.
KEPT_BYTES, LOOK_BYTES = 48 << 20, 4 << 20
# What each message is counted with besides itself, so that there aren't too many receivers to ask about.
MESSAGE_BYTES = 256
# Receivers of a user's that the bus is asked about at a time, and how long it isn't asked again about this user.
MAX_ASKED, AGAIN_S = 20, 0.05
# How often an answer that mustn't be sent yet is tried again: callers that are at it may have read some by then.
TRIES = 20
NO_OWNER = "org.freedesktop.DBus.Error.NameHasNoOwner"

log = logging.getLogger(__name__)
log.addFilter(Seldom())

Ask = Callable[[str], "asyncio.Future[Reply | None]"]


class Answers:
    """Those that may be unread. `ask`: asks the bus for its statistics about the connection with this name."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._held: dict[object, dict[str, int]] = {}
        self._of_user: Counter[object] = Counter()
        # User -> what is done when the bus has told all that it was asked about it.
        self._counting: dict[object, asyncio.Future[None]] = {}
        self._counted_s: dict[object, float] = {}
        # Receiver -> what it was sent since the bus was asked about it.
        self._since: dict[str, int] = {}
        # Whether the bus has been asked: at once, for one that doesn't tell must restrict nobody.
        self._asked = False
        self._blind = False

    async def room(self, user: object, receiver: str, size: int) -> bool:
        """Count an answer as `take`, perhaps after a second; False if it mustn't be sent even then."""
        for _ in range(TRIES):
            if self.take(user, receiver, size):
                return True
            # Nothing is counted of a user for whom others have left nothing.
            await asyncio.shield(self._counting[user]) if user in self._counting else await asyncio.sleep(AGAIN_S)
        return False

    def take(self, user: object, receiver: str, size: int, spare: int = 0) -> bool:
        """Count an answer of so many bytes; False if it mustn't be sent. `user`: who receives it, None: nobody knows."""
        if self._blind:
            return True
        size += MESSAGE_BYTES
        if self._of_user[user] + size > self._share() + spare:
            # Refusals aren't waited with.
            self._count(user)
            return False
        self._add(user, receiver, size)
        if receiver in self._since:
            self._since[receiver] += size
        if not self._asked:
            self._count(user)
        return True

    async def settled(self, user: object) -> None:
        """Before this user's next call: if much may be unread wait until the bus has told what is."""
        if user in self._held and 2 * self._of_user[user] > self._share():
            self._count(user)
            await asyncio.shield(self._counting[user])

    def _share(self) -> int:
        """What a user may have unread."""
        return (ROOM_BYTES - self._of_user.total()) // 4

    def _add(self, user: object, receiver: str, size: int) -> None:
        held = self._held.setdefault(user, {})
        held[receiver] = held.get(receiver, 0) + size
        self._of_user[user] += size
        if not held[receiver]:
            del held[receiver]
        if not held:
            del self._held[user], self._of_user[user]

    def _count(self, user: object) -> None:
        """Ask the bus what the receivers of most have read."""
        if user not in self._counting and user in self._held:
            loop = asyncio.get_running_loop()
            self._asked, self._counting[user] = True, loop.create_future()
            wait_s = self._counted_s.get(user, -AGAIN_S) + AGAIN_S - loop.time()
            loop.call_later(max(0.0, wait_s), self._ask_about, user, self._counting[user])

    def _ask_about(self, user: object, counted: asyncio.Future[None]) -> None:
        most = nlargest(MAX_ASKED, self._held[user].items(), itemgetter(1)) if user in self._held else []
        asked = {receiver for receiver, _ in most}

        def told(receiver: str, reply: asyncio.Future[Reply | None]) -> None:
            self._told(user, receiver, reply.result())
            asked.remove(receiver)
            if not asked:
                end()

        def end() -> None:
            self._counted_s[user] = counted.get_loop().time()
            del self._counting[user]
            counted.set_result(None)

        for receiver in [*asked]:
            self._since[receiver] = 0
            self._ask(receiver).add_done_callback(partial(told, receiver))
        if not asked:
            end()

    def _told(self, user: object, receiver: str, reply: Reply | None) -> None:
        since = self._since.pop(receiver, 0)
        try:
            unread = figure(reply, "OutgoingBytes")
        except LookupError as error:
            log.info("the bus doesn't tell what others have read: %s", error)
            self._blind = True
            self._held.clear()
            self._of_user.clear()
        if not self._blind:
            before = self._held[user][receiver]
            # Others may have sent it something as well.
            self._add(user, receiver, min(unread + since, before) - before)


class Signals:
    """Those that may be unread, which many receive: counted by what the bus keeps of ours in all.

    `ask`: as for answers. `sent`: how many bytes in all, for whoever sends them to add to.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.sent = self._looked = self._kept = 0
        self._looking = self._blind = False

    def may(self, ourselves: str) -> bool:
        """Whether one may be sent. `ourselves`: our name."""
        if self.sent - self._looked >= LOOK_BYTES or self._kept > KEPT_BYTES:
            self._look(ourselves)
        if self._kept > KEPT_BYTES:
            log.warning("somebody doesn't read what the bus has for it from us, %d MiB: signals are dropped", self._kept >> 20)
            return False
        return True

    def _look(self, ourselves: str) -> None:
        if not self._looking and not self._blind:
            self._looking, self._looked = True, self.sent
            self._ask(ourselves).add_done_callback(lambda reply: self._told(reply.result()))

    def _told(self, reply: Reply | None) -> None:
        self._looking = False
        try:
            self._kept = figure(reply, "IncomingBytes")
        except LookupError:
            self._blind = True


def figure(reply: Reply | None, name: str) -> int:
    """One of the bus's statistics, 0 for a connection that has left or when ours has ended. Raises LookupError if there are none."""
    try:
        (told,) = outcome(reply)
        return int(told[name].value)
    except BusLost:
        return 0
    except CallError as error:
        if error.name == NO_OWNER:
            return 0
        raise LookupError(error) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise LookupError(error) from error
