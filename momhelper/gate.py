# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may call a helper, and how often: only the present owner of org.ovirt.Mom1, running as user `mom`.

The bus policy says the same first; this is the second lock, for a bus (dbus-broker activates before it denies) or an administrator's
policy file that lets somebody else through.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable

from momservice.bus.connection import ERROR, Call, CallError, Connection

SERVICE_NAME = "org.ovirt.Mom1"
SERVICE_USER = "mom"


class TokenBucket:
    """At most `burst` takes at once and `per_s` a second on average."""

    def __init__(self, burst: float, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_s, self._clock = burst, per_s, clock
        self._tokens, self._then = burst, clock()

    def take(self) -> bool:
        """Take one token; False if there is none."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._per_s)
        self._then = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Gate:
    """The guard of a helper's methods; keeps an eye on who owns the service's name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._owner: str | None = None
        self._verified: str | None = None  # The unique name whose uid has been checked. The bus never uses one twice.
        self._bucket = TokenBucket(burst=20, per_s=1)

    async def open(self) -> None:
        """Begin to watch the service's name; until then everyone is refused."""
        self._set_owner(await self._connection.watch_owner(SERVICE_NAME, self._set_owner))

    @property
    def service_present(self) -> bool:
        """Whether somebody owns the service's name."""
        return self._owner is not None

    def _set_owner(self, owner: str | None) -> None:
        self._owner = owner

    async def check(self, call: Call) -> None:
        """Let the call pass or raise CallError (AccessDenied, LimitsExceeded)."""
        if call.sender != self._owner or not await self._is_service_user(call.sender):
            raise CallError(ERROR + "AccessDenied", "only momservice may call this helper")
        if not self._bucket.take():
            raise CallError(ERROR + "LimitsExceeded", "too many calls: 20 at once and 1 a second are allowed")

    async def _is_service_user(self, sender: str) -> bool:
        if sender != self._verified and await self._connection.uid_of(sender) == service_uid():
            self._verified = sender
        return sender == self._verified


def service_uid() -> int:
    """The user id of momservice. Raises CallError when the user doesn't exist: then nobody is let in."""
    try:
        return pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        raise CallError(ERROR + "AccessDenied", f"there is no user '{SERVICE_USER}': install the package again") from None
