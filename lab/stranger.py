# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of a bus that does what it likes, on plain dbus-next: blocking, and it reads only when it is told to."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dbus_next import Message, MessageFlag
from dbus_next._private.unmarshaller import Unmarshaller

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
TIMEOUT_S = 60.0


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Be another user for a moment, in the whole process."""
    before = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)


class Stranger:
    """`name`: its unique name."""

    def __init__(self, address: str, uid: int | None = None) -> None:
        """Connect, as another user if `uid` is given."""
        self.serial = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        with user(os.geteuid() if uid is None else uid):
            self.socket.connect(address.removeprefix("unix:path="))
            self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        answer = self.socket.recv(1000)
        if not answer.startswith(b"OK"):
            raise ConnectionError(answer)
        self.socket.sendall(b"BEGIN\r\n")
        self.stream = self.socket.makefile("rb")
        self.name: str = self.call(Message(*BUS, "Hello")).body[0]

    def close(self) -> None:
        """Go."""
        self.stream.close()
        self.socket.close()

    def send(self, message: Message) -> int:
        """Send, give the serial."""
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
        return self.answers(serial, serial)[serial]

    def answers(self, first: int, last: int) -> dict[int, Message]:
        """Read until all these calls have been answered, in whatever order: nothing promises one for calls that are under way together."""
        found: dict[int, Message] = {}
        while len(found) <= last - first:
            message = Unmarshaller(self.stream).unmarshall()
            if message.reply_serial is not None and first <= message.reply_serial <= last:
                found[message.reply_serial] = message
        return found

    def call(self, message: Message) -> Message:
        """Send, and read on to the answer."""
        return self.answer(self.send(message))


def call_of(destination: str, path: str, interface: str, member: str, signature: str = "", *args: object, quiet: bool = False) -> Message:
    """A method call. `quiet`: no answer is wanted."""
    flags = MessageFlag.NO_REPLY_EXPECTED if quiet else MessageFlag.NONE
    return Message(destination, path, interface, member, signature=signature, body=list(args), flags=flags)


def empty_strings(size: int) -> bytes:
    """A body of so many bytes: an array of strings, most of them nothing but their lengths."""
    return struct.pack("<I", size - 3) + bytes(size - 3)
