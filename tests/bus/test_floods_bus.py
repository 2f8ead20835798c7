# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers who ask for more than they may, on real buses: others are still answered, and memory is bounded."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from dbus_next import Message, MessageFlag
from served import LONG, ONE, OTHER, PEER, UNREAD, Served, plain_server, run, stranger, to, until

from lab.buses import DAEMON, PrivateBus
from lab.stranger import BUS, Stranger
from momservice.bus import bounds, objects, reading, serving, unread, users, wire, writing
from momservice.bus.connection import ERROR, Call, Connection
from momservice.bus.names import MANAGER, PATH

pytestmark = pytest.mark.usefixtures("fresh_log")


def test_answers_that_nobody_reads_end_plain_dbus_next(address: str) -> None:
    async def main() -> None:
        bus, caller = await plain_server(address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(bus.unique_name, "GetPolicy") for _ in range(UNREAD)])
        with pytest.raises(BlockingIOError):
            await asyncio.wait_for(bus.wait_for_disconnect(), 60)

    asyncio.run(main())


def test_answers_that_nobody_reads_end_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued, plain = [0], writing.Writer.write

    def write(self: writing.Writer, *pieces: bytes | bytearray) -> None:
        plain(self, *pieces)
        queued[0] = max(*queued, self.queued_bytes)

    monkeypatch.setattr(writing.Writer, "write", write)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await asyncio.to_thread(Stranger, address), await asyncio.to_thread(Stranger, address)
        await asyncio.to_thread(caller.send_all, [to(connection.unique_name, "GetPolicy") for _ in range(UNREAD)])
        serial = other.send(to(connection.unique_name, "GetPolicy"))
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        # No answer has been dropped or kept for long.
        assert queued[0] < wire.MAX_QUEUED_BYTES // 4
        # It may have been one too many at a time.
        answers = await asyncio.to_thread(caller.answers, caller.serial - UNREAD + 1, caller.serial)
        assert {answer.error_name for answer in answers.values()} <= {None, ERROR + "LimitsExceeded"}
        assert (await asyncio.to_thread(caller.call, to(connection.unique_name, "GetPolicy"))).body == [LONG]
        assert await connection.owner_of(connection.unique_name) == connection.unique_name

    run(address, scenario)


def test_answers_are_dropped_rather_than_hoarded_and_own_calls_are_not(address: str, bus: PrivateBus) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        answer = to(connection.unique_name, "X", "s", LONG, flags=MessageFlag.NO_REPLY_EXPECTED)
        bus.signal(signal.SIGSTOP)
        while connection._bus.offer(answer):
            pass
        assert connection._bus._writer.queued_bytes < wire.MAX_QUEUED_BYTES + 2 * len(LONG)
        call = asyncio.ensure_future(connection.owner_of(connection.unique_name))
        await asyncio.sleep(0.1)
        bus.signal(signal.SIGCONT)
        assert await call == connection.unique_name

    run(address, scenario)


