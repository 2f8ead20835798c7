# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection against a caller that means harm, over a real dbus-daemon: each fault of plain dbus-next, and that ours hasn't got it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import struct
import subprocess
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_next import Message, MessageFlag, Variant
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio import MessageBus
from dbus_next.signature import SignatureTree

from momservice.bus import wire
from momservice.bus.connection import ERROR, BusLost, Call, CallError, Connection, Export, Signal, load_interfaces
from momservice.bus.names import MANAGER, PATH, POLICY, XML

NAME = POLICY
PEER = "org.freedesktop.DBus.Peer"
# The system bus's limits, but for the one that would keep a caller from having many answers unread.
CONFIGURATION = """<busconfig><type>system</type><listen>unix:path={0}</listen><auth>EXTERNAL</auth>
<limit name="max_replies_per_connection">50000</limit>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/><allow receive_type="method_return"/><allow receive_type="error"/>
</policy></busconfig>"""
LONG = "x" * 4096
UNREAD = 10_000


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:path={tmp_path}/bus"


@pytest.fixture(autouse=True)
def daemon(tmp_path: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A bus of our own."""
    path, configuration = tmp_path / "bus", tmp_path / "bus.conf"
    configuration.write_text(CONFIGURATION.format(path))
    process = subprocess.Popen(["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


class Stranger:
    """A caller that does what it likes: blocking, and it reads only when it is told to."""

    def __init__(self, address: str) -> None:
        self.serial = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(address.removeprefix("unix:path="))
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.socket.recv(1000).startswith(b"OK")
        self.socket.sendall(b"BEGIN\r\n")
        self.stream = self.socket.makefile("rb")
        self.send(Message("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "Hello"))
        self.name = self.answer(1).body[0]

    def send(self, message: Message) -> int:
        return self.send_all([message])

    def send_all(self, messages: Sequence[Message]) -> int:
        """Send, give the serial of the last."""
        data = bytearray()
        for message in messages:
            self.serial += 1
            message.serial = self.serial
            data += message._marshall()
        self.socket.sendall(data)
        return self.serial

    def send_raw(self, message: Message, body: bytes) -> int:
        """Send a message with this body in the place of its own."""
        self.serial += 1
        message.serial = self.serial
        data = message._marshall()
        (size,) = struct.unpack_from("<I", data, 4)
        struct.pack_into("<I", data, 4, len(body))
        self.socket.sendall(data[: len(data) - size] + body)
        return self.serial

    def answer(self, serial: int) -> Message:
        """Read on to the answer to a call."""
        while True:
            message = Unmarshaller(self.stream).unmarshall()
            if message.reply_serial == serial:
                return message

    def answers(self, first: int, last: int) -> dict[int, Message]:
        """Read until all these calls have been answered, in whatever order: nothing promises one for calls that are under way together."""
        found: dict[int, Message] = {}
        while len(found) <= last - first:
            message = Unmarshaller(self.stream).unmarshall()
            if message.reply_serial is not None and first <= message.reply_serial <= last:
                found[message.reply_serial] = message
        return found


class Served:
    """An interface of the project with plain answers. `gate` holds SetPolicy up until it is set, then it asks the bus something."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.gate = asyncio.Event()
        interface = load_interfaces(XML)[NAME]
        self.export = Export(interface, {method.name: self.answer for method in interface.methods}, self.guard)

    async def guard(self, call: Call) -> None:
        if call.member == "SetPolicy":
            await self.gate.wait()
            await self.connection.uid_of(call.sender)

    async def answer(self, call: Call) -> Sequence[Any]:
        return [LONG if call.member == "GetPolicy" else 1]


def run(address: str, scenario: Callable[[Connection, Served], Awaitable[None]]) -> None:
    """Run a scenario with a connection that serves."""

    async def main() -> None:
        connection = await Connection.open(address)
        served = Served(connection)
        connection.serve(PATH, served.export)
        await scenario(connection, served)
        connection.close()
        await connection.lost()

    asyncio.run(asyncio.wait_for(main(), 120))


async def plain_server(address: str) -> MessageBus:
    """The same on dbus-next as it is."""
    bus = await MessageBus(bus_address=address).connect()
    bus.add_message_handler(lambda message: Message.new_method_return(message, "s", [LONG]) if message.path == PATH else None)
    return bus


def to(name: str, member: str, signature: str = "", *args: Any, interface: str = NAME, flags: MessageFlag = MessageFlag.NONE) -> Message:
    return Message(name, PATH, interface, member, signature=signature, body=list(args), flags=flags)


def test_answers_that_nobody_reads_end_plain_dbus_next(address: str) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(bus.unique_name, "GetPolicy") for _ in range(UNREAD)])
        with pytest.raises(BlockingIOError):
            await asyncio.wait_for(bus.wait_for_disconnect(), 60)

    asyncio.run(main())


