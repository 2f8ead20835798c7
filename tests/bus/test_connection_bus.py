# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection on real buses: each fault of plain dbus-next, and that ours hasn't got it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import signal
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dbus_next import Message
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface, method
from served import NAME, PEER, Served, plain_server, run, stranger, to, until

from lab.buses import BROKER, PrivateBus
from lab.stranger import Stranger
from momservice.bus import connection, serving, wire
from momservice.bus.connection import ERROR, BusLost, CallError, Connection, Export, Signal, load_interfaces
from momservice.bus.names import MANAGER, PATH, XML

pytestmark = pytest.mark.usefixtures("fresh_log")


def test_the_machine_has_an_identity_that_the_bus_is_not_asked_for(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The system bus answers nobody, and with a text that tells the command line of whoever asks it."""
    file = tmp_path / "machine-id"
    monkeypatch.setattr(serving, "MACHINE_IDS", (tmp_path / "missing", file))

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        question = to(connection.unique_name, "GetMachineId", interface=PEER)
        assert (await asyncio.to_thread(caller.call, question)).body == ["this machine has no identity"]
        file.write_text("6d6f6d\n")
        assert (await asyncio.to_thread(caller.call, question)).body == ["6d6f6d"]

    run(address, scenario)


def test_a_bus_that_dies_under_calls_leaves_no_traceback(
    address: str, bus: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(connection.unique_name, "SetPolicy", "s", "x") for _ in range(20)])
        unanswered = asyncio.ensure_future(connection.call(caller.name, PATH, PEER, "Ping", deadline_s=100))
        await until(lambda: len(connection._server.pending) == 20)
        bus.kill()
        # Before the loop has looked at the socket.
        with pytest.raises(BusLost):
            await connection.call(caller.name, PATH, PEER, "Ping", deadline_s=100)
        with pytest.raises(BusLost):
            await unanswered
        served.gate.set()
        while connection._server.pending:
            await asyncio.sleep(0.01)
        with pytest.raises(BusLost):
            await connection.owner_of(NAME)

    run(address, scenario)
    gc.collect()
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


def test_a_change_right_behind_the_answer_is_the_owner(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        caller, told, held = await asyncio.to_thread(Stranger, address), list[str | None](), bytearray()
        # All that came before has been read then.
        assert await connection.owner_of(caller.name) == caller.name
        feed, passed = connection._bus._reader.feed, list[bytes]()

        def hold(data: bytes) -> None:
            # The answer to AddMatch may pass, what comes after it has to wait.
            (held.extend if passed else feed)(data)
            passed.append(data)

        monkeypatch.setattr(connection._bus._reader, "feed", hold)
        watch = asyncio.ensure_future(connection.watch_owner("org.example.Test", told.append))
        while b"NameHasNoOwner" not in held:
            await asyncio.sleep(0.01)
        bus = "org.freedesktop.DBus"
        caller.send(Message(bus, "/", bus, "RequestName", signature="su", body=["org.example.Test", 0]))
        while b"NameOwnerChanged" not in held:
            await asyncio.sleep(0.01)
        feed(bytes(held))
        assert await watch == caller.name
        assert told == [caller.name]

    run(address, scenario)


def test_a_bus_that_does_not_answer_for_a_name_is_an_error_reply(
    address: str, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        monkeypatch.setattr(Connection.call, "__kwdefaults__", {"deadline_s": 0.1, "interactive": False})
        bus.signal(signal.SIGSTOP)
        with pytest.raises(CallError, match=r"refuses the name org.example.Test: no answer") as raised:
            await connection.own("org.example.Test")
        assert raised.value.name == ERROR + "Timeout"

    run(address, scenario)


def test_a_name_has_one_owner(address: str) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        await connection.own("org.example.Test")
        other = await Connection.open(address)
        with pytest.raises(CallError, match=r"another process owns org.example.Test"):
            await other.own("org.example.Test")
        assert await other.owner_of("org.example.Test") == connection.unique_name
        other.close()
        await other.lost()

    run(address, scenario)


def test_introspection_data_is_that_of_the_xml(address: str) -> None:
    interface = load_interfaces(XML)[MANAGER]

    async def scenario(connection: Connection, served: Served) -> None:
        methods = {method.name: served.answer for method in interface.methods}
        connection.serve(PATH, Export(interface, methods, served.guard))
        caller = await Connection.open(address)
        for path, child in (("/", "org"), ("/org/ovirt", "Mom1")):
            (text,) = await caller.call(connection.unique_name, path, "org.freedesktop.DBus.Introspectable", "Introspect")
            assert [node.get("name") for node in ElementTree.fromstring(text).iter("node")] == [None, child]
        (text,) = await caller.call(connection.unique_name, PATH, "org.freedesktop.DBus.Introspectable", "Introspect")
        (found,) = [element for element in ElementTree.fromstring(text) if element.get("name") == MANAGER]
        assert ElementTree.tostring(found).strip() == ElementTree.tostring(interface.element).strip()
        told = {prop.get("name"): [each.get("value") for each in prop] for prop in found.iter("property")}
        assert (told["Version"], told["Status"]) == (["const"], ["true"])
        caller.close()
        await caller.lost()

    run(address, scenario)


async def emitter(address: str) -> Connection:
    """A connection that owns the name that subscribers listen to."""
    connection = await Connection.open(address)
    await connection.own("org.example.Test")
    return connection


async def end(connection: Connection) -> None:
    connection.close()
    await connection.lost()


def test_a_signal_reaches_who_subscribed_whoever_owns_the_name(address: str) -> None:
    async def scenario(listener: Connection, _served: Served) -> None:
        heard: list[Signal] = []
        subscription = await listener.subscribe("org.example.Test", heard.append)
        for number in range(2):
            service = await emitter(address)
            service.emit(PATH, MANAGER, "GuestsChanged", "asas", ["x"], [str(number)])
            await until(lambda expected=number + 1: len(heard) == expected)  # type: ignore[misc]  # the loop's own number
            await end(service)
        assert heard == [Signal(PATH, MANAGER, "GuestsChanged", (["x"], [str(number)])) for number in range(2)]
        await listener.unsubscribe(subscription)
        await listener.unsubscribe(subscription)
        assert (listener._subscriptions, listener._watches) == ([], [])

    run(address, scenario)


def test_signals_of_others_too_long_or_after_the_end_are_not_heard(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(listener: Connection, _served: Served) -> None:
        service, other = await emitter(address), await Connection.open(address)
        heard: list[Signal] = []
        subscription = await listener.subscribe("org.example.Test", heard.append)
        # Straight to us, so that no match rule keeps it away.
        forged = Message.new_signal(PATH, MANAGER, "Forged")
        forged.destination = listener.unique_name
        assert other._bus.offer(forged)
        await other.owner_of(NAME)
        service.emit(PATH, MANAGER, "Long", "ay", bytes(wire.MAX_BODY_BYTES + 1))
        service.emit(PATH, MANAGER, "Last")
        await until(lambda: bool(heard))
        assert [signal.member for signal in heard] == ["Last"]
        await listener.unsubscribe(subscription)
        service.emit(PATH, MANAGER, "Late")
        await service.owner_of(NAME)
        await listener.owner_of(NAME)
        assert len(heard) == 1
        await end(service)
        await end(other)

    run(address, scenario)
    assert "Long of 2097157 bytes is left out" in caplog.text


def test_a_listener_that_raises_stops_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(listener: Connection, _served: Served) -> None:
        service, heard = await emitter(address), list[Signal]()
        await listener.subscribe("org.example.Test", lambda signal: 1 / 0)  # type: ignore[arg-type]  # on purpose
        await listener.subscribe("org.example.Test", heard.append)
        service.emit(PATH, MANAGER, "First")
        await until(lambda: bool(heard))
        await end(service)

    run(address, scenario)
    assert "internal error in what listens to the bus" in caplog.text


def test_signals_are_dropped_rather_than_hoarded_and_raise_nothing(
    address: str, bus: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        connection.emit(PATH, MANAGER, "Wrong", "u", "text")
        connection.emit("no path", MANAGER, "Wrong")
        bus.signal(signal.SIGSTOP)
        for _ in range(100):
            connection.emit(PATH, MANAGER, "Long", "ay", bytes(1 << 20))
        assert connection._bus._writer.queued_bytes < wire.MAX_QUEUED_BYTES + (2 << 20)
        bus.kill()
        await connection.lost()
        connection.emit(PATH, MANAGER, "Late")

    run(address, scenario)
    assert caplog.text.count("can't be sent") == 2
    # Ten lines a minute.
    assert 1 <= caplog.text.count("Long is dropped") <= 10


def unknown_field(message: Message) -> bytes:
    """The message with a header field of a number that nobody knows yet in the place of its interface."""
    message.serial = 1000
    data = bytearray(message._marshall())
    data[data.index(b"\2\1s\0")] = 100
    return bytes(data)


# dbus-daemon hands no unknown header fields on.
@pytest.mark.parametrize("bus", [BROKER], indirect=True)
def test_a_header_field_of_the_future_ends_plain_dbus_next(address: str) -> None:
    async def main() -> None:
        plain, caller = await plain_server(address), Stranger(address)
        caller.socket.sendall(unknown_field(to(plain.unique_name, "Ping", interface=PEER)))
        with pytest.raises(ValueError, match="100 is not a valid HeaderField"):
            await asyncio.wait_for(plain.wait_for_disconnect(), 60)

    asyncio.run(main())


def test_a_header_field_of_the_future_ends_nothing(address: str) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await stranger(address)
        # Without its interface it is still a Ping.
        caller.socket.sendall(unknown_field(to(connection.unique_name, "Ping", interface=PEER)))
        assert (await asyncio.to_thread(caller.answer, 1000)).error_name is None

    run(address, scenario)


def test_plain_dbus_next_waits_for_ever_for_an_answer_and_tells_callers_its_traceback(address: str) -> None:
    async def main() -> None:
        plain, other = [await MessageBus(bus_address=address).connect() for _ in range(2)]
        plain.add_message_handler(lambda message: 1 / 0 if message.member == "SetPolicy" else None)
        # A Stranger reads only when it is told to.
        silent = Stranger(address)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(other.call(to(silent.name, "Ping", interface=PEER)), 0.5)
        answer = await other.call(to(plain.unique_name, "SetPolicy"))
        assert "Traceback" in answer.body[0]

    asyncio.run(main())


def test_plain_dbus_next_waits_for_ever_when_its_connection_has_ended(address: str) -> None:
    async def main() -> None:
        plain = await MessageBus(bus_address=address).connect()
        plain.disconnect()
        with contextlib.suppress(EOFError):
            await plain.wait_for_disconnect()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(plain.call(to(connection.BUS[0], "GetId", interface=connection.BUS[2])), 0.5)

    asyncio.run(main())


def test_a_call_fails_when_its_connection_ends_or_has_ended(address: str) -> None:
    async def main() -> None:
        caller, silent = await Connection.open(address), await stranger(address)
        call = asyncio.ensure_future(caller.call(silent.name, PATH, PEER, "Ping"))
        await asyncio.sleep(0.1)
        caller.close()
        for each in (call, caller.call(silent.name, PATH, PEER, "Ping")):
            with pytest.raises(BusLost):
                await asyncio.wait_for(each, 5)

    asyncio.run(main())


def test_a_method_of_plain_dbus_next_gets_the_arguments_alone_and_gives_nothing_when_called_directly(address: str) -> None:
    seen: list[object] = []

    class Plain(ServiceInterface):  # type: ignore[misc]  # dbus-next has no types
        @method()  # type: ignore[untyped-decorator]  # as above
        def SetPolicy(self, text: s) -> t:  # type: ignore[name-defined]  # noqa: F821, N802 - as dbus-next has it
            seen.append(text)
            return 7

    async def main() -> None:
        plain, caller = [await MessageBus(bus_address=address).connect() for _ in range(2)]
        plain.export(PATH, Plain(NAME))
        assert (await caller.call(to(plain.unique_name, "SetPolicy", "s", "text"))).body == [7]

    assert Plain(NAME).SetPolicy("direct") is None
    asyncio.run(main())
    assert seen == ["direct", "text"]


def test_calls_have_deadlines_and_callers_are_told_no_traceback(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        caller, silent = await Connection.open(address), await stranger(address)
        with pytest.raises(CallError, match=r"no answer to .*Ping within 0.1 s") as timeout:
            await caller.call(silent.name, PATH, PEER, "Ping", deadline_s=0.1)
        assert timeout.value.name == ERROR + "Timeout"
        assert not caller._bus._answers
        served.wrong = True
        with pytest.raises(CallError, match=r"^internal error: see the service's log$"):
            await caller.call(connection.unique_name, PATH, NAME, "GetPolicy")
        await end(caller)

    run(address, scenario)
    assert "ZeroDivisionError" in caplog.text


def test_what_is_too_long_for_the_bus_is_not_sent(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sender: Connection, _served: Served) -> None:
        sender.emit(PATH, MANAGER, "Long", "ay", bytes(wire.MAX_REPLY_BYTES))
        assert await sender.owner_of(sender.unique_name) == sender.unique_name

    run(address, scenario)
    assert "Long can't be sent" in caplog.text


def test_a_bus_that_is_none_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CALL_DEADLINE_S", 0.1)

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "silent"))
            silent.listen()
            for address, text in {
                f"unix:path={tmp_path}/silent": "no answer within 0.1 s",
                f"unix:path={tmp_path}/absent": "No such file or directory",
                f"unix:path={tmp_path}/absent;unix:path={tmp_path}/silent": "no answer within 0.1 s",
                "tcp:host=localhost,port=1": "'tcp:host=localhost,port=1' is not the address of a bus on this machine",
            }.items():
                with pytest.raises(BusLost, match=rf"^cannot connect to the system bus: .*{re.escape(text)}$"):
                    await Connection.open(address)

    asyncio.run(main())
