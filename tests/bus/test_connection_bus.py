# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection against a caller that means harm, on real buses: each fault of plain dbus-next, and that ours hasn't got it."""

from __future__ import annotations

import asyncio
import gc
import logging
import pwd
import re
import signal
import socket
import struct
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_next import Message, MessageFlag, Variant
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio import MessageBus
from dbus_next.signature import SignatureTree

from lab.buses import BROKER, PrivateBus
from lab.stranger import Stranger, empty_strings
from momservice.bus import bounds, connection, decoder, library, serving, wire
from momservice.bus.connection import ERROR, BusLost, Call, CallError, Connection, Export, Signal, load_interfaces
from momservice.bus.names import MANAGER, PATH, POLICY, XML

NAME = POLICY
PEER = "org.freedesktop.DBus.Peer"
LONG = "x" * 4096
UNREAD = 10_000
# Of users that every machine has, since dbus-daemon lets in no others.
ONE, OTHER = (pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon"))


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have logged counts for nothing."""
    for module in (serving, connection):
        (seldom,) = module.log.filters
        monkeypatch.setattr(seldom, "_count", 0)


class Served:
    """An interface of the project with plain answers. `gate` holds SetPolicy up until it is set, then it asks the bus something."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.gate = asyncio.Event()
        self.wrong = False
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


def test_answers_that_nobody_reads_end_plain_dbus_next(address: str) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(bus.unique_name, "GetPolicy") for _ in range(UNREAD)])
        with pytest.raises(BlockingIOError):
            await asyncio.wait_for(bus.wait_for_disconnect(), 60)

    asyncio.run(main())


def test_answers_that_nobody_reads_end_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued, plain = [0], wire.Writer.write

    def write(self: wire.Writer, data: bytearray) -> None:
        plain(self, data)
        queued[0] = max(*queued, self.queued_bytes)

    monkeypatch.setattr(wire.Writer, "write", write)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(connection.unique_name, "GetPolicy") for _ in range(UNREAD)])
        serial = other.send(to(connection.unique_name, "GetPolicy"))
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        # No answer has been dropped or kept for long.
        assert queued[0] < wire.MAX_QUEUED_BYTES // 4
        # It may have been one too many at a time.
        answers = await asyncio.to_thread(caller.answers, caller.serial - UNREAD + 1, caller.serial)
        assert {answer.error_name for answer in answers.values()} <= {None, ERROR + "LimitsExceeded"}
        assert (await asyncio.to_thread(caller.call, to(connection.unique_name, "GetPolicy"))).body == [LONG]
        assert await connection.owner_of(connection.unique_name) == connection.unique_name

    run(address, scenario)


def test_answers_are_dropped_rather_than_hoarded_and_own_calls_are_not(address: str, bus: PrivateBus) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        answer = to(connection.unique_name, "X", "s", LONG, flags=MessageFlag.NO_REPLY_EXPECTED)
        bus.signal(signal.SIGSTOP)
        while connection.offer(answer):
            pass
        assert connection._bus._writer.queued_bytes < wire.MAX_QUEUED_BYTES + 2 * len(LONG)
        call = asyncio.ensure_future(connection.owner_of(connection.unique_name))
        await asyncio.sleep(0.1)
        bus.signal(signal.SIGCONT)
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
            variants = signatures(500, turn * 500)
            wrong = to(connection.unique_name, "Ping", "av", variants, interface=PEER)
            right = to(connection.unique_name, "SetParameters", "a{sv}", {str(n): variant for n, variant in enumerate(variants)})
            del variants
            for message, expected in ((wrong, ERROR + "InvalidArgs"), (right, None)):
                # In the loop's thread, so that whatever is remembered after the sending is the receiver's doing.
                serial = caller.send(message)
                SignatureTree._cache.clear()
                assert (await asyncio.to_thread(caller.answer, serial)).error_name == expected
                assert len(SignatureTree._cache) < 50
            del wrong, right, message
            assert library._cached_tree.cache_info().currsize <= 512
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[-1] < sizes[1] * 1.2

    tracemalloc.start()
    try:
        run(address, scenario)
    finally:
        tracemalloc.stop()