def test_answers_that_nobody_reads_end_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued, schedule = [0], wire.Writer.schedule_write

    def schedule_write(self: wire.Writer, message: Message | None = None) -> None:
        schedule(self, message)
        queued[0] = max(*queued, self.queued_bytes)

    monkeypatch.setattr(wire.Writer, "schedule_write", schedule_write)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(connection.unique_name, "GetPolicy") for _ in range(UNREAD)])
        serial = other.send(to(connection.unique_name, "GetPolicy"))
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        # No answer has been dropped or kept for long.
        assert queued[0] < 4 * wire.PAUSE_BYTES
        assert (await asyncio.to_thread(caller.answer, caller.serial)).body == [LONG]
        assert await connection.owner_of(connection.unique_name) == connection.unique_name

    run(address, scenario)


def test_answers_are_dropped_rather_than_hoarded_and_own_calls_are_not(address: str, daemon: subprocess.Popen[bytes]) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        bus, answer = connection._bus, to(connection.unique_name, "X", "s", LONG, flags=MessageFlag.NO_REPLY_EXPECTED)
        daemon.send_signal(signal.SIGSTOP)
        while bus.offer(answer):
            answer.serial = 0
        assert bus._writer.queued_bytes < wire.MAX_QUEUED_BYTES + 2 * len(LONG)
        call = asyncio.ensure_future(connection.owner_of(connection.unique_name))
        await asyncio.sleep(0.1)
        daemon.send_signal(signal.SIGCONT)
        assert await call == connection.unique_name

    run(address, scenario)


def signatures(number: int, start: int) -> list[Variant]:
    """Variants, each with a signature that hasn't been seen."""
    found = []
    for n in range(start, start + number):
        kinds = ["ynqiuxtd"[n >> (3 * k) & 7] for k in range(8)] + ["i"] * 100
        found.append(Variant("(" + "".join(kinds) + ")", [0] * 108))
    return found