def test_a_flood_by_one_user_leaves_room_for_others(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        flood, other = await stranger(address), await stranger(address, OTHER)
        calls = [to(connection.unique_name, "SetPolicy", "s", "x") for _ in range(3000)]
        first = flood.serial + 1
        last = await asyncio.to_thread(flood.send_all, calls)
        # The last is refused at once, so all have come.
        assert (await asyncio.to_thread(flood.answer, last)).error_name == ERROR + "LimitsExceeded"
        before, begin = len(connection._server.pending), other.serial + 1
        assert before < last - first
        end = await asyncio.to_thread(other.send_all, calls[:200])
        await until(lambda: len(connection._server.pending) == before + 200)
        served.gate.set()
        answers = await asyncio.to_thread(other.answers, begin, end)
        assert all(answer.body == [1] for answer in answers.values())
        # What was taken has been given back.
        await until(lambda: not connection._server.pending)
        assert connection._server.room._taken == {}

    run(address, scenario)


def test_a_user_gets_no_more_room_by_many_connections(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        text, room = "x" * (wire.MAX_BODY_BYTES - 1000), connection._server.room
        message, callers = to(connection.unique_name, "SetPolicy", "s", text), [await stranger(address) for _ in range(20)]
        serials = [await asyncio.to_thread(caller.send, message) for caller in callers]
        # Whoever has nothing of that size under way gets the next in: by then all of the first ones have come.
        other = await stranger(address, OTHER)
        await asyncio.to_thread(other.send, message)
        await until(lambda: room._taken[OTHER] > 0)
        assert 4 * room._taken[ONE] <= bounds.ROOM_BYTES
        assert room._taken.keys() == {ONE, OTHER}
        served.gate.set()
        pairs = zip(callers, serials, strict=True)
        errors = [(await asyncio.to_thread(caller.answer, serial)).error_name for caller, serial in pairs]
        assert set(errors) == {None, ERROR + "LimitsExceeded"}
        assert errors.count(None) <= 8

    run(address, scenario)


def test_callers_that_leave_in_mid_call_leave_nothing_behind(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        known, unknown = await stranger(address), await stranger(address)
        await asyncio.to_thread(known.call, to(connection.unique_name, "GetPolicy"))
        for caller in (known, unknown):
            served.gate.clear()
            caller.send(to(connection.unique_name, "SetPolicy", "s", "x" * 100_000))
            await until(lambda: bool(connection._server.pending))
            caller.close()
            served.gate.set()
            await until(lambda: not connection._server.pending)
        assert connection._server.room._taken == {}

    run(address, scenario)
    assert not caplog.text


def test_who_has_left_before_it_is_known_costs_no_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []
    plain = serving.Server._reply

    def note(self: serving.Server, header: reading.Header, *rest: Any) -> None:
        answered.append(header.sender)
        plain(self, header, *rest)

    monkeypatch.setattr(serving.Server, "_reply", note)

    async def scenario(connection: Connection, _served: Served) -> None:
        call = to(connection.unique_name, "GetPolicy")
        stays, *leave = [await stranger(address) for _ in range(60)]
        for caller in leave:
            caller.send_all([call] * 5)
            caller.close()
        # In the loop's thread: the bus has seen them go before it is asked who they were.
        names = Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames")
        while {caller.name for caller in leave}.intersection(*stays.call(names).body):
            time.sleep(0.01)
        gc.collect()
        gc.disable()
        assert (await asyncio.to_thread(stays.call, call)).body == [LONG]
        await until(lambda: not connection.users._asked)
        assert connection._server.room._taken == {}
        # Hardly anything either that refers to itself, and would hold the loop up when it is collected: some of the library's.
        assert gc.collect() < 5 * len(leave)

    try:
        run(address, scenario)
    finally:
        gc.enable()
    assert len(answered) == 1


def test_while_the_bus_takes_no_answers_calls_are_read_and_none_is_begun(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(connection: Connection, _served: Served) -> None:
        caller, other = await stranger(address), await stranger(address, OTHER)
        call, waiting = to(connection.unique_name, "GetPolicy"), connection._server._turns._users
        for known in (caller, other):
            await asyncio.to_thread(known.call, call)
        with monkeypatch.context() as patch:
            patch.setattr(wire, "BUSY_BYTES", -1)
            first, last = caller.serial + 1, await asyncio.to_thread(caller.send_all, [call] * 100)
            serial = await asyncio.to_thread(other.send, call)
            await until(lambda: sorted(len(calls) for senders in waiting.values() for calls in senders.values()) == [1, 100])
            await asyncio.sleep(2 * serving.TURN_S)
            assert not connection._server.pending
        assert (await asyncio.to_thread(other.answer, serial)).body == [LONG]
        assert len(await asyncio.to_thread(caller.answers, first, last)) == 100

    run(address, scenario)


def test_another_user_waits_for_a_turn_and_not_for_a_flood(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    on_call, reply = serving.Server.on_call, serving.Server._reply

    def called(self: serving.Server, header: reading.Header) -> reading.Taker:
        events.append(f"call {header.sender}")
        return on_call(self, header)

    def replied(self: serving.Server, header: reading.Header, *rest: Any) -> None:
        events.append(f"reply {header.sender}")
        reply(self, header, *rest)

    monkeypatch.setattr(serving.Server, "on_call", called)
    monkeypatch.setattr(serving.Server, "_reply", replied)

    async def scenario(connection: Connection, _served: Served) -> None:
        floods, other = [await stranger(address) for _ in range(20)], await stranger(address, OTHER)
        call = to(connection.unique_name, "GetPolicy")
        for caller in (*floods, other):
            await asyncio.to_thread(caller.call, call)
        # While the loop is here the bus takes all of it.
        for flood in floods:
            flood.send_all([call] * 40)
        serial = other.send(call)
        await asyncio.to_thread(other.answer, serial)
        begin = len(events) - 1 - events[::-1].index(f"call {other.name}")
        end = len(events) - 1 - events[::-1].index(f"reply {other.name}")
        # What has been begun before it came, and a turn.
        assert sum(event.startswith("reply") for event in events[begin:end]) <= 2 * serving.MAX_PER_TURN

    run(address, scenario)


def test_few_users_of_connections_are_remembered(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MAX_UIDS", 2)

    async def scenario(served_by: Connection, _served: Served) -> None:
        for _ in range(2):
            for caller in [await stranger(address, uid) for uid in (ONE, OTHER, ONE)]:
                assert (await asyncio.to_thread(caller.call, to(served_by.unique_name, "GetPolicy"))).body == [LONG]
            await until(lambda: not served_by.users._asked)
            assert sorted(served_by.users._uids.values()) == sorted([ONE, OTHER])
        assert await served_by.uid_of(caller.name) == ONE

    run(address, scenario)


def test_while_more_comes_than_is_read_calls_are_begun_less_often(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, turn = [0], serving.Server._turn

    def turned(self: serving.Server) -> None:
        turns[0] += 1
        turn(self)

    monkeypatch.setattr(serving.Server, "_turn", turned)
    monkeypatch.setattr(wire.Bus, "behind", property(lambda _bus: True, lambda _bus, _value: None), raising=False)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller = await stranger(address)
        for _ in range(3):
            turns[0] = 0
            answer = await asyncio.to_thread(caller.call, to(connection.unique_name, "GetPolicy"))
            assert answer.body == [LONG]
            # All the same it is begun.
            assert turns[0] == serving.PIECES_PER_TURN + 1

    run(address, scenario)


def test_nothing_is_done_for_standard_members_when_no_answer_is_wanted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, standard = list[str](), objects.Objects.standard

    def answered(self: objects.Objects, target: objects.Target, args: Sequence[Any]) -> Sequence[Any]:
        asked.append(target.member)
        return standard(self, target, args)

    monkeypatch.setattr(objects.Objects, "standard", answered)

    async def scenario(connection: Connection, _served: Served) -> None:
        caller, wants = await stranger(address), "org.freedesktop.DBus.Introspectable"
        quiet = to(connection.unique_name, "Introspect", interface=wants, flags=MessageFlag.NO_REPLY_EXPECTED)
        await asyncio.to_thread(caller.send_all, [quiet] * 10)
        assert (await asyncio.to_thread(caller.call, to(connection.unique_name, "Ping", interface=PEER))).error_name is None
        assert asked == ["Ping"]

    run(address, scenario)


def test_nothing_is_done_that_only_answers_when_no_answer_is_wanted(address: str) -> None:
    async def scenario(connection: Connection, served: Served) -> None:
        done: list[str] = []

        async def guard(call: Call) -> None:
            done.append(call.member)

        connection.serve(PATH, replace(served.export, guard=guard, answering={"GetPolicy"}))
        caller = await stranger(address)
        for member in ("GetPolicy", "ResetPolicies"):
            await asyncio.to_thread(caller.send, to(connection.unique_name, member, flags=MessageFlag.NO_REPLY_EXPECTED))
        assert (await asyncio.to_thread(caller.call, to(connection.unique_name, "GetPolicy"))).body == [LONG]
        assert done == ["ResetPolicies", "GetPolicy"]

    run(address, scenario)


# A megabyte each: dbus-daemon takes nothing more from whom it keeps 127 of.
MEGABYTE = "x" * (1 << 20)


@pytest.mark.parametrize("counted", [True, False])
def test_a_caller_that_never_reads_cannot_cut_the_service_off(
    address: str, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    if not counted:
        monkeypatch.setattr(unread.Answers, "take", lambda *_arguments: True)
    cut_off = not counted and bus.kind == DAEMON

    async def scenario(connection: Connection, served: Served) -> None:
        served.long = MEGABYTE
        caller, other = await stranger(address), await stranger(address, OTHER)
        caller.send_all([to(connection.unique_name, "GetPolicy")] * 200)
        await until(lambda: connection._server.room._taken[ONE] > 0)
        if cut_off:
            other.socket.settimeout(2)
        question = to(connection.unique_name, "ResetPolicies")
        if cut_off:
            with pytest.raises(TimeoutError):
                while True:
                    await asyncio.to_thread(other.call, question)
            return
        while connection._server.pending or connection._server._turns:
            assert (await asyncio.to_thread(other.call, question)).body == [1]
        if counted and bus.kind == DAEMON:
            answers = await asyncio.to_thread(caller.answers, caller.serial - 199, caller.serial)
            errors = [answer.error_name for answer in answers.values()]
            assert set(errors) == {None, ERROR + "LimitsExceeded"}
            assert errors.count(None) << 20 <= unread.ROOM_BYTES // 4
            # Now it has read them.
            assert (await asyncio.to_thread(caller.call, to(connection.unique_name, "GetPolicy"))).body == [MEGABYTE]

    run(address, scenario)


@pytest.mark.parametrize("counted", [True, False])
def test_a_listener_that_never_reads_cannot_cut_the_service_off(
    address: str, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, counted: bool
) -> None:
    if not counted:
        monkeypatch.setattr(unread.Signals, "may", lambda *_arguments: True)
    cut_off = not counted and bus.kind == DAEMON

    async def scenario(connection: Connection, _served: Served) -> None:
        listener, other = await stranger(address), await stranger(address, OTHER)
        rule = f"type='signal',sender='{connection.unique_name}'"
        await asyncio.to_thread(listener.call, Message(*BUS, "AddMatch", signature="s", body=[rule]))
        if cut_off:
            other.socket.settimeout(2)
        question = to(connection.unique_name, "ResetPolicies")

        async def emit_all() -> None:
            for _ in range(200):
                connection.emit(PATH, MANAGER, "Long", "s", MEGABYTE)
                assert (await asyncio.to_thread(other.call, question)).body == [1]

        if cut_off:
            with pytest.raises(TimeoutError):
                await emit_all()
        else:
            await emit_all()

    run(address, scenario)
    assert ("signals are dropped" in caplog.text) == (counted and bus.kind == DAEMON)
