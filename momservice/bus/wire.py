# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket: how messages come off the bus and get onto it.

Part of the code that runs as root. Any local user may send any process on the bus up to 32 MiB of anything. The bus library's own
connection decodes all of it before anybody asks who or what it is for, and takes a full socket for the end of the connection. Here the
header is read first, a body is kept only if somebody wants it, and what waits to be sent is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from momservice.bus.address import authenticated
from momservice.bus.decoder import Decoder, at_once, decoding
from momservice.bus.library import Message, MessageType, marshal, signature_tree

__all__ = ["CALL", "MAX_BODY_BYTES", "Bus", "Header", "Reply", "Taker"]

log = logging.getLogger(__name__)

# Of calls and signals, which anybody may send.
MAX_BODY_BYTES = 2 << 20
# Of replies to calls of our own: only those who were asked can send them, and the statistics of thousands of guests are long. More than
# this the bus takes from nobody; it ends the connection of whoever tries.
MAX_REPLY_BYTES = 32 << 20
# Five names of at most 255 bytes and a path. A longer header is nothing we could have a use for.
MAX_HEADER_BYTES = 64 << 10
# The types in all signatures of its fields, each known one has one; and the values in those that aren't known. Both are read in one go.
MAX_HEADER_TYPES, MAX_HEADER_VALUES = 64, 500
# The specification's bound: what says that it is longer isn't a message.
MAX_MESSAGE_BYTES = 128 << 20
CHUNK_BYTES = 16 << 10
# While more than this waits for the bus nothing more is read: what is answered faster than the bus takes it would pile up here.
PAUSE_BYTES = 1 << 20
# What has been read already may still be answered with more than that. Beyond this replies and signals are dropped; calls of our own
# never are, their number is bounded by who makes them.
MAX_QUEUED_BYTES = 64 << 20

ORDERS = {ord("l"): "<", ord("B"): ">"}
START = {code: struct.Struct(order + "BBBBIII") for code, order in ORDERS.items()}
START_BYTES = 16
CALL, SIGNAL = MessageType.METHOD_CALL.value, MessageType.SIGNAL.value
RETURN, ERROR = MessageType.METHOD_RETURN.value, MessageType.ERROR.value
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)
FAILED = "org.freedesktop.DBus.Error.Failed"
HELLO = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an incoming message. Texts that it lacks are "", a number 0. `sender` is the bus's word, all else the sender's.

    `order`: struct's sign of the byte order.
    """

    order: str
    kind: int
    flags: int
    serial: int
    body_bytes: int
    sender: str
    path: str
    interface: str
    member: str
    error_name: str
    reply_serial: int
    signature: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a call of ours. `error_name`: "" for a good one."""

    error_name: str
    body: list[Any]


def _header(start: bytearray, fields: bytearray) -> Header:
    code, kind, flags, _version, body_bytes, serial, length = START[start[0]].unpack(start)
    decoder, values = Decoder(ORDERS[code], start + fields, START_BYTES, MAX_HEADER_VALUES), dict[int, Any]()
    types = 0
    while decoder.offset < START_BYTES + length:
        decoder.align(8)
        field, signature = decoder.basic("y"), decoder.basic("g")
        types += len(signature)
        if types > MAX_HEADER_TYPES:
            raise ValueError("the header has too many fields")
        # One that isn't known may be of any type.
        (values[field],) = [at_once(decoder.any(each)) for each in signature_tree(signature).types]
    sender, path, interface, member, error_name, signature = (
        str(values.get(code, "")) for code in (SENDER, PATH, INTERFACE, MEMBER, ERROR_NAME, SIGNATURE)
    )
    reply_serial = int(values.get(REPLY_SERIAL, 0))
    return Header(ORDERS[code], kind, flags, serial, body_bytes, sender, path, interface, member, error_name, reply_serial, signature)


# Takes a body, or None: nobody wants it.
Taker = Callable[[bytearray], None] | None
Receiver = Callable[[Header], Taker]


