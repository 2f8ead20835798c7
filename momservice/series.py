# SPDX-License-Identifier: GPL-2.0-or-later
"""Series of snapshots, a document a line: read and run again with any policy.

The first document stands for itself. Those that continue it hold only the samples that came since, from which the history that a policy
sees is put together again, as the service does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from momservice.fields import Schema
from momservice.policy import Decisions, Program, evaluate
from momservice.snapshot import EMPTY, Entity, Sample, Snapshot, Value
from momservice.snapshot_file import Recorded, is_series, parse_recorded, schema_of


def parse_series(text: str, where: str) -> list[Recorded]:
    """The documents of a series, or of a file of one. Raises ValueError, one line that begins with `where`."""
    if is_series(text):
        lines = enumerate(text.split("\n"), 1)
        series = [parse_recorded(line, f"{where}:{number}") for number, line in lines if line.strip()]
    else:
        series = [parse_recorded(text, where)]
    if series[0].continues:
        raise ValueError(f"{where}: the first snapshot continues one that isn't there")
    return series


def schema_of_all(series: Sequence[Recorded], known: Schema) -> Schema:
    """The names that policies may use on any of the snapshots."""
    return reduce(lambda names, recorded: schema_of(recorded.snapshot, names), series, known)


class _History:
    """The last samples of all entities, so far in the series."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._samples: dict[str, deque[Sample]] = {}

    def take(self, recorded: Recorded, variables: Mapping[str, Mapping[str, Value]]) -> Snapshot:
        """The world as a policy sees it that has kept these variables."""
        before = self._samples if recorded.continues else {}
        self._samples = {}
        world = recorded.snapshot
        host, *guests = (self._entity(entity, before, recorded, variables) for entity in (world.host, *world.guests))
        return replace(world, host=host, guests=guests)

    def _entity(
        self, entity: Entity, before: Mapping[str, deque[Sample]], recorded: Recorded, variables: Mapping[str, Mapping[str, Value]]
    ) -> Entity:
        samples = self._samples[entity.key] = deque((*before.get(entity.key, ()), *entity.samples), self._length)
        kept = variables.get(entity.key, EMPTY) if recorded.continues else entity.variables
        return replace(entity, samples=tuple(samples), variables=kept)


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a replay: the world that the policy saw, and what it decided."""

    world: Snapshot
    decisions: Decisions


def replay(program: Program, series: Sequence[Recorded], length: int) -> Iterator[Step]:
    """Runs a program on each snapshot in turn, with a history of that many samples and with the variables that it has kept.

    The world goes on as it was recorded, whatever is decided.
    """
    history = _History(length)
    kept: Mapping[str, Mapping[str, Value]] = {}
    for recorded in series:
        world = history.take(recorded, kept)
        decisions = evaluate(program, world)
        kept = decisions.variables
        yield Step(world, decisions)
