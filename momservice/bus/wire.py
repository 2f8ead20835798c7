# SPDX-License-Identifier: GPL-2.0-or-later
"""How messages come off the bus and get onto it: all that reaches into the bus library's insides.

Part of the code that runs as root. Any local user may send any process on the bus up to 32 MiB of anything. The library as it is decodes
all of it before anybody asks who or what it is for, keeps every signature it has ever seen, and takes a full socket for the end of the
connection. Here the header is read first, a body is kept and decoded only if somebody wants it, and what waits to be sent is bounded.
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from dbus_next import BusType, Message, MessageType
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio import MessageBus
from dbus_next.signature import SignatureTree

__all__ = ["CALL", "MAX_BODY_BYTES", "Bus", "Header", "Taker", "decode"]

# Of calls and signals, which anybody may send.
MAX_BODY_BYTES = 2 << 20
# Of replies to calls of our own: only those who were asked can send them, and the statistics of thousands of guests are long.
MAX_REPLY_BYTES = 32 << 20
# Five names of at most 255 bytes and a path. A longer header is nothing we could have a use for.
MAX_HEADER_BYTES = 64 << 10
# The specification's bound: what says that it is longer isn't a message.
MAX_MESSAGE_BYTES = 128 << 20
CHUNK_BYTES = 16 << 10
# While more than this waits for the bus nothing more is read: what is answered faster than the bus takes it would pile up here.
PAUSE_BYTES = 1 << 20
# What has been read already may still be answered with more than that. Beyond this replies and signals are dropped; calls of our own
# never are, their number is bounded by who makes them.
MAX_QUEUED_BYTES = 64 << 20
MAX_SIGNATURES = 512

START = {ord("l"): struct.Struct("<BBBBIII"), ord("B"): struct.Struct(">BBBBIII")}
START_BYTES = 16
CALL, SIGNAL = MessageType.METHOD_CALL.value, MessageType.SIGNAL.value
REPLIES = (MessageType.METHOD_RETURN.value, MessageType.ERROR.value)
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)


class Signatures(dict[str, SignatureTree]):
    """A cache of parsed signatures that is emptied when full."""

    def __setitem__(self, signature: str, tree: SignatureTree) -> None:
        if len(self) >= MAX_SIGNATURES:
            self.clear()
        super().__setitem__(signature, tree)


# The library's own is a plain dict, which any caller could make grow for ever.
SignatureTree._cache = Signatures(SignatureTree._cache)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an incoming message. Texts that it lacks are "", a number 0. `sender` is the bus's word, all else the sender's."""

    endian: int
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


def decode(header: Header, body: bytearray) -> list[Any]:
    """The values in a body. Raises ValueError for one that isn't what its header says."""
    try:
        decoder = _decoder(header.endian, body)
        return [decoder.read_argument(kind) for kind in SignatureTree._get(header.signature).types]
    except Exception as error:
        # The library raises whatever it stumbles over.
        raise ValueError(f"the message can't be decoded: {error}") from error


def _decoder(endian: int, data: bytearray) -> Unmarshaller:
    """The library's decoder for bytes that are all here: what points beyond them ends in EOFError."""
    decoder = Unmarshaller(io.BytesIO())
    decoder.endian, decoder.buf = endian, data
    return decoder


