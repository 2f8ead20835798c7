# SPDX-License-Identifier: GPL-2.0-or-later
"""How messages get onto the bus; and those that are made so often that the library would take too long to make them.

Part of the code that runs as root.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from momservice.bus.library import is_interface_name_valid
from momservice.bus.reading import (
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SIGNATURE,
    START,
    Header,
)

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
LITTLE = ord("l")
# What dbus-daemon does with a short message takes as long as to take in so many bytes of a long one.
PIECE_BYTES = 4 << 10


class Writer:
    """Sends now or when the socket has room. `emptied` is called when all is sent, `failed` when nothing more can be."""

    def __init__(self, stream: socket.socket, emptied: Callable[[], None], failed: Callable[[], None]) -> None:
        self._loop, self._stream, self._emptied, self._failed = asyncio.get_running_loop(), stream, emptied, failed
        self._queue: deque[memoryview] = deque()
        self.queued_bytes = 0

    @property
    def backlog(self) -> int:
        """How long the bus will be at it, as the bytes of a long message that it would take as long for."""
        return self.queued_bytes + PIECE_BYTES * len(self._queue)

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


def reply_header(call: Header, serial: int, signature: str, body_bytes: int, error_name: str = "") -> bytes:
    """The header of a reply, as the library would make it along with a body. Raises ValueError for an error name that is none."""
    fields = [_number(REPLY_SERIAL, call.serial), _text(DESTINATION, "s", call.sender)]
    if signature:
        fields.append(_text(SIGNATURE, "g", signature))
    if error_name:
        if not _is_error_name(error_name):
            raise ValueError(f"there can be no error '{error_name}'")
        fields.append(_text(ERROR_NAME, "s", error_name))
    return _header(ERROR if error_name else RETURN, serial, _fields(*fields), body_bytes)


def question(interface: str, member: str, name: str, serial: int) -> bytes:
    """A call of the bus's own method that takes a name on it."""
    body = text_body(name)
    return _header(CALL, serial, _to_the_bus(interface, member), len(body)) + body


def text_body(text: str) -> bytes:
    """The body with one text in it."""
    encoded = text.encode()
    return struct.pack(f"<I{len(encoded) + 1}s", len(encoded), encoded)


# Whoever sends what the bus doesn't take is thrown out. Names of others' errors are few.
_is_error_name = lru_cache(maxsize=64)(is_interface_name_valid)


@lru_cache
def _to_the_bus(interface: str, member: str) -> bytes:
    texts = ((PATH, "o", BUS_PATH), (INTERFACE, "s", interface), (MEMBER, "s", member), (DESTINATION, "s", BUS), (SIGNATURE, "g", "s"))
    return _fields(*[_text(*field) for field in texts])


def _header(kind: int, serial: int, fields: bytes, body_bytes: int) -> bytes:
    start = START[LITTLE].pack(LITTLE, kind, 0, 1, body_bytes, serial, len(fields))
    return start + fields + bytes(-len(fields) % 8)


def _fields(*fields: bytes) -> bytes:
    made = bytearray()
    for field in fields:
        made += bytes(-len(made) % 8) + field
    return bytes(made)


def _number(field: int, value: int) -> bytes:
    return struct.pack("<BB2sI", field, 1, b"u", value)


def _text(field: int, kind: str, value: str) -> bytes:
    text = value.encode()
    return struct.pack(f"<BB2s{'B' if kind == 'g' else 'I'}{len(text) + 1}s", field, 1, kind.encode(), len(text), text)
