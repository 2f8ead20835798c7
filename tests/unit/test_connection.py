# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the connection that need no bus: cutting the stream, the room that calls share, the log."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
from dbus_next import Message, MessageType

from momservice.bus.address import places
from momservice.bus.bounds import CALL_BYTES, ROOM_BYTES, Charge, Minutely, Room, Seldom, Turns
from momservice.bus.connection import CallError, Connection
from momservice.bus.decoder import at_once, decoding
from momservice.bus.reading import CHUNK_BYTES, MAX_HEADER_BYTES, Header, Reader, Taker
from momservice.bus.wire import MAX_BODY_BYTES, Bus
from momservice.bus.writing import BUS, BUS_PATH, question, reply_header, text_body

CALLER = ":1.7"


def message(member: str = "Ping", *body: object, signature: str = "", path: str = "/a") -> bytes:
    """A call as the bus hands it on."""
    data = bytearray(Message(CALLER, path, "a.b", member, signature=signature, body=list(body), serial=5)._marshall())
    # The destination becomes the sender, which is for the bus to say.
    data[data.index(b"\6\1s\0")] = 7
    return bytes(data)


def decode(header: Header, body: bytearray) -> list[object]:
    return at_once(decoding(header.order, header.signature, body))


class Ears:
    """Hears messages; takes the bodies of those whose member doesn't begin with "Not"."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.bodies: list[object] = []
        self.reader = Reader(self.receive)

    def receive(self, header: Header) -> Taker:
        self.headers.append(header)
        return None if header.member.startswith("Not") else lambda body: self.bodies.append(decode(header, body))

    def members(self) -> list[str]:
        return [header.member for header in self.headers]


@pytest.mark.parametrize("size", [1, 3, 16, 1000])
def test_messages_come_whole_however_the_stream_is_cut(size: int) -> None:
    ears = Ears()
    data = message("First", 7, signature="u") + message("NotThis", "x" * 300, signature="s") + message("Last", ["x", "y"], signature="as")
    for start in range(0, len(data), size):
        ears.reader.feed(data[start : start + size])
    assert ears.members() == ["First", "NotThis", "Last"]
    assert ears.bodies == [[7], [["x", "y"]]]


@pytest.mark.parametrize("name", [":1.7", ":1.12345678", "a.b"])
def test_what_is_made_without_the_library_is_what_the_library_makes(name: str) -> None:
    asked = Message(BUS, BUS_PATH, BUS, "GetConnectionUnixUser", signature="s", body=[name], serial=9)
    told = Message(name, message_type=MessageType.METHOD_RETURN, reply_serial=5, signature="as", body=[["x"]], serial=9)
    refused = Message(name, message_type=MessageType.ERROR, reply_serial=5, error_name="a.b.C", signature="s", body=["näh"], serial=9)
    head = Header("<", 1, 0, 5, 0, name, "", "", "", "", 0, "")
    body = b"\6\0\0\0\1\0\0\0x\0"
    text = text_body("näh")
    for made, message in (
        (question(BUS, "GetConnectionUnixUser", name, 9), asked),
        (reply_header(head, 9, "as", len(body)) + body, told),
        (reply_header(head, 9, "s", len(text), "a.b.C") + text, refused),
    ):
        ours, theirs = Ears(), Ears()
        ours.reader.feed(made)
        theirs.reader.feed(bytes(message._marshall()))
        assert len(ours.headers) == 1
        assert (ours.headers, ours.bodies) == (theirs.headers, theirs.bodies)
    with pytest.raises(ValueError, match="there can be no error 'x y'"):
        reply_header(head, 9, "s", len(text), "x y")


def test_what_nobody_wants_is_not_kept() -> None:
    ears = Ears()
    data = message("NotThis", b"x" * 10 * MAX_BODY_BYTES, signature="ay")
    for start in range(0, len(data), 1000):
        ears.reader.feed(data[start : start + 1000])
        assert len(ears.reader._buffer) < 100_000
    ears.reader.feed(message("Last"))
    assert ears.members() == ["NotThis", "Last"]


def test_a_header_gives_the_names_and_numbers() -> None:
    ears = Ears()
    ears.reader.feed(message("First", "x", signature="s"))
    (header,) = ears.headers
    assert (header.sender, header.path, header.interface, header.member) == (CALLER, "/a", "a.b", "First")
    assert (header.kind, header.serial, header.signature, header.body_bytes) == (MessageType.METHOD_CALL.value, 5, "s", 6)
    assert (header.error_name, header.reply_serial) == ("", 0)


def test_both_byte_orders_are_read() -> None:
    # A call of Ping at /a without more, as a big-endian machine sends it.
    fields = b"\1\1o\0\0\0\0\2/a\0" + bytes(5) + b"\3\1s\0\0\0\0\4Ping\0"
    start = b"B\1\0\1" + (0).to_bytes(4, "big") + (9).to_bytes(4, "big") + len(fields).to_bytes(4, "big")
    ears = Ears()
    ears.reader.feed(start + fields + bytes(-len(fields) % 8))
    assert [(header.path, header.member, header.serial) for header in ears.headers] == [("/a", "Ping", 9)]


def test_a_header_that_makes_no_sense_is_passed_over() -> None:
    broken = bytearray(message("First", "x", signature="s"))
    broken[16:24] = b"\1\377\377\377\377\377\377\377"
    ears = Ears()
    ears.reader.feed(bytes(broken) + message("Last"))
    assert ears.members() == ["Last"]


def test_a_header_field_that_is_not_known_is_passed_over() -> None:
    """dbus-broker hands them on."""
    data = bytearray(message("First"))
    # The interface's field gets a number of the future.
    data[data.index(b"\2\1s\0")] = 100
    ears = Ears()
    ears.reader.feed(bytes(data))
    assert [(header.member, header.interface) for header in ears.headers] == [("First", "")]


@pytest.mark.parametrize(
    ("field", "number"),
    [
        pytest.param(b"\x64\xffa(" + b"i" * 252 + b")\0" + bytes(4), 1, id="a long signature"),
        pytest.param(b"\x64\1y\0\7", 100, id="many fields"),
        pytest.param(b"\x64\2au\0\0\0\0" + (4000).to_bytes(4, "little") + bytes(4000), 1, id="many values"),
    ],
)
def test_a_header_that_would_take_long_to_read_is_passed_over(field: bytes, number: int) -> None:
    """Fields that aren't known may be of any type, and dbus-broker hands them on."""

    def with_fields(number: int) -> bytes:
        plain = message("First")
        (length,) = struct.unpack_from("<I", plain, 12)
        fields = plain[16 : 16 + length]
        for _ in range(number):
            fields += bytes(-len(fields) % 8) + field
        return plain[:12] + struct.pack("<I", len(fields)) + fields + bytes(-len(fields) % 8)

    ears = Ears()
    ears.reader.feed(with_fields(number) + with_fields(0))
    assert ears.members() == ["First"]