def _header(start: bytearray, fields: bytearray) -> Header:
    endian, kind, flags, _version, body_bytes, serial, _length = START[start[0]].unpack(start)
    decoder = _decoder(endian, start + fields)
    # The length of the array is part of the array.
    decoder.offset = START_BYTES - 4
    values = {code: variant.value for code, variant in decoder.read_argument(SignatureTree._get("a(yv)").types[0])}
    sender, path, interface, member, error_name, signature = (
        str(values.get(code, "")) for code in (SENDER, PATH, INTERFACE, MEMBER, ERROR_NAME, SIGNATURE)
    )
    reply_serial = int(values.get(REPLY_SERIAL, 0))
    return Header(endian, kind, flags, serial, body_bytes, sender, path, interface, member, error_name, reply_serial, signature)


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
    """Sends when the socket has room. Takes the place of the library's, which ends the connection when it hasn't."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: deque[memoryview] = deque()
        self.queued_bytes = 0

    def schedule_write(self, message: Message | None = None) -> None:
        """Queue a message; without one: the library says that sending may begin."""
        if message is not None:
            self.queue(message._marshall())
            return
        if self._bus.unique_name and self._queue:
            self._bus._loop.add_writer(self._bus._fd, self._write)

    def queue(self, *pieces: bytes) -> None:
        """Queue a message that has been marshalled; nothing of it is copied."""
        self._queue += map(memoryview, pieces)
        self.queued_bytes += sum(map(len, pieces))
        self.schedule_write()

    def _write(self) -> None:
        try:
            while self._queue:
                self._sent(self._bus._sock.send(self._queue[0]))
            self._bus._loop.remove_writer(self._bus._fd)
            self._bus.resume()
        except BlockingIOError:
            pass  # We are called again when there is room.
        except OSError as error:
            self._bus._finalize(error)

    def _sent(self, size: int) -> None:
        self.queued_bytes -= size
        if size == len(self._queue[0]):
            self._queue.popleft()
        else:
            self._queue[0] = self._queue[0][size:]


class Bus(MessageBus):  # type: ignore[misc]  # the library has no usable types
    """The library's connection with our own reading and writing.

    `receive` is asked about the header of every signal and method call; it must not raise, nor may the takers that it gives.
    """

    def __init__(self, address: str | None) -> None:
        super().__init__(bus_address=address, bus_type=BusType.SYSTEM)
        self._writer = Writer(self)
        self._reader = Reader(self._on_header)
        self.receive: Receiver = lambda _header: None

    def ask(self, message: Message) -> asyncio.Future[Message | None]:
        """Send a method call. Gives its reply, or None when the connection ends; whoever no longer waits calls `forget`."""
        answer: asyncio.Future[Message | None] = self._loop.create_future()

        def answered(reply: Message | None, _error: Exception | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        self._call(message, answered)
        return answer

    def forget(self, message: Message) -> None:
        """Wait no longer for the reply to a call."""
        self._method_return_handlers.pop(message.serial, None)

    def send(self, message: Message) -> None:
        """Queue a message. Raises what the library raises for a body that doesn't fit its signature."""
        message.serial = message.serial or self.next_serial()
        self._writer.schedule_write(message)

    def offer(self, message: Message) -> bool:
        """Queue a reply or signal; False if it was dropped because the bus takes no more."""
        if self._writer.queued_bytes > MAX_QUEUED_BYTES:
            return False
        self.send(message)
        return True

    def offer_marshalled(self, call: Header, signature: str, body: bytes) -> bool:
        """Queue the reply to a call whose body, of that signature, has been marshalled already, little-endian; False if it was dropped."""
        if self._writer.queued_bytes > MAX_QUEUED_BYTES:
            return False
        self._writer.queue(_reply_header(call, self.next_serial(), signature, len(body)), body)
        return True

    def resume(self) -> None:
        """Read on, if reading has been paused."""
        self._loop.add_reader(self._fd, self._message_reader)

    def _message_reader(self) -> None:
        if self._writer.queued_bytes > PAUSE_BYTES:
            self._loop.remove_reader(self._fd)
            return
        # One piece at a time: between two of them the loop does what else there is to do, however fast somebody sends.
        try:
            data = self._sock.recv(CHUNK_BYTES)
            if not data:
                raise EOFError("the bus has closed the connection")
            self._reader.feed(data)
        except BlockingIOError:
            pass
        except Exception as error:
            self._finalize(error)

    def _on_header(self, header: Header) -> Taker:
        if header.kind in (CALL, SIGNAL):
            return self.receive(header)
        if header.kind not in REPLIES or header.reply_serial not in self._method_return_handlers:
            return None
        if header.body_bytes > MAX_REPLY_BYTES:
            self._answered(_failed(header, f"the reply is longer than {MAX_REPLY_BYTES} bytes"))
            return None
        return lambda body: self._answered(_reply(header, body))

    def _answered(self, reply: Message) -> None:
        # Gone if it was forgotten while its body was on the way.
        if handler := self._method_return_handlers.pop(reply.reply_serial, None):
            handler(reply, None)


def _reply_header(call: Header, serial: int, signature: str, body_bytes: int) -> bytes:
    """The header of a method return, as the library would make it along with a body."""
    fields = struct.pack("<BB2sI", REPLY_SERIAL, 1, b"u", call.serial)
    name, kinds = call.sender.encode(), signature.encode()
    fields += struct.pack(f"<BB2sI{len(name) + 1}s", DESTINATION, 1, b"s", len(name), name)
    fields += bytes(-len(fields) % 8)
    fields += struct.pack(f"<BB2sB{len(kinds) + 1}s", SIGNATURE, 1, b"g", len(kinds), kinds)
    start = START[ord("l")].pack(ord("l"), MessageType.METHOD_RETURN.value, 0, 1, body_bytes, serial, len(fields))
    return start + fields + bytes(-len(fields) % 8)


def _reply(header: Header, body: bytearray) -> Message:
    try:
        return Message(
            message_type=MessageType(header.kind),
            error_name=header.error_name or None,
            reply_serial=header.reply_serial,
            sender=header.sender,
            signature=header.signature,
            body=decode(header, body),
        )
    except Exception as error:
        return _failed(header, str(error))


def _failed(header: Header, text: str) -> Message:
    name = "org.freedesktop.DBus.Error.InconsistentMessage"
    return Message(message_type=MessageType.ERROR, error_name=name, reply_serial=header.reply_serial, signature="s", body=[text])
