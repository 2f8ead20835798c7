# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's way to the service: calls over a connection to the bus that is opened anew after it has gone.

Service and bus may go away and come back at any time. A call meanwhile fails at once, the next one after their return succeeds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from momservice.bus.connection import ERROR, BusLost, CallError, Connection
from momservice.bus.names import NAME, PATH
from momservice.errors import typed

# A bus that takes a connection but says nothing is given up after this long.
OPEN_DEADLINE_S = 10.0
# What the bus answers for a service that isn't there and can't be started.
MISSING = tuple(ERROR + name for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "Spawn."))
# A bus lets a client wait for 128 answers. Those that a service which hangs still owes count until it ends, or until the client does.
MAX_OWED = 64
HOW_TO_START = "start it with: systemctl start momservice"
CLOSED = "the client is closed"


class ServiceUnavailable(Exception):
    """There is no service to talk to. The text is one line that says what to do."""


class Link:
    """The service on the system bus, or on the bus that `connect` connects to. All in one asyncio loop."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]] = Connection.open) -> None:
        self._connect = connect
        self._opening: asyncio.Task[Connection] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._owed = 0
        self._closed = False

    async def call(
        self, interface: str, member: str, signature: str = "", *args: Any, deadline_s: float, interactive: bool = False
    ) -> Sequence[Any]:  # fmt: skip
        """Call a method of the service and give the out-arguments.

        Raises ServiceUnavailable, the class of momservice.errors for the error reply, or CallError for others (Timeout after the deadline).
        """
        end_s = time.monotonic() + deadline_s
        try:
            connection = await self._connected(deadline_s)
            left_s = max(0.0, end_s - time.monotonic())
            answer = await connection.call(NAME, PATH, interface, member, signature, *args, deadline_s=left_s, interactive=interactive)
            self._owed = 0
            return answer
        except asyncio.CancelledError:
            self._owed += 1
            raise
        except BusLost as error:
            raise ServiceUnavailable(str(error)) from error
        except CallError as error:
            self._owed = self._owed + 1 if error.name == ERROR + "Timeout" else 0
            if error.name.startswith(MISSING):
                raise ServiceUnavailable(f"the service {NAME} does not run; {HOW_TO_START}") from error
            raise typed(error) from None

    async def open(self, deadline_s: float = OPEN_DEADLINE_S) -> None:
        """Connect now rather than with the first call. Raises ServiceUnavailable."""
        try:
            await self._connected(deadline_s)
        except BusLost as error:
            raise ServiceUnavailable(str(error)) from error

    async def close(self) -> None:
        """End the connection for good; what is under way and what comes later fails."""
        self._closed = True
        await self._leave()

    async def _leave(self) -> None:
        """End the connection; the next call may open another one."""
        opening, self._opening, self._owed = self._opening, None, 0
        if not opening:
            return
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled() and not opening.exception():
            connection = opening.result()
            connection.close()
            await connection.lost()

    async def _connected(self, deadline_s: float) -> Connection:
        """The connection, opened if there is none. However many wait for it, one is opened. Raises BusLost."""
        if self._closed:
            raise BusLost(CLOSED)
        if self._owed >= MAX_OWED:
            await self._leave()
        # One that has failed is no use to those who come later.
        if self._opening is None or (self._opening.done() and (self._opening.cancelled() or self._opening.exception())):
            self._opening = asyncio.ensure_future(self._open())
            # Nobody may be left who waits for it.
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        opening = self._opening
        await asyncio.wait({opening}, timeout=deadline_s)
        if not opening.done():
            raise BusLost("the system bus does not answer")
        if opening.cancelled():
            raise BusLost(CLOSED)
        return opening.result()

    async def _open(self) -> Connection:
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                connection = await self._connect()
        except TimeoutError:
            raise BusLost("the system bus does not answer") from None
        self._ending = asyncio.ensure_future(self._forget(connection, asyncio.current_task()))
        return connection

    async def _forget(self, connection: Connection, opening: asyncio.Task[Connection] | None) -> None:
        await connection.lost()
        if self._opening is opening:
            self._opening = None
