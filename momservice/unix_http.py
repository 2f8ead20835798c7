# SPDX-License-Identifier: GPL-2.0-or-later
"""As much HTTP as XML-RPC needs, on a Unix socket: POST requests with a body of known length, answered one by one.

The other end is taken for an enemy: everything it may have is bounded, its connections, their time, the size of what it sends.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import logging
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from momservice.bus.bounds import Seldom

log = logging.getLogger(__name__)
log.addFilter(Seldom())

# A socket that systemd listens on stays when we go; from Python 3.13 on it would be removed.
KEEP: Mapping[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
CREDENTIALS = struct.Struct("3i")
HEAD_END = b"\r\n\r\n"
# What reads and writes may end with when the other end goes away, is late or says nonsense.
BROKEN = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the other end may have. `idle_s`: between two requests. `request_s`: to send one, and as long again to take the answer."""

    connections: int = 16
    idle_s: float = 30.0
    request_s: float = 5.0
    head_bytes: int = 16 << 10
    body_bytes: int = 1 << 20


class Refusal(Exception):
    """A request that isn't answered but by a status: HTTP's number and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Head:
    """What counts in the head of a request. `lasting`: the connection is to stay for the next one."""

    body_bytes: int
    lasting: bool


def read_head(head: bytes, limits: Limits) -> Head:
    """The head of a request. Raises Refusal."""
    line, _, fields = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):  # noqa: PLR2004 - method, path, version
        raise Refusal(400, "Bad Request")
    if words[0] != b"POST":
        raise Refusal(405, "Method Not Allowed")
    try:
        headers = http.client.parse_headers(io.BytesIO(fields))
    except http.client.HTTPException:
        raise Refusal(431, "Request Header Fields Too Large") from None
    if "Transfer-Encoding" in headers or headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(501, "Not Implemented")
    lengths: Sequence[str] = headers.get_all("Content-Length", [])
    if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        raise Refusal(411, "Length Required")
    if len(lengths[0]) > len(str(limits.body_bytes)) or int(lengths[0]) > limits.body_bytes:
        raise Refusal(413, "Content Too Large")
    return Head(int(lengths[0]), words[2] == b"HTTP/1.1" and headers.get("Connection", "").lower() != "close")


class Server:
    """Answers the users `peers`. `answer`: from a request's body to that of the answer, None to hang up without one."""

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes | None]], peers: Collection[int], limits: Limits | None = None) -> None:
        self._answer, self._peers, self._limits = answer, peers, limits or Limits()
        self._open = 0
        # The connections that wait for their other end, the one that has waited longest first.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._used_s = time.monotonic()

    async def serve(self, listening: socket.socket) -> asyncio.Server:
        """Answer on this socket from now on."""
        return await asyncio.start_unix_server(self._connected, sock=listening, limit=self._limits.head_bytes, **KEEP)

    async def idle(self, seconds: float) -> None:
        """Wait until nobody has been connected for so long."""
        while (rest_s := self._used_s + seconds - time.monotonic()) > 0 or self._open:
            await asyncio.sleep(rest_s if rest_s > 0 else seconds)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._admitted(writer):
                await self._converse(reader, writer)
        finally:
            self._open -= 1
            self._used_s = time.monotonic()
            # Nothing waits to be sent any more that somebody would take.
            writer.transport.abort()

    def _admitted(self, writer: asyncio.StreamWriter) -> bool:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in self._peers:
            log.warning("refused a connection of uid %d", uid)
            return False
        if self._open > self._limits.connections:
            # Whoever only waits makes room, so that nobody can keep others out by holding connections.
            for task in self._waiting:
                task.cancel()
                del self._waiting[task]
                return True
            log.warning("refused a connection: %d requests are under way", self._limits.connections)
            return False
        return True

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An answer counts as taken when all of it has left us.
        writer.transport.set_write_buffer_limits(0)
        try:
            while await self._exchange(reader, writer):
                pass
        except Refusal as refusal:
            log.warning("refused a request: %d %s", refusal.status, refusal.reason)
            await self._refuse(writer, refusal)
        except BROKEN as error:
            log.debug("a connection ended: %r", error)
        except asyncio.CancelledError:
            log.debug("a connection made room for another")

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Whether there may be another."""
        task = asyncio.current_task()
        assert task
        self._waiting[task] = None
        try:
            head, body = await self._request(reader)
        finally:
            self._waiting.pop(task, None)
        answer = await self._answer(body)
        if answer is None:
            return False
        async with asyncio.timeout(self._limits.request_s):
            connection = b"" if head.lasting else b"Connection: close\r\n"
            length = b"Content-Length: %d\r\n" % len(answer)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n" + connection + length + b"\r\n" + answer)
            await writer.drain()
        return head.lasting

    async def _request(self, reader: asyncio.StreamReader) -> tuple[Head, bytes]:
        async with asyncio.timeout(self._limits.idle_s):
            first = await reader.readexactly(1)
        async with asyncio.timeout(self._limits.request_s):
            head = read_head(first + await reader.readuntil(HEAD_END), self._limits)
            return head, await reader.readexactly(head.body_bytes)

    async def _refuse(self, writer: asyncio.StreamWriter, refusal: Refusal) -> None:
        try:
            async with asyncio.timeout(self._limits.request_s):
                writer.write(f"HTTP/1.1 {refusal.status} {refusal.reason}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except BROKEN:
            log.debug("a refusal wasn't taken")


def peer_uid(connection: socket.socket) -> int:
    """The user who connected, as the kernel saw it then."""
    _pid, uid, _gid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(uid)
