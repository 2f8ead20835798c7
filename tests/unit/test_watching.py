# SPDX-License-Identifier: GPL-2.0-or-later
"""What watchers hear of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from test_engine import A, B, Bench

from momservice.controllers import Outcome, World
from momservice.watching import PolicyRun, Watcher


class Diary(Watcher):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.lines: list[object] = []

    def sampled(self, world: World) -> None:
        self.lines.append(("sampled", sorted(world.guests), world.host.get("mem_free")))

    def guests_changed(self, added: Sequence[str], removed: Sequence[str]) -> None:
        self.lines.append(("guests", added, removed))

    def ran(self, run: PolicyRun) -> None:
        self.lines.append(("ran", run.number, run.generation, len(run.decisions.controls), dict(run.outcomes)))

    def applied(self, run: PolicyRun, outcomes: Sequence[Outcome]) -> None:
        self.lines.append(("applied", run.number, [(outcome.entity, outcome.control) for outcome in outcomes]))

    def reasons_changed(self, reasons: Mapping[str, str]) -> None:
        self.lines.append(("reasons", dict(reasons)))


def test_watchers_hear_of_each_round_in_order() -> None:
    bench, diary = Bench(), Diary()
    bench.engine.watchers.all.append(diary)
    bench.rounds()
    assert diary.lines == [
        ("sampled", [], 5),
        ("sampled", ["a", "b"], 5),
        ("guests", ["a", "b"], []),
        ("ran", 1, 1, 3, {}),
        ("applied", 1, [("host", "knob")]),
        ("applied", 1, [("a", "target"), ("b", "target")]),
    ]
    (run,) = bench.engine.runs
    assert sorted(run.outcomes) == [("a", "target", ""), ("b", "target", ""), ("host", "knob", "")]


def test_watchers_hear_of_guests_that_come_and_go_and_of_trouble_that_comes_and_goes() -> None:
    bench, diary = Bench(), Diary()
    bench.rounds()
    bench.engine.watchers.all.append(diary)
    bench.source.answer, bench.guest.bad = [B], "b"
    bench.rounds()
    bench.source.answer, bench.guest.bad = [B, A], ""
    bench.rounds()
    line = "collector GuestPart failed: ValueError: broken guest"
    assert [told for told in diary.lines if told[0] in ("guests", "reasons")] == [  # type: ignore[index]  # all are tuples
        ("reasons", {"guest collector GuestPart": line}),
        ("guests", [], ["a"]),
        ("reasons", {"guest collector GuestPart": line, "policy": "policy run: guest vm-b: p:1:72: '+' takes no nil and integer"}),
        ("reasons", {"policy": "policy run: guest vm-b: p:1:72: '+' takes no nil and integer"}),
        ("guests", ["a"], []),
        ("reasons", {}),
    ]


def test_a_watcher_that_fails_stops_neither_the_engine_nor_other_watchers(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watcher):
        def ran(self, run: PolicyRun) -> None:
            raise ValueError(f"broken by run {run.number}")

    bench, diary = Bench(), Diary()
    bench.engine.watchers.all += [Broken(), diary]
    bench.rounds()
    assert bench.engine.status() == ("active", [])
    assert [told[0] for told in diary.lines].count("ran") == 1  # type: ignore[index]  # all are tuples
    assert "internal error in Broken.ran" in caplog.text


def test_only_the_last_runs_are_kept() -> None:
    bench = Bench()
    bench.rounds(12)
    assert [run.number for run in bench.engine.runs] == list(range(3, 13))
