# SPDX-License-Identifier: GPL-2.0-or-later
"""What callers and listeners may leave unread, by what the bus tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from momservice.bus.connection import ERROR, Variant
from momservice.bus.unread import AGAIN_S, KEPT_BYTES, LOOK_BYTES, MAX_ASKED, MESSAGE_BYTES, ROOM_BYTES, SPARE_BYTES, Answers, Signals
from momservice.bus.wire import Reply

QUARTER = ROOM_BYTES // 4
# A first user may have as much as leaves four times as much.
FIRST = ROOM_BYTES // 5


class Bus:
    """Answers for the bus: `unread` by name; others have left."""

    def __init__(self) -> None:
        self.unread: dict[str, int] = {}
        self.asked: list[str] = []
        self.error = ""
        self._questions: list[tuple[str, asyncio.Future[Reply | None]]] = []

    def ask(self, name: str) -> asyncio.Future[Reply | None]:
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self.asked.append(name)
        self._questions.append((name, future))
        return future

    async def tell(self, number: int) -> None:
        """Answer when it has been asked so many questions in all."""
        while len(self.asked) < number:
            await asyncio.sleep(AGAIN_S / 10)
        questions, self._questions = self._questions, []
        for name, future in questions:
            left = name not in self.unread
            error = self.error or (ERROR + "NameHasNoOwner" if left else "")
            figures = {key: Variant("u", self.unread.get(name, 0)) for key in ("OutgoingBytes", "IncomingBytes")}
            future.set_result(Reply(error, ["no"] if error else [figures]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def run(scenario: Callable[[Bus, Answers], Awaitable[None]]) -> None:
    async def main() -> None:
        bus = Bus()
        await scenario(bus, Answers(bus.ask))

    asyncio.run(main())


def size(message: int) -> int:
    """Of a body that takes so much with what a message is counted with besides."""
    return message - MESSAGE_BYTES


def test_a_user_may_leave_a_part_unread_and_others_have_theirs() -> None:
    async def scenario(_bus: Bus, answers: Answers) -> None:
        taken = 0
        while answers.take(1, f":1.{taken % 3}", size(1 << 20)):
            taken += 1
        assert FIRST - (1 << 20) <= taken << 20 <= QUARTER
        # By other connections neither.
        assert not answers.take(1, ":1.9", size(1 << 20))
        # But a refusal can still be told.
        assert answers.take(1, ":1.9", size(SPARE_BYTES // 2), SPARE_BYTES)
        assert answers.take(2, ":1.10", size(1 << 20))

    run(scenario)


def test_however_many_users_there_are_something_is_left() -> None:
    async def scenario(_bus: Bus, answers: Answers) -> None:
        taken = sum(answers.take(user, f":1.{user}", size(100_000)) for user in range(100) for _ in range(1000))
        assert taken * 100_000 < ROOM_BYTES

    run(scenario)


def test_where_refusals_have_used_all_up_a_user_with_nothing_unread_need_not_wait() -> None:
    async def scenario(_bus: Bus, answers: Answers) -> None:
        for user in range(100):
            assert any(not answers.take(user, f":1.{user}", size(100_000), SPARE_BYTES) for _ in range(1000))
        assert answers._share() < 0
        await answers.settled("new")

    run(scenario)


def test_what_has_been_read_is_given_back_before_the_next_call() -> None:
    async def scenario(bus: Bus, answers: Answers) -> None:
        bus.unread = {":1.1": FIRST, ":1.2": FIRST}
        for name in (":1.1", ":1.2", ":1.3"):
            assert answers.take(1, name, size(FIRST // 4))
        # At once: whether the bus tells is to be known.
        await bus.tell(3)
        assert answers._of_user == {1: 2 * (FIRST // 4)}
        bus.unread = {":1.1": 0, ":1.2": 1000}
        assert answers.take(1, ":1.3", size(FIRST // 4))
        waiting = asyncio.ensure_future(answers.settled(1))
        while len(bus.asked) < 6:
            await asyncio.sleep(0)
        assert sorted(bus.asked[3:]) == [":1.1", ":1.2", ":1.3"]
        assert not waiting.done()
        # Sent since the bus was asked: it may be unread.
        assert answers.take(1, ":1.1", size(5000))
        await bus.tell(6)
        await waiting
        # The one that has left has nothing.
        assert answers._held == {1: {":1.1": 5000, ":1.2": 1000}}
        assert answers._of_user == {1: 6000}
        # Nobody is asked about little.
        await answers.settled(1)
        assert len(bus.asked) == 6

    run(scenario)


def test_the_bus_is_not_asked_again_at_once() -> None:
    async def scenario(bus: Bus, answers: Answers) -> None:
        bus.unread = {":1.1": FIRST}
        answers.take(1, ":1.1", size(FIRST - 1000))
        await bus.tell(1)
        begin = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(answers.settled(1))
        await bus.tell(2)
        await waiting
        assert asyncio.get_running_loop().time() - begin >= AGAIN_S * 0.9
        assert len(bus.asked) == 2

    run(scenario)


def test_a_refusal_that_is_not_told_is_looked_into() -> None:
    """Of calls that aren't begun nothing waits."""

    async def scenario(bus: Bus, answers: Answers) -> None:
        bus.unread = {":1.1": ROOM_BYTES}
        answers.take(None, ":1.1", size(FIRST - 1000), SPARE_BYTES)
        await bus.tell(1)
        while answers.take(None, ":1.1", 1000, SPARE_BYTES):
            pass
        bus.unread = {":1.1": 0}
        await bus.tell(2)
        assert answers.take(None, ":1.1", 1000, SPARE_BYTES)

    run(scenario)


