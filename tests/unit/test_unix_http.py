# SPDX-License-Identifier: GPL-2.0-or-later
"""The server on a real socket: what it answers, and what it doesn't let anybody do to the others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momservice.unix_http import Limits, Refusal, Server, read_head

LIMITS = Limits()
Scenario = Callable[[Server, str], Awaitable[None]]


def post(body: bytes, *, path: str = "/RPC2", version: str = "1.1", more: str = "") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: x\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def echo(body: bytes) -> bytes | None:
    return None if body == b"nothing" else body


def run(tmp_path: Path, scenario: Scenario, limits: Limits = LIMITS, answer: Callable[[bytes], Awaitable[bytes | None]] = echo) -> None:
    """A scenario with a server, whose user is that of the tests."""

    async def main() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "socket"))
        server = Server(answer, {os.geteuid()}, limits)
        serving = await server.serve(listening)
        await scenario(server, str(tmp_path / "socket"))
        serving.close()

    asyncio.run(asyncio.wait_for(main(), 60))


async def answer_to(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer; b"" after one that is only a status, which is checked to be none of success."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
    assert head.startswith("HTTP/1.1 200 OK\r\n") == bool(length)
    return await reader.readexactly(length)


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the server hangs up without a word."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


def test_requests_on_one_connection_are_answered_in_turn(tmp_path: Path) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(post(b"one") + post(b"two", path="/any/path?x=1"))
        assert [await answer_to(reader), await answer_to(reader)] == [b"one", b"two"]
        for byte in post(b"three"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert await answer_to(reader) == b"three"

    run(tmp_path, scenario)


@pytest.mark.parametrize("request_bytes", [post(b"one", version="1.0"), post(b"one", more="Connection: Close\r\n")])
def test_a_connection_that_is_not_to_last_is_closed(tmp_path: Path, request_bytes: bytes) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request_bytes)
        assert await answer_to(reader) == b"one"
        assert await ends(reader)

    run(tmp_path, scenario)


def test_a_large_answer_is_sent_whole(tmp_path: Path) -> None:
    large = b"x" * (8 << 20)

    async def answer(_body: bytes) -> bytes:
        return large

    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(post(b"one", version="1.0"))
        assert await answer_to(reader) == large

    run(tmp_path, scenario, answer=answer)


def test_without_an_answer_the_connection_ends(tmp_path: Path) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(post(b"nothing"))
        assert await ends(reader)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\ncontent-length: 1048576\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 10_000 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % number for number in range(200)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 405),
        (b"POST / HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
    ids=range(14),
)
def test_a_head_is_read_or_refused_with_a_status(head: bytes, status: int) -> None:
    try:
        read_head(head, LIMITS)
        assert status == 0
    except Refusal as refusal:
        assert refusal.status == status


PIECES = [b"POST", b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"Content-Length", b":", b"5", b"-", b"Transfer-Encoding", b"\xff"]


@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)))
def test_whatever_comes_is_a_head_or_refused(head: bytes) -> None:
    try:
        assert 0 <= read_head(head + b"\r\n\r\n", LIMITS).body_bytes <= LIMITS.body_bytes
    except Refusal as refusal:
        assert refusal.status >= 400


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000], ids=["GET", "long"]
)
def test_a_refusal_is_a_status_and_the_end(tmp_path: Path, sent: bytes) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await answer_to(reader) == b""
        assert await ends(reader)

    run(tmp_path, scenario)


@pytest.mark.parametrize("sent", [b"\0" * 100_000, b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000], ids=["one line", "many lines"])
def test_a_head_without_end_ends_the_connection(tmp_path: Path, sent: bytes) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await ends(reader)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("limits", "sent"),
    [(Limits(idle_s=0.05), b""), (Limits(request_s=0.05), b"POST "), (Limits(request_s=0.05), post(b"x")[:-1])],
    ids=["silent", "in the head", "in the body"],
)
def test_who_says_nothing_or_stops_halfway_is_dropped(tmp_path: Path, limits: Limits, sent: bytes) -> None:
    async def scenario(_server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await ends(reader)

    run(tmp_path, scenario, limits)


def test_who_does_not_take_the_answer_is_dropped(tmp_path: Path) -> None:
    async def answer(_body: bytes) -> bytes:
        return b"x" * (8 << 20)

    async def scenario(server: Server, path: str) -> None:
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(post(b"x"))
        await asyncio.wait_for(server.idle(0.05), 30)

    run(tmp_path, scenario, Limits(request_s=0.05), answer)


def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    async def scenario(_server: Server, path: str) -> None:
        held = [await asyncio.open_unix_connection(path) for _ in range(40)]
        held[-1][1].write(b"POST / HTTP/1.1\r\n")
        for _ in range(40):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(post(b"one"))
            assert await answer_to(reader) == b"one"
            held.append((reader, writer))
        assert await ends(held[0][0])

    run(tmp_path, scenario, Limits(connections=4))


def test_requests_under_way_keep_their_place(tmp_path: Path) -> None:
    gate, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def answer(body: bytes) -> bytes:
        begun.release()
        await gate.wait()
        return body

    async def scenario(_server: Server, path: str) -> None:
        held = [await asyncio.open_unix_connection(path) for _ in range(4)]
        for _, writer in held:
            writer.write(post(b"one"))
            await begun.acquire()
        late, _writer = await asyncio.open_unix_connection(path)
        assert await ends(late)
        gate.set()
        assert [await answer_to(reader) for reader, _ in held] == [b"one"] * 4

    run(tmp_path, scenario, Limits(connections=4), answer)


def test_another_user_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "socket"))
        serving = await Server(echo, {os.geteuid() + 1}).serve(listening)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        writer.write(post(b"one"))
        assert await ends(reader)
        serving.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_idle_means_that_nobody_is_connected(tmp_path: Path) -> None:
    async def scenario(server: Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        # It knows of the connection by then.
        writer.write(post(b"one"))
        assert await answer_to(reader) == b"one"
        idle = asyncio.ensure_future(server.idle(0.05))
        await asyncio.sleep(0.3)
        assert not idle.done()
        writer.close()
        await idle

    run(tmp_path, scenario)


def test_the_socket_stays_for_those_who_handed_it_over(tmp_path: Path) -> None:
    async def scenario(_server: Server, _path: str) -> None:
        return

    run(tmp_path, scenario)
    assert (tmp_path / "socket").is_socket()
