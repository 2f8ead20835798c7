# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies run beside the event loop; a run that is overtaken meanwhile is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from test_engine import Bench

from momservice import engine
from momservice.policy import decide

COUNT = "(Host.SetVar 'n' (+ 1 (Host.GetVar 'n'))) (Host.Control 'knob' 1)"


class Slow:
    """The evaluation, which ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        monkeypatch.setattr(engine, "decide", self._decide)

    def _decide(self, *args: Any) -> Any:
        self.begun.set()
        assert self.end.wait(30)
        return decide(*args)

    async def during(self, bench: Bench, work: Callable[[], Any]) -> None:
        """A run, and what is done while it goes on."""
        running = asyncio.ensure_future(bench.engine._policy_round())
        while not self.begun.is_set():
            await asyncio.sleep(0.001)
        if isinstance(told := work(), Coroutine):
            await told
        assert not running.done()
        self.end.set()
        await running


def variable(bench: Bench) -> object:
    return bench.engine.variables.get("host", {}).get("n")


@pytest.fixture
def bench() -> Bench:
    made = Bench("(Host.SetVar 'n' 0)")
    made.rounds()
    asyncio.run(made.store.set_policies({"p": COUNT}))
    return made


def test_the_loop_goes_on_while_a_policy_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(Slow(monkeypatch).during(bench, bench.engine._sampling.guest_round))
    assert (len(bench.engine.runs), variable(bench), bench.knob.wanted[-1]) == (2, 1, [("host", 1)])


@pytest.mark.parametrize("what", ["pause", "policies", "parameters"])
def test_a_run_that_is_overtaken_is_dropped(what: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Callable[[], Any]] = {
        "pause": lambda: bench.engine.pause("", 0),
        "policies": lambda: bench.store.set_policies({"p": "(Host.Control 'knob' 2)"}),
        "parameters": lambda: bench.store.set_parameters({"x": 2}, 0),
    }
    asyncio.run(bench.store.set_policies({"p": COUNT + "(defvar x 1)"}))
    before, last = len(bench.knob.wanted), (bench.engine.last_evaluation_us, bench.engine.evaluation_duration_us)
    asyncio.run(Slow(monkeypatch).during(bench, changes[what]))
    assert (len(bench.engine.runs), variable(bench), bench.knob.wanted[before:]) == (1, 0, [])
    # What is told of the last run is of one that counts, which Explain knows as well.
    assert (bench.engine.last_evaluation_us, bench.engine.evaluation_duration_us) == last
    bench.engine.resume()
    bench.rounds()
    assert (len(bench.engine.runs), len(bench.knob.wanted)) == (2, before + 1)
