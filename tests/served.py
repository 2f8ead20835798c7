# SPDX-License-Identifier: GPL-2.0-or-later
"""An interface of the project on a bus of its own, with plain answers, and who calls it: for tests of the connection."""

from __future__ import annotations

import asyncio
import pwd
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dbus_next import Message, MessageFlag
from dbus_next.aio import MessageBus

from lab.stranger import Stranger
from momservice.bus.connection import ERROR, Call, CallError, Connection, Export, load_interfaces
from momservice.bus.names import PATH, POLICY, XML

NAME = POLICY
PEER = "org.freedesktop.DBus.Peer"
LONG = "x" * 4096
UNREAD = 10_000
# Of users that every machine has, since dbus-daemon lets in no others.
ONE, OTHER = (pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon"))


class Served:
    """An interface of the project with plain answers. `gate` holds SetPolicy up until it is set, then it asks the bus something."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.gate = asyncio.Event()
        self.wrong = False
        self.long = LONG
        interface = load_interfaces(XML)[NAME]
        self.export = Export(interface, {method.name: self.answer for method in interface.methods}, self.guard)

    async def guard(self, call: Call) -> None:
        if call.member == "SetPolicy":
            await self.gate.wait()
            await self.connection.uid_of(call.sender)

    @staticmethod
    async def refuse(_call: Call) -> None:
        raise CallError(ERROR + "AccessDenied", "not you")

    async def answer(self, call: Call) -> Sequence[Any]:
        if self.wrong:
            raise ZeroDivisionError
        return [self.long if call.member == "GetPolicy" else 1]


def run(address: str, scenario: Callable[[Connection, Served], Awaitable[None]]) -> None:
    """Run a scenario with a connection that serves."""

    async def main() -> None:
        connection = await Connection.open(address)
        served = Served(connection)
        connection.serve(PATH, served.export)
        await scenario(connection, served)
        connection.close()
        await connection.lost()

    asyncio.run(asyncio.wait_for(main(), 300))


async def plain_server(address: str) -> MessageBus:
    """The same on dbus-next as it is."""
    bus = await MessageBus(bus_address=address).connect()
    bus.add_message_handler(lambda message: Message.new_method_return(message, "s", [LONG]) if message.path == PATH else None)
    return bus


def to(name: str, member: str, signature: str = "", *args: Any, interface: str = NAME, flags: MessageFlag = MessageFlag.NONE) -> Message:
    return Message(name, PATH, interface, member, signature=signature, body=list(args), flags=flags)


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


async def stranger(address: str, uid: int = ONE) -> Stranger:
    # In the loop's thread: to connect as another user the whole process becomes that user for a moment.
    return Stranger(address, uid)