def record(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long the bodies are that are decoded, or would be, on plain dbus-next as on ours."""
    sizes: list[int] = [0]
    reader, decoding = Unmarshaller.read_argument, decoder.decoding

    def read_argument(self: Unmarshaller, kind: Any) -> Any:
        sizes.append(len(self.buf))
        return reader(self, kind)

    def decode(order: str, signature: str, body: bytearray) -> decoder.Steps[list[Any]]:
        sizes.append(len(body))
        return decoding(order, signature, body)

    monkeypatch.setattr(Unmarshaller, "read_argument", read_argument)
    monkeypatch.setattr(serving, "decoding", decode)
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


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


async def stranger(address: str, uid: int = ONE) -> Stranger:
    # In the loop's thread: to connect as another user the whole process becomes that user for a moment.
    return Stranger(address, uid)


def test_a_flood_by_one_user_leaves_room_for_others(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        flood, other = await stranger(address), await stranger(address, OTHER)
        calls = [to(connection.unique_name, "SetPolicy", "s", "x") for _ in range(3000)]
        first = flood.serial + 1
        last = await asyncio.to_thread(flood.send_all, calls)
        # The last is refused at once, so all have come.
        assert (await asyncio.to_thread(flood.answer, last)).error_name == ERROR + "LimitsExceeded"
        before, begin = len(connection._server.pending), other.serial + 1
        assert before < last - first
        end = await asyncio.to_thread(other.send_all, calls[:200])
        await until(lambda: len(connection._server.pending) == before + 200)
        served.gate.set()
        answers = await asyncio.to_thread(other.answers, begin, end)
        assert all(answer.body == [1] for answer in answers.values())
        # What was taken has been given back.
        await until(lambda: not connection._server.pending)
        assert connection._server.room._taken == {}

    run(address, scenario)


def test_a_user_gets_no_more_room_by_many_connections(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        text, room = "x" * (wire.MAX_BODY_BYTES - 1000), connection._server.room
        message, callers = to(connection.unique_name, "SetPolicy", "s", text), [await stranger(address) for _ in range(20)]
        serials = [await asyncio.to_thread(caller.send, message) for caller in callers]
        # Whoever has nothing of that size under way gets the next in: by then all of the first ones have come.
        other = await stranger(address, OTHER)
        await asyncio.to_thread(other.send, message)
        await until(lambda: room._taken[OTHER] > 0)
        assert 4 * room._taken[ONE] <= bounds.ROOM_BYTES
        assert room._taken.keys() == {ONE, OTHER}
        served.gate.set()
        pairs = zip(callers, serials, strict=True)
        errors = [(await asyncio.to_thread(caller.answer, serial)).error_name for caller, serial in pairs]
        assert set(errors) == {None, ERROR + "LimitsExceeded"}
        assert errors.count(None) <= 8

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


def test_who_is_refused_is_in_the_log_once_a_minute_and_kind(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        caller = await stranger(address)
        for member in ("Nothing", "SetPolicy", "Never"):
            assert (await asyncio.to_thread(caller.call, to(connection.unique_name, member))).error_name
        await until(lambda: not connection._server.pending)
        refused = [record.getMessage() for record in caplog.records if record.name == serving.log.name]
        # In whatever order: both have asked whose connection it is.
        assert sorted(refused) == [
            f"refused Nothing to {caller.name} (uid {ONE}): UnknownMethod: no method Nothing in {NAME}",
            f"refused SetPolicy to {caller.name} (uid {ONE}): InvalidArgs: SetPolicy takes arguments of signature 's', not ''",
        ]

    run(address, scenario)


def test_callers_that_leave_in_mid_call_leave_nothing_behind(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        known, unknown = await stranger(address), await stranger(address)
        await asyncio.to_thread(known.call, to(connection.unique_name, "GetPolicy"))
        for caller in (known, unknown):
            served.gate.clear()
            caller.send(to(connection.unique_name, "SetPolicy", "s", "x" * 100_000))
            await until(lambda: bool(connection._server.pending))
            caller.close()
            served.gate.set()
            await until(lambda: not connection._server.pending)
        assert connection._server.room._taken == {}

    run(address, scenario)
    assert not caplog.text


def test_a_guard_that_needs_no_arguments_comes_before_they_are_decoded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, served: Served) -> None:
        connection.serve(PATH, replace(served.export, guard=served.refuse, guard_first=True))
        caller = await stranger(address)
        answer = await asyncio.to_thread(caller.call, to(connection.unique_name, "SetPolicy", "s", "x" * 100_000))
        assert answer.error_name == ERROR + "AccessDenied"
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


def test_bodies_of_many_values_are_decoded_in_turns_and_of_too_many_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, decode = list[int](), decoder.decoding

    def count(order: str, signature: str, body: bytearray) -> decoder.Steps[list[Any]]:
        turns.append(0)
        steps = decode(order, signature, body)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                values: list[Any] = stop.value
                return values
            turns[-1] += 1
            yield

    monkeypatch.setattr(serving, "decoding", count)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await stranger(address)
        for number, expected in ((20_000, None), (100_000, ERROR + "LimitsExceeded")):
            values = {f"{n}": Variant("y", 1) for n in range(number)}
            serial = await asyncio.to_thread(caller.send, to(connection.unique_name, "SetParameters", "a{sv}", values))
            assert (await asyncio.to_thread(caller.answer, serial)).error_name == expected
        assert min(turns) >= 20_000 // decoder.VALUES_PER_STEP

    run(address, scenario)


def test_another_user_waits_for_a_turn_and_not_for_a_flood(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    on_call, reply = serving.Server.on_call, serving.Server._reply

    def called(self: serving.Server, header: wire.Header) -> wire.Taker:
        events.append(f"call {header.sender}")
        return on_call(self, header)

    def replied(self: serving.Server, header: wire.Header, *rest: Any) -> None:
        events.append(f"reply {header.sender}")
        reply(self, header, *rest)

    monkeypatch.setattr(serving.Server, "on_call", called)
    monkeypatch.setattr(serving.Server, "_reply", replied)

    async def scenario(connection: Connection, _served: Served) -> None:
        floods, other = [await stranger(address) for _ in range(20)], await stranger(address, OTHER)
        call = to(connection.unique_name, "GetPolicy")
        for caller in (*floods, other):
            await asyncio.to_thread(caller.call, call)
        # While the loop is here the bus takes all of it.
        for flood in floods:
            flood.send_all([call] * 40)
        serial = other.send(call)
        await asyncio.to_thread(other.answer, serial)
        begin = len(events) - 1 - events[::-1].index(f"call {other.name}")
        end = len(events) - 1 - events[::-1].index(f"reply {other.name}")
        # What has been begun before it came, and a turn.
        assert sum(event.startswith("reply") for event in events[begin:end]) <= 2 * serving.MAX_PER_TURN

    run(address, scenario)


def test_few_users_of_connections_are_remembered(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UIDS", 2)

    async def scenario(served_by: Connection, _served: Served) -> None:
        for _ in range(2):
            for caller in [await stranger(address, uid) for uid in (ONE, OTHER, ONE)]:
                assert (await asyncio.to_thread(caller.call, to(served_by.unique_name, "GetPolicy"))).body == [LONG]
            await until(lambda: not served_by._asked_uids)
            assert sorted(served_by._uids.values()) == sorted([ONE, OTHER])
        assert await served_by.uid_of(caller.name) == ONE

    run(address, scenario)


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
