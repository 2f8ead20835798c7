# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl monitor: the service's signals as they come."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Final, TypeAlias

from momservice.bus.connection import CallError, Connection, Signal
from momservice.bus.names import MANAGER, NAME
from momservice.cli.output import finite, local_time, say
from momservice.cli.signals import is_noise, plain, told
from momservice.cli.until import first_of, on_the_bus
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import Client, ServiceUnavailable

MORE = """\
Prints a line for each, with the time, until Ctrl-C; what comes for several guests at once is a line for each. Guests are told by name as \
far as they are known. Waits for a service that isn't there, and says when it goes and comes back. With --json: an object a line, with the \
signal's arguments as they are, or with "service": "there" or "gone"."""
THERE: Final = "the service is there"
MISSING: Final = "the service is not there; start it with: systemctl start momservice"

NAMES_DEADLINE_S: Final = 5.0

# A signal, or the service's new owner; with the time in microseconds since the epoch.
Event: TypeAlias = tuple[int, Signal | str | None]


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "monitor", "print the service's signals as they come", monitor, more=MORE, parents=[json_option])
    what = "also signals that only say that figures have changed, and those of guests' objects, which say again what others do"
    verb.add_argument("--all", action="store_true", help=what)


def monitor(options: argparse.Namespace) -> int:
    """`momctl monitor`."""
    asyncio.run(_monitor(options))
    return 0


async def _monitor(options: argparse.Namespace) -> None:
    # Guests without a name yet are told by UUID rather than late.
    async with on_the_bus(NAMES_DEADLINE_S) as (connection, client, end):
        await first_of(end, connection, _Monitor(connection, client, options).run())


class _Monitor:
    """Hears and tells."""

    def __init__(self, connection: Connection, client: Client, options: argparse.Namespace) -> None:
        self._connection, self._client = connection, client
        self._as_json, self._all = options.json, options.all
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._names: dict[str, str] = {}

    async def run(self) -> None:
        """Tell until cancelled. Raises CallError or BusLost."""
        await self._connection.watch_owner(NAME, self._heard)
        subscription = await self._connection.subscribe(NAME, self._heard)
        self._heard(subscription.owner)
        while True:
            time_us, event = await self._events.get()
            if isinstance(event, Signal):
                if is_noise(event) and not self._all:
                    continue
                await self._tell_signal(time_us, event)
            else:
                await self._tell_service(time_us, event)
            sys.stdout.flush()

    def _heard(self, event: Signal | str | None) -> None:
        self._events.put_nowait((time.time_ns() // 1000, event))

    async def _tell_service(self, time_us: int, owner: str | None) -> None:
        if owner:
            await self._learn_names()
        if self._as_json:
            _say_object({"time_us": time_us, "service": "there" if owner else "gone"})
        else:
            say(f"{local_time(time_us)}  {THERE if owner else MISSING}")

    async def _tell_signal(self, time_us: int, signal: Signal) -> None:
        if self._as_json:
            where = {"path": signal.path, "interface": signal.interface, "member": signal.member}
            _say_object({"time_us": time_us, **where, "args": plain(list(signal.args))})
            return
        if (signal.interface, signal.member) == (MANAGER, "GuestsChanged"):
            await self._learn_names()
        for line in told(signal, self._names):
            say(f"{local_time(time_us)}  {line}")

    async def _learn_names(self) -> None:
        """Names of guests that have gone are kept: they may still be spoken of."""
        try:
            self._names |= dict(await self._client.active_guests())
        except (ServiceUnavailable, CallError):
            # It is gone again; the next event says so.
            return


def _say_object(value: object) -> None:
    say(json.dumps(finite(value)))
