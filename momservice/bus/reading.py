# SPDX-License-Identifier: GPL-2.0-or-later
"""Cuts what comes off the bus into messages, and reads their headers.

Part of the code that runs as root.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from momservice.bus.decoder import Decoder, at_once
from momservice.bus.library import MessageType, signature_tree

# Five names of at most 255 bytes and a path. A longer header is nothing we could have a use for.
MAX_HEADER_BYTES = 64 << 10
# The types in all signatures of its fields, each known one has one; and the values in those that aren't known. Both are read in one go.
MAX_HEADER_TYPES, MAX_HEADER_VALUES = 64, 500
# The specification's bound: what says that it is longer isn't a message.
MAX_MESSAGE_BYTES = 128 << 20
CHUNK_BYTES = 16 << 10

ORDERS = {ord("l"): "<", ord("B"): ">"}
START = {code: struct.Struct(order + "BBBBIII") for code, order in ORDERS.items()}
START_BYTES = 16
CALL, SIGNAL = MessageType.METHOD_CALL.value, MessageType.SIGNAL.value
RETURN, ERROR = MessageType.METHOD_RETURN.value, MessageType.ERROR.value
# Of the fields that are known.
SIMPLE = frozenset("ogsu")
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)


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
        simple = signature in SIMPLE
        values[field] = decoder.basic(signature) if simple else at_once(decoder.any(*signature_tree(signature).types))
    sender, path, interface, member, error_name, signature = (
        str(values.get(code, "")) for code in (SENDER, PATH, INTERFACE, MEMBER, ERROR_NAME, SIGNATURE)
    )
    reply_serial = int(values.get(REPLY_SERIAL, 0))
    return Header(ORDERS[code], kind, flags, serial, body_bytes, sender, path, interface, member, error_name, reply_serial, signature)


# Takes a body, or None: nobody wants it.
Taker = Callable[[bytearray], None] | None
Receiver = Callable[[Header], Taker]


class Reader:
    """Cuts the stream into messages: asks `receive` with each header what is to take the body, and skips it in pieces if nothing is.

    `wanted`: how many bytes the next step needs.
    """

    def __init__(self, receive: Receiver) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._messages = self._cut()
        self.wanted = next(self._messages)

    def feed(self, data: bytes) -> None:
        """Go on with what the socket gave. Raises ValueError for what isn't D-Bus; nothing can be read after that."""
        self._buffer += data
        while len(self._buffer) >= self.wanted:
            piece = self._buffer[: self.wanted]
            del self._buffer[: self.wanted]
            self.wanted = self._messages.send(piece)

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
