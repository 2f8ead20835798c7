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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from momservice.bus.address import authenticated
from momservice.bus.decoder import at_once, decoding
from momservice.bus.library import Message, marshal
from momservice.bus.objects import CallError
from momservice.bus.reading import (
    CALL,
    CHUNK_BYTES,
    ERROR,
    RETURN,
    SIGNAL,
    Header,
    Reader,
    Receiver,
    Taker,
)
from momservice.bus.writing import BUS, Writer, question, reply_header

log = logging.getLogger(__name__)

# Of calls and signals, which anybody may send.
MAX_BODY_BYTES = 2 << 20
# Of replies to calls of our own: only those who were asked can send them, and the statistics of thousands of guests are long. More than
# this the bus takes from nobody; it ends the connection of whoever tries.
MAX_REPLY_BYTES = 32 << 20
# While the bus's backlog is longer than this no more calls are begun: one user's large answers would make others wait for theirs. While
# it's longer than that nothing more is read: refusals would pile up.
BUSY_BYTES, PAUSE_BYTES = 256 << 10, 1 << 20
# What has been read already may still be answered with more than that. Beyond this replies and signals are dropped; calls of our own
# never are, their number is bounded by who makes them.
MAX_QUEUED_BYTES = 64 << 20
# Some weeks of calls without pause use them all up; then they begin anew, and never with 0.
MAX_SERIAL = (1 << 32) - 1

GONE = "the connection to the system bus is gone"
FAILED = "org.freedesktop.DBus.Error.Failed"
STATISTICS = "org.freedesktop.DBus.Debug.Stats"
HELLO = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a call of ours. `error_name`: "" for a good one."""

    error_name: str
    body: list[Any]


class BusLost(Exception):
    """The connection to the bus is gone."""


def outcome(reply: Reply | None) -> Sequence[Any]:
    """The values of a reply. Raises CallError for an error, BusLost for none."""
    if reply is None:
        raise BusLost(GONE)
    if reply.error_name:
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else reply.error_name
        raise CallError(reply.error_name, text)
    return tuple(reply.body)


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
        self.behind = False
        """Whether the bus had more for us than we took when we last read."""
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
        self._send(message)
        return self._answer_to(message.serial)

    def ask_user(self, name: str) -> asyncio.Future[Reply | None]:
        """Ask the bus for the user id behind a name on it. Gives its reply, or None when the connection ends."""
        return self._ask_bus(BUS, "GetConnectionUnixUser", name)

    def ask_statistics(self, name: str) -> asyncio.Future[Reply | None]:
        """Ask the bus how much waits for the connection with a name on it, and from it. Gives its reply, or None as above."""
        return self._ask_bus(STATISTICS, "GetConnectionStats", name)

    def _ask_bus(self, interface: str, member: str, name: str) -> asyncio.Future[Reply | None]:
        serial = self._next_serial()
        self._write(question(interface, member, name, serial))
        return self._answer_to(serial)

    def _answer_to(self, serial: int) -> asyncio.Future[Reply | None]:
        answer: asyncio.Future[Reply | None] = self._loop.create_future()
        if self.ended.done():
            answer.set_result(None)
        else:
            self._answers[serial] = answer
        return answer

    def forget(self, message: Message) -> None:
        """Wait no longer for the reply to a call."""
        self._answers.pop(message.serial, None)

    def offer(self, message: Message) -> int:
        """Queue a message; how many bytes it has, 0 if it was dropped because the bus takes no more. Raises as `ask`."""
        return 0 if self._writer.queued_bytes > MAX_QUEUED_BYTES else self._send(message)

    def offer_marshalled(self, call: Header, signature: str, body: bytes, error_name: str = "") -> bool:
        """Queue the reply to a call whose body, of that signature, has been marshalled already, little-endian; False if it was dropped.

        `error_name`: "" for a good one. Raises ValueError for one that is too long, or a name that is none.
        """
        if self._writer.queued_bytes > MAX_QUEUED_BYTES:
            return False
        self._write(reply_header(call, self._next_serial(), signature, len(body), error_name), body)
        return True

    def _send(self, message: Message) -> int:
        message.serial = self._next_serial()
        data = marshal(message)
        self._write(data)
        return len(data)

    def _next_serial(self) -> int:
        self._serial = self._serial % MAX_SERIAL + 1
        return self._serial

    def _write(self, *pieces: bytes | bytearray) -> None:
        if (size := sum(map(len, pieces))) > MAX_REPLY_BYTES:
            raise ValueError(f"a message of {size} bytes: the bus takes none of over {MAX_REPLY_BYTES}")
        if not self.ended.done():
            self._writer.write(*pieces)

    @property
    def congested(self) -> bool:
        """Whether the bus takes less than it is sent."""
        return self._writer.backlog > BUSY_BYTES

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._stream, self._read)

    def _read(self) -> None:
        if self._writer.backlog > PAUSE_BYTES:
            self._paused = True
            self._loop.remove_reader(self._stream)
            return
        # One piece at a time: between two of them the loop does what else there is to do, however fast somebody sends.
        try:
            data = self._stream.recv(CHUNK_BYTES)
            if not data:
                raise EOFError("the bus has closed the connection")
            self.behind = len(data) == CHUNK_BYTES
            self._reader.feed(data)
        except BlockingIOError:
            self.behind = False
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


def _reply(header: Header, body: bytearray) -> Reply:
    error_name = "" if header.kind == RETURN else header.error_name or FAILED
    try:
        return Reply(error_name, at_once(decoding(header.order, header.signature, body, most=sys.maxsize)))
    except ValueError as error:
        return _failed(str(error))


def _failed(text: str) -> Reply:
    return Reply(FAILED, [text])
