# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs that go on until the user ends them: with connections of their own, in an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from momservice.bus.connection import BusLost, Connection
from momservice.client import Client, ServiceUnavailable

GONE = "the connection to the system bus is gone"


def finish(end: asyncio.Future[None]) -> None:
    """Say that the end is there."""
    if not end.done():
        end.set_result(None)


@asynccontextmanager
async def on_the_bus(deadline_s: float) -> AsyncIterator[tuple[Connection, Client, asyncio.Future[None]]]:
    """A connection for signals, a client for calls, and what is done when the user or the system wants the program to end: Ctrl-C,
    SIGTERM, the terminal is gone. Raises ServiceUnavailable.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Who starts us by nohup wants us to go on.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, finish, end)
    try:
        connection = await Connection.open()
    except BusLost as error:
        raise ServiceUnavailable(str(error)) from error
    try:
        client = await Client.connect(deadline_s=deadline_s)
        try:
            yield connection, client, end
        finally:
            await client.close()
    finally:
        connection.close()


async def first_of(end: asyncio.Future[None], connection: Connection, work: Coroutine[Any, Any, None]) -> None:
    """Work until it is done, or the end is there. Raises what the work raises, and ServiceUnavailable when the bus goes away."""
    lost, works = asyncio.ensure_future(connection.lost()), asyncio.ensure_future(work)
    await asyncio.wait({end, lost, works}, return_when=asyncio.FIRST_COMPLETED)
    lost_now = lost.done()
    for task in (lost, works):
        task.cancel()
    try:
        with suppress(asyncio.CancelledError):
            await works
    except BusLost as error:
        raise ServiceUnavailable(GONE) from error
    if lost_now:
        raise ServiceUnavailable(GONE)
