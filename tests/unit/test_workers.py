# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads for calls that may never return."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from momservice.hypervisor.workers import DeadlineMissed, NoThreadLeft, Workers

Scenario = Callable[[Workers, threading.Event], Coroutine[Any, Any, None]]


def play(scenario: Scenario, limit: int = 2) -> None:
    """Run a scenario with workers and a gate that hung calls wait at; the gate is opened at the end."""
    gate = threading.Event()

    async def run() -> None:
        try:
            await scenario(Workers(limit, "test"), gate)
        finally:
            gate.set()

    asyncio.run(run())


def test_gives_results_and_exceptions_of_the_function() -> None:
    async def scenario(workers: Workers, _gate: threading.Event) -> None:
        assert await workers.run(lambda: 42, 60) == 42
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, 60)

    play(scenario)


def test_a_quiet_thread_is_used_again() -> None:
    async def scenario(workers: Workers, _gate: threading.Event) -> None:
        names = {await workers.run(lambda: threading.current_thread().name, 60) for _ in range(5)}
        assert len(names) == 1

    play(scenario)


def test_a_hung_call_is_abandoned_and_the_next_one_runs() -> None:
    async def scenario(workers: Workers, gate: threading.Event) -> None:
        with pytest.raises(DeadlineMissed, match=r"no answer within 0\.01 s"):
            await workers.run(gate.wait, 0.01)
        assert await workers.run(lambda: "alive", 60) == "alive"

    play(scenario)


def test_all_threads_hung_is_said_at_once_and_heals_when_they_return() -> None:
    async def scenario(workers: Workers, gate: threading.Event) -> None:
        returned = asyncio.Event()
        for _ in range(2):
            with pytest.raises(DeadlineMissed):
                await workers.run(gate.wait, 0.01, returned.set)
        with pytest.raises(NoThreadLeft, match="all 2 threads"):
            await workers.run(lambda: 0, 60)
        gate.set()
        await asyncio.wait_for(returned.wait(), 60)
        assert await workers.run(lambda: "again", 60) == "again"

    play(scenario)


def test_the_late_result_of_an_abandoned_call_is_dropped_and_its_return_told() -> None:
    async def scenario(workers: Workers, gate: threading.Event) -> None:
        returned = asyncio.Event()

        def late() -> None:
            gate.wait()
            raise ValueError("nobody must see this")

        with pytest.raises(DeadlineMissed):
            await workers.run(late, 0.01, returned.set)
        assert not returned.is_set()
        gate.set()
        await asyncio.wait_for(returned.wait(), 60)
        # Its thread is the only one.
        assert await workers.run(lambda: "quiet", 60) == "quiet"

    play(scenario, limit=1)


def test_threads_are_daemons_so_that_a_hung_one_holds_up_no_exit() -> None:
    async def scenario(workers: Workers, _gate: threading.Event) -> None:
        assert await workers.run(lambda: threading.current_thread().daemon, 60)

    play(scenario)
