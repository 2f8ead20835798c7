# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a bus is, and how it learns who we are.

Part of the code that runs as root.
"""

from __future__ import annotations

import asyncio
import os
import socket
from urllib.parse import unquote

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
MAX_LINE_BYTES = 1000


async def authenticated(address: str | None) -> socket.socket:
    """A socket of the bus at one of the places in `address`, or of the system bus. Raises OSError or ValueError."""
    address = address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS
    error: Exception = ValueError(f"'{address}' is not the address of a bus on this machine")
    for place in places(address):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            stream.setblocking(False)
            await _authenticate(stream, place)
        except BaseException as raised:
            stream.close()
            if not isinstance(raised, OSError):
                raise
            error = raised
        else:
            return stream
    raise error


def places(address: str) -> list[str]:
    """The Unix sockets of a D-Bus address: "unix:path=/run/bus,guid=1;unix:abstract=bus"."""
    found = []
    for place in address.split(";"):
        transport, _, rest = place.partition(":")
        options = dict(option.partition("=")[::2] for option in rest.split(","))
        if transport == "unix" and "path" in options:
            found.append(unquote(options["path"]))
        elif transport == "unix" and "abstract" in options:
            found.append("\0" + unquote(options["abstract"]))
    return found


async def _authenticate(stream: socket.socket, place: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stream, place)
    await loop.sock_sendall(stream, b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    line = b""
    # The bus says no more before BEGIN.
    while not line.endswith(b"\r\n") and len(line) < MAX_LINE_BYTES:
        piece = await loop.sock_recv(stream, MAX_LINE_BYTES)
        if not piece:
            raise ConnectionError("the bus closes the connection at once")
        line += piece
    if not line.startswith(b"OK "):
        raise ConnectionError("the bus doesn't accept us")
    await loop.sock_sendall(stream, b"BEGIN\r\n")
