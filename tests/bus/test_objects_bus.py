# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects, large answers and signals over real buses, read by other programs than ours."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from dbus_next import Message, MessageType
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface

# What the engine's stand-ins are: the unit tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_bus_signals import A, B, C, Scene

from lab.buses import PrivateBus
from momservice.bus.connection import Connection, Marshalled, Signal
from momservice.bus.marshal import array, texts
from momservice.bus.names import GUEST, MANAGER, OBJECT_MANAGER, PATH, guest_path
from momservice.bus.reading import Header
from momservice.bus.service import publish
from momservice.bus.wire import MAX_QUEUED_BYTES
from momservice.client import Client, GuestState
from momservice.hypervisor import Facts
from momservice.hypervisor.guests_state import NO_BALLOON

NAME = "org.ovirt.Mom1"
MANY = [f"00000000-0000-4000-8000-{number:012}" for number in range(450)]


def run(address: str, scene: Scene, scenario: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with the scene's engine on the bus."""

    async def main() -> None:
        connection = await Connection.open(address)
        publish(connection, scene.bench.engine, scene.bench.store, scene.explainer, scene.working.get)
        await connection.own(NAME)
        await scene.cycle()
        await scenario(connection)
        connection.close()
        await connection.lost()

    asyncio.run(asyncio.wait_for(main(), 120))


async def busctl(address: str, *arguments: str) -> Any:
    """What busctl says, as JSON without types."""
    command = ["busctl", f"--address={address}", "--json=short", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def test_another_library_reads_the_large_answers_as_they_are(address: str) -> None:
    scene = Scene()
    scene.bench.source.answer = [scene.record(uuid, f"vm \u00e4{uuid[-4:]}", state=1 + number % 3) for number, uuid in enumerate(MANY)]

    async def scenario(_connection: Connection) -> None:
        host, guests = await busctl(address, "call", NAME, PATH, MANAGER, "GetStatistics")
        assert {name: value["data"] for name, value in host.items()} == scene.bench.engine.statistics()[0]
        assert list(guests) == MANY
        assert guests[MANY[-1]] == {"mem": {"type": "x", "data": 7}}
        ((*pairs,),) = await busctl(address, "call", NAME, PATH, MANAGER, "GetActiveGuests")
        assert pairs == [list(pair) for pair in scene.bench.engine.active_guests()]
        (objects,) = await busctl(address, "call", NAME, PATH, OBJECT_MANAGER, "GetManagedObjects")
        assert list(objects) == [guest_path(uuid) for uuid in MANY]
        for uuid in (MANY[0], MANY[-1]):
            (properties,) = await busctl(address, "call", NAME, guest_path(uuid), "org.freedesktop.DBus.Properties", "GetAll", "s", GUEST)
            assert objects[guest_path(uuid)] == {GUEST: properties}
        assert await busctl(address, "get-property", NAME, guest_path(MANY[2]), GUEST, "StateReasons") == ["the guest is paused"]

    run(address, scene, scenario)


def test_an_answer_that_many_share_is_queued_without_copies_and_within_the_bound(address: str, bus: PrivateBus) -> None:
    async def scenario(connection: Connection) -> None:
        body = Marshalled(array([texts("x" * 1000, "y" * 1000)] * 500))
        caller = await Connection.open(address)
        bus.signal(signal.SIGSTOP)
        header = Header("<", 1, 0, 5, 0, caller.unique_name, PATH, MANAGER, "GetActiveGuests", "", 0, "")
        tracemalloc.start()
        while connection._bus.offer_marshalled(header, "a(ss)", body):
            pass
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert MAX_QUEUED_BYTES < connection._bus._writer.queued_bytes < MAX_QUEUED_BYTES + 2 * len(body)
        assert held < len(body)
        bus.signal(signal.SIGCONT)
        # The bus takes all of it for what it is, and our connection lives on.
        assert await caller.owner_of(NAME) == connection.unique_name
        (pairs,) = await caller.call(NAME, PATH, MANAGER, "GetActiveGuests")
        assert [list(pair) for pair in pairs] == [[A, "vm-a"], [B, "vm-b"]]
        caller.close()
        await caller.lost()

    run(address, Scene(), scenario)


def test_clients_hear_of_guests_from_the_object_that_manages_them(address: str) -> None:
    scene, heard = Scene(names=["vm-a"]), list[Signal]()

    def of(member: str) -> Sequence[Signal]:
        return [each for each in heard if each.member == member]

    async def scenario(_connection: Connection) -> None:
        client = await Connection.open(address)
        await client.subscribe(NAME, heard.append)
        scene.bench.source.answer = [scene.record(B, "vm-b", state=3), scene.record(C, "vm-c")]
        await scene.cycle()
        while not (of("InterfacesRemoved") and len(of("InterfacesAdded")) == 2 and of("GuestsChanged")):
            await asyncio.sleep(0.01)
        assert {each.path for each in heard if each.interface == OBJECT_MANAGER} == {PATH}
        assert of("InterfacesRemoved")[0].args == (guest_path(A), [GUEST])
        assert of("InterfacesAdded")[0].args[1][GUEST]["State"].value == "held"
        assert of("GuestsChanged")[0].args == ([B, C], [A])
        scene.bench.source.answer = [scene.record(B, "vm-b"), scene.record(C, "vm-c")]
        await scene.cycle()
        while not [each for each in of("PropertiesChanged") if each.path == guest_path(B)]:
            await asyncio.sleep(0.01)
        assert of("GuestStateChanged")[0].args == ([[B, "managed", ""]],)
        client.close()
        await client.lost()

    run(address, scene, scenario)


def test_plain_dbus_next_tells_of_new_objects_from_the_wrong_path(address: str) -> None:
    async def main() -> None:
        bus, client = await MessageBus(bus_address=address).connect(), await MessageBus(bus_address=address).connect()
        heard: list[Message] = []
        client.add_message_handler(lambda message: heard.append(message) if message.message_type is MessageType.SIGNAL else None)
        rule = f"type='signal',interface='{OBJECT_MANAGER}'"
        await client.call(Message("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "AddMatch", signature="s", body=[rule]))
        bus.export(PATH, ServiceInterface(MANAGER))
        bus.export(guest_path(A), ServiceInterface(GUEST))
        while not [message for message in heard if message.body[0] == guest_path(A)]:
            await asyncio.sleep(0.01)
        assert [message.path for message in heard if message.body[0] == guest_path(A)] == [guest_path(A)]
        for each in (bus, client):
            each.disconnect()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_client_is_told_how_guests_are(address: str) -> None:
    scene = Scene()
    broken, paused = scene.record(A, "vm-a", facts=Facts(balloon=False)), scene.record(B, "vm-b", state=3)
    scene.bench.source.answer = [broken, paused, scene.record(C, "vm-c")]

    async def scenario(_connection: Connection) -> None:
        client = await Client.connect(address)
        states = await client.guest_states()
        assert list(states) == [A, B, C]
        assert (states[A].state, states[A].capabilities["balloon"]) == ("unmanaged", NO_BALLOON)
        assert states[B] == GuestState("held", ["the guest is paused"], {"balloon": "", "statistics": "", "ksm": ""})
        assert (states[C].state, states[C].reasons) == ("managed", [])
        await client.close()

    run(address, scene, scenario)