class Reader:
    """Cuts the stream into messages: asks `receive` with each header what is to take the body, and skips it in pieces if nothing is."""

    def __init__(self, receive: Receiver) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._messages = self._cut()
        self._wanted = next(self._messages)

    def feed(self, data: bytes) -> None:
        """Go on with what the socket gave. Raises ValueError for what isn't D-Bus; nothing can be read after that."""
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            piece = self._buffer[: self._wanted]
            del self._buffer[: self._wanted]
            self._wanted = self._messages.send(piece)

    def _cut(self) -> Generator[int, bytearray, None]:
        """Yields how many bytes it needs next, is sent them."""
        while True:
            start = yield START_BYTES
            header_bytes, body_bytes = self._sizes(start)
            take: Taker = None
            if header_bytes > MAX_HEADER_BYTES:
                yield from self._skip(header_bytes)
            else:
                fields = yield header_bytes
                take = self._ask(start, fields)
            if take:
                take((yield body_bytes))
            else:
                yield from self._skip(body_bytes)

    @staticmethod
    def _sizes(start: bytearray) -> tuple[int, int]:
        if start[0] not in START or start[3] != 1:
            raise ValueError("the bus sends what isn't D-Bus")
        *_, body_bytes, _serial, length = START[start[0]].unpack(start)
        header_bytes = length + -length % 8
        if header_bytes + body_bytes > MAX_MESSAGE_BYTES:
            raise ValueError("the bus sends a message longer than D-Bus allows")
        return header_bytes, body_bytes

    @staticmethod
    def _skip(size: int) -> Generator[int, bytearray, None]:
        while size:
            piece = min(size, CHUNK_BYTES)
            yield piece
            size -= piece

    def _ask(self, start: bytearray, fields: bytearray) -> Taker:
        try:
            header = _header(start, fields)
        except Exception:
            # Not all buses check all of a header. Whom to answer isn't known.
            return None
        return self._receive(header)


class Writer:
    """Sends now or when the socket has room. `emptied` is called when all is sent, `failed` when nothing more can be."""

    def __init__(self, stream: socket.socket, emptied: Callable[[], None], failed: Callable[[], None]) -> None:
        self._loop, self._stream, self._emptied, self._failed = asyncio.get_running_loop(), stream, emptied, failed
        self._queue: deque[memoryview] = deque()
        self.queued_bytes = 0

    def write(self, *pieces: bytes | bytearray) -> None:
        """Queue a message; nothing of it is copied."""
        idle = not self._queue
        self._queue += map(memoryview, pieces)
        self.queued_bytes += sum(map(len, pieces))
        if idle:
            self._write()

    def _write(self) -> None:
        try:
            while self._queue:
                self._sent(self._stream.send(self._queue[0]))
            self._loop.remove_writer(self._stream)
            self._emptied()
        except BlockingIOError:
            self._loop.add_writer(self._stream, self._write)
        except OSError:
            self._failed()

    def _sent(self, size: int) -> None:
        self.queued_bytes -= size
        if size == len(self._queue[0]):
            self._queue.popleft()
        else:
            self._queue[0] = self._queue[0][size:]


