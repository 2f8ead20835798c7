# SPDX-License-Identifier: GPL-2.0-or-later
"""A bus of one's own and a stand-in for the service on it: both can be taken away and given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from momservice.bus.connection import Call, CallError, Connection, Export, Variant, load_interfaces
from momservice.bus.names import MANAGER, NAME, PATH, POLICY, XML
from momservice.errors import InvalidPolicy, UnknownParameter
from momservice.loop_thread import LoopThread


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited for {what} in vain"
        time.sleep(0.01)


class Service:
    """Owns the service's name; a policy is refused if it has "bad" in it, and a parameter of that name. What was called is in `calls`.

    `hangs`: it answers nothing.
    """

    def __init__(self, address: str) -> None:
        self.hangs = False
        self.calls: list[tuple[Any, ...]] = []
        self._thread = LoopThread("stand-in")
        self._connection = self._thread.run(self._start(address))

    async def _start(self, address: str) -> Connection:
        connection = await Connection.open(address)
        interfaces = load_interfaces(XML)
        answers = {name: {method.name: self._answer for method in interfaces[name].methods} for name in (MANAGER, POLICY)}
        connection.serve(PATH, *(Export(interfaces[name], methods, self._guard) for name, methods in answers.items()))
        await connection.own(NAME)
        return connection

    async def _guard(self, _call: Call) -> None:
        return

    async def _answer(self, call: Call) -> Sequence[Any]:
        self.calls.append((call.member, *call.args))
        if self.hangs:
            await asyncio.Event().wait()
        match call.member:
            case "SetPolicy" if "bad" in call.args[0]:
                raise InvalidPolicy("50_main_:1:2: bad")
            case "SetParameters" if "bad" in call.args[0]:
                raise UnknownParameter("bad")
            case "Ping":
                return [True]
            case "GetHostStatistics":
                return [{"ksm_run": Variant("x", 1), "ksm_pages_sharing": Variant("x", 512)}]
            case "SetPolicy" | "SetParameters":
                return [7]
            case _:
                raise CallError("org.freedesktop.DBus.Error.NotSupported", call.member)

    def stop(self) -> None:
        """Go away as a process that ends does."""
        self._thread.run(self._end())
        self._thread.close()

    async def _end(self) -> None:
        self._connection.close()
        await self._connection.lost()
