# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls of somebody who means harm, on real buses: each fault of plain dbus-next, and that our connection hasn't got it."""

from __future__ import annotations

import asyncio
import gc
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from dbus_next import Message, Variant
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.signature import SignatureTree
from served import LONG, NAME, ONE, PEER, Served, plain_server, run, stranger, to, until

from lab.stranger import Stranger, empty_strings
from momservice.bus import decoder, library, reading, serving
from momservice.bus.connection import ERROR, Connection
from momservice.bus.names import PATH

pytestmark = pytest.mark.usefixtures("fresh_log")


def signatures(number: int, start: int) -> list[Variant]:
    """Variants, each with a signature that hasn't been seen."""
    found = []
    for n in range(start, start + number):
        kinds = ["ynqiuxtd"[n >> (3 * k) & 7] for k in range(8)] + ["i"] * 100
        found.append(Variant("(" + "".join(kinds) + ")", [0] * 108))
    return found


def test_plain_dbus_next_keeps_every_signature_that_it_sees(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        message = to(bus.unique_name, "Ping", "av", signatures(1000, 0), interface=PEER)
        monkeypatch.setattr(SignatureTree, "_cache", {})
        serial = caller.send(message)
        await asyncio.to_thread(caller.answer, serial)
        assert len(SignatureTree._cache) > 1000

    asyncio.run(main())


def test_signatures_leave_nothing_behind(address: str) -> None:
    """Neither in what is refused nor in variants, where any signature is allowed."""

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        sizes = []
        for turn in range(4):
            variants = signatures(500, turn * 500)
            wrong = to(connection.unique_name, "Ping", "av", variants, interface=PEER)
            right = to(connection.unique_name, "SetParameters", "a{sv}", {str(n): variant for n, variant in enumerate(variants)})
            del variants
            for message, expected in ((wrong, ERROR + "InvalidArgs"), (right, None)):
                # In the loop's thread, so that whatever is remembered after the sending is the receiver's doing.
                serial = caller.send(message)
                SignatureTree._cache.clear()
                assert (await asyncio.to_thread(caller.answer, serial)).error_name == expected
                assert len(SignatureTree._cache) < 50
            del wrong, right, message
            assert library._cached_tree.cache_info().currsize <= 512
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[-1] < sizes[1] * 1.2

    tracemalloc.start()
    try:
        run(address, scenario)
    finally:
        tracemalloc.stop()


def record(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long the bodies are that are decoded, or would be, on plain dbus-next as on ours."""
    sizes: list[int] = [0]
    reader, decoding = Unmarshaller.read_argument, decoder.decoding

    def read_argument(self: Unmarshaller, kind: Any) -> Any:
        sizes.append(len(self.buf))
        return reader(self, kind)

    def decode(order: str, signature: str, body: bytearray) -> decoder.Steps[list[Any]]:
        sizes.append(len(body))
        return decoding(order, signature, body)

    monkeypatch.setattr(Unmarshaller, "read_argument", read_argument)
    monkeypatch.setattr(serving, "decoding", decode)
    return sizes


def test_plain_dbus_next_decodes_whatever_is_sent_to_a_member_without_arguments(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        serial = caller.send_raw(to(bus.unique_name, "Ping", "as", [], interface=PEER), empty_strings(4 << 20))
        sizes = record(monkeypatch)
        await asyncio.to_thread(caller.answer, serial)
        assert max(sizes) > 4 << 20

    asyncio.run(main())


def test_a_long_message_is_refused_undecoded_and_holds_nobody_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        message = to(connection.unique_name, "Ping", "as", [], interface=PEER)
        body = empty_strings(28_000_000)
        serials = [await asyncio.to_thread(caller.send_raw, message, body) for _ in range(3)]
        serial = other.send(to(connection.unique_name, "GetPolicy"))
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        for serial in serials:
            assert (await asyncio.to_thread(caller.answer, serial)).error_name == ERROR + "LimitsExceeded"
        assert len(connection._bus._reader._buffer) < reading.CHUNK_BYTES
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"path": "/nothing"}, "UnknownObject"),
        ({"interface": "a.b"}, "UnknownInterface"),
        ({"member": "Nothing"}, "UnknownMethod"),
        ({"signature": "as"}, "InvalidArgs"),
    ],
)
def test_what_is_for_nobody_is_refused_undecoded(
    address: str, monkeypatch: pytest.MonkeyPatch, message: dict[str, str], expected: str
) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await asyncio.to_thread(Stranger, address)
        fields = {"path": PATH, "interface": NAME, "member": "SetPolicy", "signature": "s", **message}
        call = Message(connection.unique_name, **fields, body=[[] if fields["signature"] == "as" else ""])
        serial = caller.send_raw(
            call, empty_strings(100_000) if fields["signature"] == "as" else struct.pack("<I", 99_995) + b"x" * 99_995 + b"\0"
        )
        assert (await asyncio.to_thread(caller.answer, serial)).error_name == ERROR + expected
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


def test_who_is_refused_is_in_the_log_once_a_minute_and_kind(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        caller = await stranger(address)
        for member in ("Nothing", "SetPolicy", "Never"):
            assert (await asyncio.to_thread(caller.call, to(connection.unique_name, member))).error_name
        await until(lambda: not connection._server.pending)
        refused = [record.getMessage() for record in caplog.records if record.name == serving.log.name]
        # In whatever order: both have asked whose connection it is.
        assert sorted(refused) == [
            f"refused Nothing to {caller.name} (uid {ONE}): UnknownMethod: no method Nothing in {NAME}",
            f"refused SetPolicy to {caller.name} (uid {ONE}): InvalidArgs: SetPolicy takes arguments of signature 's', not ''",
        ]

    run(address, scenario)


def test_a_guard_that_needs_no_arguments_comes_before_they_are_decoded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record(monkeypatch)

    async def scenario(connection: Connection, served: Served) -> None:
        connection.serve(PATH, replace(served.export, guard=served.refuse, guard_first=True))
        caller = await stranger(address)
        answer = await asyncio.to_thread(caller.call, to(connection.unique_name, "SetPolicy", "s", "x" * 100_000))
        assert answer.error_name == ERROR + "AccessDenied"
        assert max(sizes) < 2 * len(LONG)

    run(address, scenario)


def test_bodies_of_many_values_are_decoded_in_turns_and_of_too_many_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, decode = list[int](), decoder.decoding

    def count(order: str, signature: str, body: bytearray) -> decoder.Steps[list[Any]]:
        turns.append(0)
        steps = decode(order, signature, body)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                values: list[Any] = stop.value
                return values
            turns[-1] += 1
            yield

    monkeypatch.setattr(serving, "decoding", count)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await stranger(address)
        for number, expected in ((20_000, None), (100_000, ERROR + "LimitsExceeded")):
            values = {f"{n}": Variant("y", 1) for n in range(number)}
            serial = await asyncio.to_thread(caller.send, to(connection.unique_name, "SetParameters", "a{sv}", values))
            assert (await asyncio.to_thread(caller.answer, serial)).error_name == expected
        assert min(turns) >= 20_000 // decoder.VALUES_PER_STEP

    run(address, scenario)
