# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations of runs: what they tell, what they cost the live cycle, and that one thing is explained at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_engine import Bench

from momservice import explanations
from momservice.__main__ import offload
from momservice.bus.answers import to_explanation
from momservice.bus.reports import explanation
from momservice.columns import GuestTable
from momservice.config import Config
from momservice.controllers import HelperUnavailable, Outcome
from momservice.errors import Busy, UnknownGuest
from momservice.explained import Explanation
from momservice.explanations import MAX_READS, MAX_ROWS, Explainer, explain
from momservice.fields import Names, Schema
from momservice.hypervisor.workers import Workers
from momservice.parts import schema
from momservice.policy import Call, Place, Read, evaluate, load
from momservice.policy.machine import Machine
from momservice.snapshot import HOST, Entity, Snapshot, Value
from momservice.watching import PolicyRun

POLICY = """\
(def give (guest amount) (guest.Control "target" (+ guest.mem amount)))
(with Guests g (give g 1))
(Host.Control "knob" Host.mem_free)
"""


def kinds(rows: Sequence[Explanation]) -> list[tuple[int, str, str]]:
    return [(row.run, row.kind, row.control) for row in rows]


def recorded(policy: str, world: Snapshot, number: int = 1) -> PolicyRun:
    """A run that wasn't applied."""
    names = Names(frozenset({"mem"}), frozenset({"mem"}), frozenset({"target", "knob"}), frozenset({"name"}))
    program = load({"p": policy}, Schema(names, names)).program
    assert program is not None
    return PolicyRun(number, 1, program, world, evaluate(program, world), 1)


def test_a_control_is_told_with_rule_line_inputs_and_what_became_of_it() -> None:
    bench = Bench(POLICY)
    bench.rounds()
    (row,) = explain(bench.engine.runs, "a")
    assert (row.run, row.generation, row.kind, row.control) == (1, 1, "control", "target")
    assert row.time_us == bench.engine.last_evaluation_us
    assert (row.wanted, row.applied, row.status, row.reason) == (8, 1, "applied", "")
    assert (row.rule, row.place, row.calls) == ("give", Place("p", 1, 26), (Call("give", Place("p", 2, 16)),))
    assert row.line == '(def give (guest amount) (guest.Control "target" (+ guest.mem amount)))'
    assert row.reads == (Read("a", "stat", "mem", 7),)


def test_only_what_was_asked_for_is_told_newest_first() -> None:
    bench = Bench(POLICY)
    bench.rounds(3)
    runs = [*bench.engine.runs][::-1]
    assert kinds(explain(runs[:2], HOST)) == [(3, "control", "knob"), (2, "control", "knob")]
    assert kinds(explain(runs, "b")) == [(number, "control", "target") for number in (3, 2, 1)]


def test_a_control_in_a_top_level_form_has_no_rule() -> None:
    bench = Bench(POLICY)
    bench.rounds()
    (row,) = explain(bench.engine.runs, HOST)
    assert (row.rule, row.place) == ("", Place("p", 3, 1))


def test_a_guest_that_was_dropped_and_a_form_that_failed_are_told_with_code_and_place() -> None:
    bench = Bench(POLICY + "(/ 1 0)")
    bench.guest.bad = "a"
    bench.rounds()
    dropped, failed = explain(bench.engine.runs, "a")
    assert (dropped.kind, dropped.code, dropped.message) == ("dropped", "type", "'+' takes no nil and integer")
    assert (dropped.place, dropped.rule, dropped.line[:9]) == (Place("p", 1, 50), "give", "(def give")
    assert (failed.kind, failed.code, failed.place, failed.line) == ("failed", "zero-division", Place("p", 4, 1), "(/ 1 0)")
    assert kinds(explain(bench.engine.runs, "b")) == [(1, "control", "target"), (1, "failed", "")]


