# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of 2011 changed so that not all of it is known before the run, beside its rows by hand; and runs in which every guest fails.

of_rows: evaluation with 1000 guests, by the time of the rows written by hand (bench evaluate). failing_seconds: a run with 5000 guests that
all fail, for want of statistics or for a text where a number should be. Medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from bench_evaluate import POLICY, by_rows, world

from momservice.columns import GuestTable
from momservice.config import Config
from momservice.parts import schema
from momservice.policy import Program, evaluate, load
from momservice.snapshot import Entity, Sample, Snapshot

RUNS = 9
SEED = POLICY.read_text()
SHRINK, GROW = "(def shrink_guest (guest)", "(def grow_guest (guest)"
KINDS: Mapping[str, str] = {
    "as it is": SEED,
    "defined in a branch": SEED.replace(SHRINK, "(if (> Host.mem_available 0) " + SHRINK).replace(GROW, "0) " + GROW),
    "recursion": SEED.replace(SHRINK, "(def rec (n) (if (> n 0) (rec (- n 1)) 0)) " + SHRINK).replace(
        "(with Guests guest (shrink_guest guest))", "(with Guests guest {(rec 2) (shrink_guest guest)})"
    ),
    "variables that may be defined": SEED.replace(
        "# Given current", "(if (> guest.mem_unused 600000) (defvar odd 1) 0) (if (> guest.mem_unused 600000) odd 0)\n#"
    ),
    "computed names": SEED.replace('StatAvg "mem_unused"', "StatAvg unused").replace(
        SHRINK, '(defvar unused "mem_unused") (set unused (+ "mem_" "unused")) ' + SHRINK
    ),
}


def program(text: str) -> Program:
    """A policy, loaded."""
    loaded = load({"50_main_": text}, schema(Config()))
    assert loaded.program is not None, loaded.diagnostics
    return loaded.program


def median_s(work: Callable[[], object]) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def without_statistics(sample: Sample) -> Sample:
    """A guest whose balloon driver tells nothing."""
    return {name: value for name, value in sample.items() if name != "mem_unused"}


def with_text(sample: Sample) -> Sample:
    """A guest of which a figure is none."""
    return {**sample, "libvirt_maxmem": "much"}


def failing(change: Callable[[Sample], Sample]) -> float:
    """Seconds of a run in which all of 5000 guests fail."""
    rows = world(5000)
    guests = [Entity(guest.key, [change(sample) for sample in guest.samples], guest.properties) for guest in rows.guests]
    snapshot, policy = Snapshot(rows.host, GuestTable.of(guests)), program(SEED)
    decisions = evaluate(policy, snapshot)
    assert (len(decisions.failures), decisions.abandoned) == (5000, "")
    return median_s(lambda: evaluate(policy, snapshot))


def main() -> dict[str, dict[str, float]]:
    """The figures by kind."""
    rows = world(1000)
    snapshot = Snapshot(rows.host, GuestTable.of(rows.guests))
    expected, rows_s = by_rows(rows), median_s(lambda: by_rows(rows))
    of_rows = {}
    for kind, text in KINDS.items():
        policy = program(text)
        decisions = evaluate(policy, snapshot)
        assert not decisions.abandoned
        assert {(wanted.entity, wanted.name): wanted.value for wanted in decisions.controls} == expected, kind
        of_rows[kind] = median_s(lambda policy=policy: evaluate(policy, snapshot)) / rows_s  # type: ignore[misc]  # bound for this turn
    return {"of_rows": of_rows, "failing_seconds": {"no statistics": failing(without_statistics), "a text": failing(with_text)}}