def test_plain_dbus_next_keeps_every_signature_that_it_sees(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        message = to(bus.unique_name, "Ping", "av", signatures(1000, 0), interface=PEER)
        monkeypatch.setattr(SignatureTree, "_cache", {})
        serial = caller.send(message)
        await asyncio.to_thread(caller.answer, serial)
        assert len(SignatureTree._cache) > 1000

    asyncio.run(main())


def test_signatures_leave_nothing_behind(address: str) -> None:
    """Neither in what is refused nor in variants, where any signature is allowed."""

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        sizes = []
        for turn in range(4):
            variants = signatures(600, turn * 600)
            wrong = to(connection.unique_name, "Ping", "av", variants, interface=PEER)
            right = to(connection.unique_name, "SetParameters", "a{sv}", {str(n): variant for n, variant in enumerate(variants)})
            del variants
            for message, expected in ((wrong, ERROR + "InvalidArgs"), (right, None)):
                serial = await asyncio.to_thread(caller.send, message)
                assert (await asyncio.to_thread(caller.answer, serial)).error_name == expected
            del wrong, right, message
            assert len(SignatureTree._cache) <= wire.MAX_SIGNATURES
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[-1] < sizes[1] * 1.2

    tracemalloc.start()
    try:
        run(address, scenario)
    finally:
        tracemalloc.stop()


def empty_strings(size: int) -> bytes:
    """The body of an array of strings."""
    return struct.pack("<I", size - 3) + bytes(size - 3)


def record(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes the decoder has read at most, one entry for each message."""
    sizes: list[int] = []
    reader = Unmarshaller.read_argument

    def read_argument(self: Unmarshaller, kind: Any) -> Any:
        sizes.append(len(self.buf))
        return reader(self, kind)

    monkeypatch.setattr(Unmarshaller, "read_argument", read_argument)
    return sizes


def test_plain_dbus_next_decodes_whatever_is_sent_to_a_member_without_arguments(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        serial = caller.send_raw(to(bus.unique_name, "Ping", "as", [], interface=PEER), empty_strings(4 << 20))
        sizes = record(monkeypatch)
        await asyncio.to_thread(caller.answer, serial)
        assert max(sizes) > 4 << 20

    asyncio.run(main())


def test_a_long_message_is_refused_undecoded_and_holds_nobody_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        message = to(connection.unique_name, "Ping", "as", [], interface=PEER)
        body = empty_strings(28_000_000)
        serials = [await asyncio.to_thread(caller.send_raw, message, body) for _ in range(3)]
        serial = other.send(to(connection.unique_name, "GetPolicy"))
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        for serial in serials:
            assert (await asyncio.to_thread(caller.answer, serial)).error_name == ERROR + "LimitsExceeded"
        assert len(connection._bus._reader._buffer) < wire.CHUNK_BYTES
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"path": "/nothing"}, "UnknownObject"),
        ({"interface": "a.b"}, "UnknownInterface"),
        ({"member": "Nothing"}, "UnknownMethod"),
        ({"signature": "as"}, "InvalidArgs"),
    ],
)
def test_what_is_for_nobody_is_refused_undecoded(
    address: str, monkeypatch: pytest.MonkeyPatch, message: dict[str, str], expected: str
) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        fields = {"path": PATH, "interface": NAME, "member": "SetPolicy", "signature": "s", **message}
        call = Message(connection.unique_name, **fields, body=[[] if fields["signature"] == "as" else ""])
        serial = caller.send_raw(
            call, empty_strings(100_000) if fields["signature"] == "as" else struct.pack("<I", 99_995) + b"x" * 99_995 + b"\0"
        )
        assert (await asyncio.to_thread(caller.answer, serial)).error_name == ERROR + expected
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


def test_a_flood_by_one_caller_leaves_room_for_others(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        flood, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        calls = [to(connection.unique_name, "SetPolicy", "s", "x") for _ in range(3000)]
        last = await asyncio.to_thread(flood.send_all, calls)
        # The last is refused at once, so all have come.
        assert (await asyncio.to_thread(flood.answer, last)).error_name == ERROR + "LimitsExceeded"
        before, begin = len(connection._pending), other.serial + 1
        end = await asyncio.to_thread(other.send_all, calls[:200])
        while len(connection._pending) < before + 200:
            await asyncio.sleep(0.01)
        served.gate.set()
        answers = await asyncio.to_thread(other.answers, begin, end)
        assert all(answer.body == [1] for answer in answers.values())
        # What was taken has been given back.
        assert connection._room._taken == {}

    run(address, scenario)


def test_a_bus_that_dies_under_calls_leaves_no_traceback(
    address: str, daemon: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(connection.unique_name, "SetPolicy", "s", "x") for _ in range(20)])
        unanswered = asyncio.ensure_future(connection.call(caller.name, PATH, PEER, "Ping"))
        while len(connection._pending) < 20:
            await asyncio.sleep(0.01)
        daemon.kill()
        with pytest.raises(BusLost):
            await unanswered
        served.gate.set()
        while connection._pending:
            await asyncio.sleep(0.01)
        with pytest.raises(BusLost):
            await connection.owner_of(NAME)

    run(address, scenario)
    gc.collect()
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


def test_a_change_right_behind_the_answer_is_the_owner(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        caller, told, held = await asyncio.to_thread(Stranger, address), list[str | None](), bytearray()
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
    address: str, daemon: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        monkeypatch.setattr(Connection.call, "__kwdefaults__", {"deadline_s": 0.1, "interactive": False})
        daemon.send_signal(signal.SIGSTOP)
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


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


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
        for connection in (service, other):
            await end(connection)

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
    address: str, daemon: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        connection.emit(PATH, MANAGER, "Wrong", "u", "text")
        connection.emit("no path", MANAGER, "Wrong")
        daemon.send_signal(signal.SIGSTOP)
        for _ in range(100):
            connection.emit(PATH, MANAGER, "Long", "ay", bytes(1 << 20))
        assert connection._bus._writer.queued_bytes < wire.MAX_QUEUED_BYTES + (2 << 20)
        daemon.kill()
        await connection.lost()
        connection.emit(PATH, MANAGER, "Late")

    run(address, scenario)
    assert caplog.text.count("can't be sent") == 2
    # Ten lines a minute.
    assert 1 <= caplog.text.count("Long is dropped") <= 10