def test_a_reason_for_clamping_is_the_controllers() -> None:
    bench = Bench(POLICY)
    bench.rounds()
    (run,) = bench.engine.runs
    run.outcomes["a", "target", ""] = Outcome("a", "target", 8, 9, "clamped", "clamped to the guest's minimum, 9 KiB")
    (row,) = explain([run], "a")
    assert (row.applied, row.status, row.reason) == (9, "clamped", "clamped to the guest's minimum, 9 KiB")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [('(with Guests g (g.Control "target" nil))', "nil is no control"), (POLICY, explanations.NO_OUTCOME)],
)
def test_a_control_that_no_controller_spoke_of_says_why(policy: str, reason: str) -> None:
    bench = Bench(policy)
    bench.balloon.fault = HelperUnavailable("away")
    bench.rounds()
    (row,) = explain(bench.engine.runs, "a")
    assert (row.status, row.applied, row.reason) == ("none", None, reason)


def test_a_run_without_anything_to_tell_says_so() -> None:
    bench = Bench("(+ 1 2)")
    bench.rounds()
    world = Snapshot(Entity(HOST), [Entity("a", [{"mem": 1}])])
    assert kinds(explain(bench.engine.runs, HOST)) == [(1, "nothing", "")]
    assert kinds(explain([recorded("1", world, 5)], "b")) == [(5, "absent", "")]
    # Beyond its budget.
    run = recorded('(Host.Control "knob" 1)' + "(with Guests g (with Guests h (+ 1 1)))" * 300, many(1000), 6)
    assert run.decisions.ended
    assert [row.kind for row in explain([run], HOST)][-1] == "ended"


def many(guests: int) -> Snapshot:
    keys = [f"00000000-0000-0000-0000-{number:012}" for number in range(guests)]
    rows: Sequence[Sequence[dict[str, Value]]] = [[{"mem": number} for number in range(guests)]] * 3
    return Snapshot(Entity(HOST, [{"mem": 5}]), GuestTable(keys, [{"name": key} for key in keys], rows))


def test_what_is_told_of_one_run_is_bounded() -> None:
    forms = "".join(f"(Host.Control 'c{number}' Host.mem)" for number in range(MAX_ROWS + 20))
    rows = explain([recorded(forms, many(1))], HOST)
    assert (len(rows), rows[-1].kind, rows[-1].more) == (MAX_ROWS + 1, "more", 20)


def test_the_inputs_of_all_controls_together_are_bounded() -> None:
    # 100 inputs explain a control at most.
    forms = "".join(f"{{(with Guests g (set x (+ x g.mem))) (Host.Control 'c{number}' x)}}" for number in range(30))
    runs = [recorded(f"(defvar x 0) {forms}", many(150), number) for number in range(2)]
    rows = explain(runs, HOST)
    assert sum(len(row.reads) for row in rows) == MAX_READS
    assert [(len(row.reads), row.reads_left_out) for row in (rows[0], rows[-1])] == [(100, 0), (0, 100)]


def test_runs_for_which_no_time_is_left_are_skipped() -> None:
    bench = Bench(POLICY)
    bench.rounds(3)
    answers = iter([True, False, False])
    assert [row.kind for row in explain(bench.engine.runs, "a", lambda: next(answers))] == ["control", "skipped", "skipped"]