def test_an_overlong_header_is_passed_over() -> None:
    ears = Ears()
    ears.reader.feed(message("First", 1, signature="u", path="/" + "a" * MAX_HEADER_BYTES) + message("Last"))
    assert ears.members() == ["Last"]


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", b"l\1\0\2" + bytes(12), b"l\1\0\1" + b"\377" * 12])
def test_what_is_not_dbus_ends_the_reading(data: bytes) -> None:
    with pytest.raises(ValueError, match="the bus sends"):
        Ears().reader.feed(data)


@pytest.mark.parametrize("body", [b"", b"\377\377\377\377", b"\1\0\0\0\377\0", b"\0\0"])
def test_a_body_that_is_not_what_its_header_says_is_told(body: bytes) -> None:
    ears = Ears()
    ears.reader.feed(message("NotThis", "x", signature="s"))
    with pytest.raises(ValueError, match="can't be decoded"):
        decode(ears.headers[0], bytearray(body))


def taken(room: Room, user: str, size: int) -> list[Charge]:
    """The calls of this size that a user gets under way."""
    charges = []
    for _ in range(100_000):
        try:
            charges.append(room.take(user, user, size))
        except CallError as error:
            assert error.name.endswith("LimitsExceeded")
            return charges
    raise AssertionError


def test_whoever_comes_later_finds_room() -> None:
    room = Room(ROOM_BYTES)
    counts = [len(taken(room, f":1.{n}", CALL_BYTES)) for n in range(50)]
    assert counts[0] > counts[1] > counts[2] > 200
    assert counts[-1] == 1
    assert sum(counts) * CALL_BYTES < ROOM_BYTES + 50 * CALL_BYTES


def test_long_calls_leave_room_for_short_ones() -> None:
    room = Room(ROOM_BYTES)
    assert len(taken(room, ":1.1", MAX_BODY_BYTES)) == 6
    for n in range(100):
        taken(room, f":1.{n}", MAX_BODY_BYTES)
    assert taken(room, ":1.1000", CALL_BYTES)