class Bus:
    """A connection to a bus.

    `receive` is asked about the header of every signal and method call; it must not raise, nor may the takers that it gives. `ended` is
    done when the connection is.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._loop, self._stream = asyncio.get_running_loop(), stream
        self._reader = Reader(self._on_header)
        self._writer = Writer(stream, self._resume, self.disconnect)
        self._serial = 0
        self._answers: dict[int, asyncio.Future[Reply | None]] = {}
        self.unique_name = ""
        self.receive: Receiver = lambda _header: None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._paused = True
        self._resume()

    @classmethod
    async def connect(cls, address: str | None) -> Bus:
        """Connect to the bus at one of the places in a D-Bus address, or to the system bus. Raises OSError or ValueError."""
        bus = cls(await authenticated(address))
        try:
            hello = await bus.ask(Message(*HELLO))
            if hello is None or hello.error_name:
                raise ConnectionError("the bus lets nobody in")
            (bus.unique_name,) = hello.body
        except BaseException:
            bus.disconnect()
            raise
        return bus

    def disconnect(self) -> None:
        """End the connection."""
        if self.ended.done():
            return
        self._loop.remove_reader(self._stream)
        self._loop.remove_writer(self._stream)
        self._stream.close()
        self.ended.set_result(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)

    def ask(self, message: Message) -> asyncio.Future[Reply | None]:
        """Send a method call. Gives its reply, or None when the connection ends; whoever no longer waits calls `forget`.

        Raises what the library raises for a body that doesn't fit its signature.
        """
        answer: asyncio.Future[Reply | None] = self._loop.create_future()
        self._send(message)
        if self.ended.done():
            answer.set_result(None)
        else:
            self._answers[message.serial] = answer
        return answer

    def forget(self, message: Message) -> None:
        """Wait no longer for the reply to a call."""
        self._answers.pop(message.serial, None)

    def offer(self, message: Message) -> bool:
        """Queue a reply or signal; False if it was dropped because the bus takes no more. Raises as `ask`."""
        if self._writer.queued_bytes > MAX_QUEUED_BYTES:
            return False
        self._send(message)
        return True

    def offer_marshalled(self, call: Header, signature: str, body: bytes) -> bool:
        """Queue the reply to a call whose body, of that signature, has been marshalled already, little-endian; False if it was dropped.

        Raises ValueError for one that is too long.
        """
        if self._writer.queued_bytes > MAX_QUEUED_BYTES:
            return False
        self._serial += 1
        self._write(_reply_header(call, self._serial, signature, len(body)), body)
        return True

    def _send(self, message: Message) -> None:
        self._serial += 1
        message.serial = self._serial
        self._write(marshal(message))

    def _write(self, *pieces: bytes | bytearray) -> None:
        if (size := sum(map(len, pieces))) > MAX_REPLY_BYTES:
            raise ValueError(f"a message of {size} bytes: the bus takes none of over {MAX_REPLY_BYTES}")
        if not self.ended.done():
            self._writer.write(*pieces)

    @property
    def congested(self) -> bool:
        """Whether the bus takes less than it is sent, so that nothing more is read."""
        return self._writer.queued_bytes > PAUSE_BYTES

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._stream, self._read)

    def _read(self) -> None:
        if self.congested:
            self._paused = True
            self._loop.remove_reader(self._stream)
            return
        # One piece at a time: between two of them the loop does what else there is to do, however fast somebody sends.
        try:
            data = self._stream.recv(CHUNK_BYTES)
            if not data:
                raise EOFError("the bus has closed the connection")
            self._reader.feed(data)
        except BlockingIOError:
            pass
        except (OSError, EOFError, ValueError) as error:
            log.debug("the connection to the bus ends: %s", error)
            self.disconnect()

    def _on_header(self, header: Header) -> Taker:
        if header.kind in (CALL, SIGNAL):
            return self.receive(header)
        if header.kind not in (RETURN, ERROR) or header.reply_serial not in self._answers:
            return None
        if header.body_bytes > MAX_REPLY_BYTES:
            self._answered(header, _failed(f"the reply is longer than {MAX_REPLY_BYTES} bytes"))
            return None
        return lambda body: self._answered(header, _reply(header, body))

    def _answered(self, header: Header, reply: Reply) -> None:
        # Gone if it was forgotten while its body was on the way.
        answer = self._answers.pop(header.reply_serial, None)
        if answer and not answer.done():
            answer.set_result(reply)


def _reply_header(call: Header, serial: int, signature: str, body_bytes: int) -> bytes:
    """The header of a method return, as the library would make it along with a body."""
    fields = struct.pack("<BB2sI", REPLY_SERIAL, 1, b"u", call.serial)
    name, kinds = call.sender.encode(), signature.encode()
    fields += struct.pack(f"<BB2sI{len(name) + 1}s", DESTINATION, 1, b"s", len(name), name)
    fields += bytes(-len(fields) % 8)
    fields += struct.pack(f"<BB2sB{len(kinds) + 1}s", SIGNATURE, 1, b"g", len(kinds), kinds)
    start = START[ord("l")].pack(ord("l"), RETURN, 0, 1, body_bytes, serial, len(fields))
    return start + fields + bytes(-len(fields) % 8)


def _reply(header: Header, body: bytearray) -> Reply:
    error_name = "" if header.kind == RETURN else header.error_name or FAILED
    try:
        return Reply(error_name, at_once(decoding(header.order, header.signature, body, most=sys.maxsize)))
    except ValueError as error:
        return _failed(str(error))


def _failed(text: str) -> Reply:
    return Reply(FAILED, [text])
