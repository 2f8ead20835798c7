# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest or the host got what it got: the recorded snapshots of the last runs are evaluated once more, now with tracing.

The same program on the same snapshot decides the same, so the live cycle needn't trace anything. What a run of thousands of guests takes
to be traced is much more than it took to run, and so is spent outside the event loop, and bounded.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final

from momservice.columns import GuestTable
from momservice.errors import UnknownGuest
from momservice.explained import Explanation, Kind
from momservice.policy import Decisions, Failure, Wanted, evaluate
from momservice.snapshot import HOST, Snapshot
from momservice.watching import PolicyRun

# What is told of one run, and how many inputs of all controls together.
MAX_ROWS: Final = 100
MAX_READS: Final = 4000
# No run is begun after so long.
EXPLAIN_S: Final = 10.0
NO_OUTCOME: Final = "no controller has told what became of it: it is under way, its helper is missing, or none is configured for it"

# Runs a function outside the event loop.
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


class Explainer:
    """Explains the last runs. `runs`: newest last; they go on changing. `offload`: into one thread, so that one is explained at a time."""

    def __init__(self, runs: Sequence[PolicyRun], offload: Offload) -> None:
        self._runs, self._offload = runs, offload

    async def explain(self, entity: str, last: int) -> Sequence[Explanation]:
        """The last runs for a guest or the host, newest first. Raises UnknownGuest, or Busy while something else is being explained."""
        runs = [*self._runs][::-1][:last]
        if entity != HOST and all(entity not in _guests(run.snapshot) for run in runs):
            raise UnknownGuest(f"no guest {entity} was there in the last {last} runs")
        told: Sequence[Explanation] = await self._offload(partial(_explain_in_time, runs, entity))
        return told


def _explain_in_time(runs: Sequence[PolicyRun], entity: str) -> list[Explanation]:
    end_s = time.monotonic() + EXPLAIN_S
    return explain(runs, entity, lambda: time.monotonic() < end_s)


def explain(runs: Sequence[PolicyRun], entity: str, in_time: Callable[[], bool] = lambda: True) -> list[Explanation]:
    """What these runs did for an entity, in their order. A run that there is no time for any more is skipped."""
    told: list[Explanation] = []
    reads_left = MAX_READS
    for run in runs:
        rows = _rows(run, entity) if in_time() else iter([_about(run, "skipped")])
        for row in islice(rows, MAX_ROWS):
            kept = row.reads[:reads_left]
            reads_left -= len(kept)
            told.append(replace(row, reads=kept, reads_left_out=len(row.reads) - len(kept)))
        if more := sum(1 for _ in rows):
            told.append(replace(_about(run, "more"), more=more))
    return told


def _about(run: PolicyRun, kind: Kind) -> Explanation:
    return Explanation(run.number, run.snapshot.taken_us, run.generation, kind)


def _guests(snapshot: Snapshot) -> Sequence[str]:
    guests = snapshot.guests
    return guests.keys if isinstance(guests, GuestTable) else [guest.key for guest in guests]


def _rows(run: PolicyRun, entity: str) -> Iterator[Explanation]:
    if entity != HOST and entity not in _guests(run.snapshot):
        return iter([_about(run, "absent")])
    decisions = evaluate(run.program, run.snapshot, trace=True)
    rows = [
        *(_control(run, wanted) for wanted in decisions.controls if wanted.entity == entity),
        *(_failure(run, failure) for failure in decisions.failures if failure.entity in (entity, None)),
        *_ended(run, decisions),
    ]
    return iter(rows or [_about(run, "nothing")])


def _ended(run: PolicyRun, decisions: Decisions) -> Sequence[Explanation]:
    return [_about(run, "ended")] if decisions.ended else []


def _control(run: PolicyRun, wanted: Wanted) -> Explanation:
    row = replace(
        _about(run, "control"),
        place=wanted.place,
        line=run.program.line(wanted.place),
        calls=wanted.calls,
        control=wanted.name,
        item=wanted.item,
        wanted=wanted.value,
        reads=wanted.reads,
    )
    outcome = run.outcomes.get((wanted.entity, wanted.name, wanted.item))
    if outcome is None:
        return replace(row, status="none", reason="nil is no control" if wanted.value is None else NO_OUTCOME)
    return replace(row, applied=outcome.applied, status=outcome.status, reason=outcome.reason)


def _failure(run: PolicyRun, failure: Failure) -> Explanation:
    return replace(
        _about(run, "failed" if failure.entity is None else "dropped"),
        place=failure.place,
        line=run.program.line(failure.place),
        calls=failure.calls,
        code=failure.code,
        message=failure.message,
    )