def test_the_bus_is_asked_about_few_at_a_time() -> None:
    async def scenario(bus: Bus, answers: Answers) -> None:
        answers.take(1, ":1.1", 1)
        await bus.tell(1)
        for number in range(900):
            assert answers.take(1, f":1.{number}", 10_000)
        waiting = [asyncio.ensure_future(answers.settled(1)) for _ in range(10)]
        await bus.tell(2)
        await asyncio.gather(*waiting)
        assert len(bus.asked) == len(set(bus.asked[1:])) + 1 == MAX_ASKED + 1

    run(scenario)


def test_a_bus_that_does_not_tell_restricts_nobody() -> None:
    async def scenario(bus: Bus, answers: Answers) -> None:
        bus.error = ERROR + "AccessDenied"
        assert answers.take(1, ":1.1", 1)
        await bus.tell(1)
        assert all(answers.take(1, ":1.1", 1 << 20) for _ in range(1000))
        assert len(bus.asked) == 1
        assert not answers._held

    run(scenario)


@pytest.mark.parametrize("body", [[], [{}], ["text"], [{"OutgoingBytes": Variant("s", "x")}], [1, 2]])
def test_an_answer_that_makes_no_sense_is_none(body: list[Any]) -> None:
    async def main() -> None:
        question: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        answers = Answers(lambda _name: question)
        assert answers.take(1, ":1.1", 1)
        question.set_result(Reply("", body))
        await asyncio.sleep(AGAIN_S)
        assert all(answers.take(1, ":1.1", 1 << 20) for _ in range(1000))

    asyncio.run(main())


def test_the_end_of_the_connection_lets_all_go_on() -> None:
    async def main() -> None:
        question: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        answers = Answers(lambda _name: question)
        answers.take(1, ":1.1", FIRST - (1 << 20))
        waiting = asyncio.ensure_future(answers.settled(1))
        await asyncio.sleep(0)
        question.set_result(None)
        await waiting

    asyncio.run(main())


def test_signals_are_dropped_while_the_bus_keeps_too_much_and_go_on_when_it_does_not() -> None:
    async def main() -> None:
        bus = Bus()
        signals = Signals(bus.ask)
        assert signals.may(":1.1")
        assert bus.asked == []
        signals.sent += LOOK_BYTES
        bus.unread = {":1.1": KEPT_BYTES + 1}
        # It goes on until the bus has told.
        assert signals.may(":1.1")
        assert signals.may(":1.1")
        assert bus.asked == [":1.1"]
        await bus.tell(1)
        assert not signals.may(":1.1")
        bus.unread = {":1.1": KEPT_BYTES}
        await bus.tell(2)
        assert signals.may(":1.1")

    asyncio.run(main())


def test_a_bus_that_does_not_tell_stops_no_signals() -> None:
    async def main() -> None:
        bus = Bus()
        bus.error = ERROR + "Failed"
        signals = Signals(bus.ask)
        for _ in range(10):
            signals.sent += LOOK_BYTES
            assert signals.may(":1.1")
            await bus.tell(1)
        assert len(bus.asked) == 1

    asyncio.run(main())


def test_an_answer_waits_a_while_for_others_to_be_read() -> None:
    async def scenario(bus: Bus, answers: Answers) -> None:
        bus.unread = {":1.1": FIRST, ":1.2": 0}
        assert answers.take(1, ":1.1", size(FIRST - 1000))
        await bus.tell(1)
        waiting = asyncio.ensure_future(answers.room(1, ":1.2", size(5000)))
        await bus.tell(2)
        assert not waiting.done()
        bus.unread[":1.1"] = 0
        await bus.tell(3)
        assert await waiting
        # A user for whom others have left nothing waits as well.
        bus.unread |= {f":1.{number}": ROOM_BYTES for number in range(10, 100)}
        while answers.take(bus, ":1.10", size(1 << 20)) or any(answers.take(n, f":1.{n}", size(100_000)) for n in range(10, 100)):
            pass
        assert not await asyncio.wait_for(answers.room("new", ":1.7", size(1 << 20)), 60)

    run(scenario)