def test_room_that_is_given_back_is_there_again() -> None:
    room = Room(ROOM_BYTES)
    charges = taken(room, CALLER, CALL_BYTES)
    for charge in charges:
        room.give(charge)
    assert (room._left, room._taken, room._calls) == (ROOM_BYTES, {}, {})


def test_a_user_s_every_connection_may_have_one_small_call() -> None:
    room = Room(ROOM_BYTES)
    while len(room._calls) < 1000:
        room.take(1000, f":1.{len(room._calls)}", CALL_BYTES)
    with pytest.raises(CallError, match="too many"):
        room.take(1000, ":1.0", CALL_BYTES)
    room.take(1000, ":1.1000", CALL_BYTES)
    with pytest.raises(CallError, match="too many"):
        room.take(1000, ":1.1001", MAX_BODY_BYTES)


def test_a_charge_is_moved_to_its_user() -> None:
    room = Room(ROOM_BYTES)
    charges = [room.take(f":1.{n}", f":1.{n}", MAX_BODY_BYTES) for n in range(8)]
    moved = 0
    with pytest.raises(CallError, match="too many"):
        for charge in charges:
            room.move(charge, 1000)
            moved += 1
    assert moved > 1
    assert room._taken[1000] == moved * MAX_BODY_BYTES <= ROOM_BYTES // 4
    for charge in charges:
        room.give(charge)
    assert (room._left, room._taken, room._calls) == (ROOM_BYTES, {}, {})


def test_users_and_their_connections_take_turns() -> None:
    turns, done = Turns(), list[str]()
    for user, sender, count in ((1, "a", 3), (1, "b", 2), (2, "c", 1)):
        for number in range(count):
            turns.put(user, sender, partial(done.append, f"{sender}{number}"))
    while turns:
        turns.take()()
    assert done == ["a0", "c0", "b0", "a1", "b1", "a2"]


def test_ten_records_a_minute_reach_the_log() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    record = logging.makeLogRecord({})
    assert [seldom.filter(record) for _ in range(12)] == [True] * 10 + [False] * 2
    now = 60
    assert seldom.filter(record)


def test_one_record_of_each_kind_a_minute_is_due_and_tells_what_was_left_out() -> None:
    now = 0.0
    minutely = Minutely(lambda: now)
    assert [minutely.due(kind) for kind in ("a", "a", "b", "a")] == ["", None, "", None]
    now = 60
    assert [minutely.due(kind) for kind in ("a", "b")] == [" (and 2 more like this since the last such line)", ""]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:path=/run/dbus/system_bus_socket", ["/run/dbus/system_bus_socket"]),
        ("unix:guid=1,path=/a%20b;tcp:host=x;unix:abstract=/c,guid=2", ["/a b", "\0/c"]),
        ("unix:tmpdir=/tmp;nothing", []),
    ],
)
def test_addresses_name_sockets(address: str, expected: list[str]) -> None:
    assert places(address) == expected


def test_a_call_that_no_bus_has_handed_on_is_not_answered() -> None:
    asked: list[str] = []
    bus = SimpleNamespace(ended=None, receive=None, ask_user=asked.append, ask_statistics=asked.append)
    Connection(cast("Bus", bus))
    assert bus.receive(Header("<", 1, 0, 5, 0, "", "/a", "a.b", "Ping", "", 0, "")) is None
    assert asked == []


def with_bus(scenario: Callable[[Bus, socket.socket], None]) -> None:
    """Run something with a connection and the other end of its socket."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            bus = Bus(ours)
            scenario(bus, theirs)
            bus.disconnect()

    asyncio.run(main())


def test_serials_begin_anew_when_they_are_used_up() -> None:
    def scenario(bus: Bus, theirs: socket.socket) -> None:
        bus._serial = 2**32 - 2
        ears = Ears()
        for _ in range(2):
            bus.ask_user(CALLER)
            ears.reader.feed(theirs.recv(1000))
        assert [header.serial for header in ears.headers] == [2**32 - 1, 1]

    with_bus(scenario)


def test_a_connection_is_behind_while_there_is_more_than_it_reads_at_a_time() -> None:
    def scenario(bus: Bus, theirs: socket.socket) -> None:
        assert not bus.behind
        theirs.sendall(message() * (2 * CHUNK_BYTES // len(message())))
        for behind in (True, False, False):
            bus._read()
            assert bus.behind == behind

    with_bus(scenario)