def test_nothing_is_traced_in_a_live_run(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[bool] = []
    make = Machine.__init__

    def init(self: Machine, *args: Any, trace: bool, steps: int | None = None) -> None:
        traced.append(trace)
        make(self, *args, trace=trace, steps=steps)

    monkeypatch.setattr(Machine, "__init__", init)
    bench = Bench(POLICY)
    bench.rounds(3)
    # The compiled form decided, and no other evaluator was made at all.
    assert (traced, [control.reads for run in bench.engine.runs for control in run.decisions.controls]) == ([], [()] * 9)
    explain(bench.engine.runs, "a")
    assert traced == [True] * 3


def test_what_is_explained_is_what_was_decided() -> None:
    folder = Path(__file__).parents[2] / "conf" / "policy.d"
    program = load({file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.policy")}, schema(Config())).program
    assert program is not None
    balloon: dict[str, Value] = {"balloon_cur": 900, "balloon_max": 1000, "balloon_min": 500}
    guest = {**balloon, "mem_available": 1000, "mem_unused": 300, "mem_free": 400}
    host = Entity(HOST, [{"mem_available": 6000, "mem_free": 300}] * 3, {"interval": 10})
    world = Snapshot(host, [Entity("a", [guest] * 3, {"name": "vm-a"})])
    run = PolicyRun(1, 1, program, world, evaluate(program, world), 1)
    told = explain([run], "a")
    assert told
    assert [(row.control, row.wanted) for row in told] == [(c.name, c.value) for c in run.decisions.controls if c.entity == "a"]
    assert {"mem_free", "balloon_cur"} <= {read.name for row in told for read in row.reads}


# --- the bus -----------------------------------------------------------------------------------------------------------------------------


def test_rows_come_back_from_the_bus_as_they_were() -> None:
    bench = Bench(POLICY + "(/ 1 0)")
    bench.rounds(2)
    for row in (*explain(bench.engine.runs, "a"), *explain([recorded("1", many(1))], "b")):
        assert to_explanation(explanation(row)) == row


def test_texts_are_cut_and_lists_are_texts_on_the_bus() -> None:
    reads = [Read("a", "stat", "y\n", "z" * 999)]
    row = Explanation(1, 2, 3, "control", Place("p", 1, 1), "x" * 300, (), "c", wanted=[1, None, "a\0"], reads=reads)
    back = to_explanation(explanation(row))
    assert (len(back.line), back.wanted, back.reads[0].name) == (203, '[1, null, "a\\u0000"]', "y?")
    assert len(str(back.reads[0].value)) == 203


# --- one at a time -----------------------------------------------------------------------------------------------------------------------


async def at_once(function: Callable[[], Any]) -> Any:
    return function()


def test_a_guest_that_no_run_saw_is_unknown() -> None:
    bench = Bench(POLICY)
    explainer = Explainer(bench.engine.runs, at_once)
    assert asyncio.run(explainer.explain(HOST, 10)) == []
    bench.rounds(2)
    assert len(asyncio.run(explainer.explain("a", 1))) == 1
    with pytest.raises(UnknownGuest, match="no guest c was there in the last 10 runs"):
        asyncio.run(explainer.explain("c", 10))


def test_one_thing_is_explained_at_a_time_outside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(POLICY)
    bench.rounds()
    release, threads = threading.Event(), []

    def slow(*args: Any) -> Any:
        threads.append(threading.current_thread())
        assert release.wait(60)
        return real(*args)

    real = explanations.explain
    monkeypatch.setattr(explanations, "explain", slow)

    async def scenario() -> None:
        explainer = Explainer(bench.engine.runs, partial(offload, Workers(1, "explain"), 60, "try again later"))
        first = asyncio.ensure_future(explainer.explain("a", 1))
        while not threads:
            await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="try again later"):
            await explainer.explain(HOST, 1)
        release.set()
        assert len(await first) == 1
        assert len(await explainer.explain(HOST, 1)) == 1

    asyncio.run(scenario())
    assert all(thread is not threading.main_thread() for thread in threads)


def test_what_takes_too_long_is_given_up() -> None:
    bench = Bench(POLICY)
    bench.rounds()
    release = threading.Event()

    async def scenario() -> None:
        async def late(function: Callable[[], Any]) -> Any:
            return await offload(Workers(1, "explain"), 0.05, "takes too long", lambda: release.wait(60))

        with pytest.raises(Busy, match="takes too long"):
            await Explainer(bench.engine.runs, late).explain("a", 1)
        release.set()

    asyncio.run(scenario())


def test_no_run_is_begun_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(POLICY)
    bench.rounds(2)
    monkeypatch.setattr(explanations, "EXPLAIN_S", -1.0)
    begin = time.monotonic()
    assert [row.kind for row in asyncio.run(Explainer(bench.engine.runs, at_once).explain("a", 10))] == ["skipped"] * 2
    assert time.monotonic() - begin < 60
