# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection that is opened anew, and the thread it may live in."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from momservice.bus.connection import BusLost, CallError, Connection
from momservice.errors import InvalidPolicy
from momservice.link import Link, ServiceUnavailable
from momservice.loop_thread import LoopEnded, LoopThread

MANAGER = "org.ovirt.Mom1.Manager"
T = TypeVar("T")


class Line:
    """A connection that answers with its number until it ends."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended = asyncio.Event()

    async def call(self, *_args: Any, **_more: Any) -> Any:
        if self.ended.is_set():
            raise BusLost("gone")
        return [self.number]

    async def lost(self) -> None:
        await self.ended.wait()

    def close(self) -> None:
        self.ended.set()


class Exchange:
    """What connects: one Line after the other, with a failure wherever one is put in."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.attempts = 0

    async def connect(self) -> Connection:
        self.attempts += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        self.lines.append(Line(len(self.lines)))
        return self.lines[-1]  # type: ignore[return-value]  # has all of Connection that a client uses


async def number(link: Link, deadline_s: float = 60) -> int:
    return int((await link.call(MANAGER, "Ping", deadline_s=deadline_s))[0])


def in_a_loop(test: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], T]:
    def run() -> T:
        return asyncio.run(test())

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_calls_share_one_connection_until_it_ends() -> None:
    exchange = Exchange()
    link = Link(exchange.connect)
    assert await asyncio.gather(*(number(link) for _ in range(10))) == [0] * 10
    exchange.lines[0].ended.set()
    while exchange.attempts < 2:
        try:
            assert await number(link) == 1
        except ServiceUnavailable:
            # The end is seen a turn of the loop later.
            await asyncio.sleep(0)
    assert await number(link) == 1


@in_a_loop
async def test_a_failure_to_connect_is_told_to_all_who_wait_and_the_next_call_tries_again() -> None:
    exchange = Exchange()
    exchange.failures.append(BusLost("no bus"))
    link = Link(exchange.connect)
    outcomes = await asyncio.gather(*(number(link) for _ in range(3)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no bus"] * 3
    assert all(isinstance(outcome, ServiceUnavailable) for outcome in outcomes)
    assert await number(link) == 0
    assert exchange.attempts == 2


@in_a_loop
async def test_a_bus_that_says_nothing_holds_nobody_up_beyond_the_deadline() -> None:
    exchange = Exchange()
    exchange.gate.clear()
    link = Link(exchange.connect)
    with pytest.raises(ServiceUnavailable, match="the system bus does not answer"):
        await number(link, 0.01)
    exchange.gate.set()
    assert await number(link) == 0
    assert exchange.attempts == 1


@in_a_loop
async def test_a_cancelled_call_cancels_nobody_elses_connection() -> None:
    exchange = Exchange()
    exchange.gate.clear()
    link = Link(exchange.connect)
    first, second = asyncio.ensure_future(number(link)), asyncio.ensure_future(number(link))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    exchange.gate.set()
    assert await second == 0


@in_a_loop
async def test_a_closed_link_stays_closed() -> None:
    exchange = Exchange()
    link = Link(exchange.connect)
    await number(link)
    await link.close()
    await link.close()
    assert exchange.lines[0].ended.is_set()
    with pytest.raises(ServiceUnavailable, match="closed"):
        await number(link)


@in_a_loop
async def test_closing_ends_what_waits_for_a_connection() -> None:
    exchange = Exchange()
    exchange.gate.clear()
    link = Link(exchange.connect)
    waiting = asyncio.ensure_future(number(link))
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(ServiceUnavailable, match="closed"):
        await waiting


@in_a_loop
async def test_the_services_errors_are_raised_as_their_classes() -> None:
    class Refusing(Line):
        async def call(self, *_args: Any, **_more: Any) -> Any:
            raise CallError("org.ovirt.Mom1.Error.InvalidPolicy", "a:1:1: no")

    async def connect() -> Connection:
        return Refusing(0)  # type: ignore[return-value]  # as above

    with pytest.raises(InvalidPolicy, match="a:1:1: no"):
        await number(Link(connect))


# The thread


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_thread_runs_what_it_is_given_and_ends() -> None:
    async def seven() -> int:
        return 7

    loop = LoopThread("test-loop")
    assert loop.run(seven()) == 7
    loop.close()
    loop.close()
    assert not threads("test-loop")
    with pytest.raises(LoopEnded):
        loop.run(seven())


def test_what_takes_too_long_is_cancelled() -> None:
    ended = threading.Event()

    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.set()

    loop = LoopThread("test-loop")
    # Long enough for the other thread to begin with it.
    with pytest.raises(TimeoutError):
        loop.run(slow(), 1)
    assert ended.wait(60)
    loop.close()


def test_closing_ends_the_calls_of_other_threads() -> None:
    loop = LoopThread("test-loop")
    started, outcomes = threading.Event(), []

    async def work() -> None:
        started.set()
        await forever()

    def call() -> None:
        try:
            loop.run(work())
        except LoopEnded as error:
            outcomes.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert started.wait(60)
    loop.close()
    caller.join(60)
    assert len(outcomes) == 1


def test_a_thread_that_nobody_holds_any_more_ends() -> None:
    loop = LoopThread("test-forgotten")
    (thread,) = threads("test-forgotten")
    del loop
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
