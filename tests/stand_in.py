# SPDX-License-Identifier: GPL-2.0-or-later
"""A bus of one's own and a stand-in for the service on it: both can be taken away and given back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from momservice.bus.connection import Call, CallError, Connection, Export, Variant, load_interfaces
from momservice.bus.names import MANAGER, NAME, PATH, POLICY, XML
from momservice.errors import InvalidPolicy
from momservice.loop_thread import LoopThread

CONFIGURATION = """<busconfig><type>system</type><listen>unix:path={0}</listen><auth>EXTERNAL</auth>
<limit name="max_replies_per_connection">128</limit>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited for {what} in vain"
        time.sleep(0.01)


class Bus:
    """A dbus-daemon that always has the same address."""

    def __init__(self, folder: Path) -> None:
        self._path, self._configuration = folder / "bus", folder / "bus.conf"
        self._configuration.write_text(CONFIGURATION.format(self._path))
        self.address = f"unix:path={self._path}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._path.unlink(missing_ok=True)
        command = ["dbus-daemon", f"--config-file={self._configuration}", "--nofork", "--print-address"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Take it away without a word."""
        self.signal(signal.SIGKILL)
        self._process.communicate()


class Service:
    """Owns the service's name; a policy is refused if it has "bad" in it. What was called is in `calls`. `hangs`: it answers nothing."""

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
