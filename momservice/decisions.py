# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policy engine says: diagnostics at load, decisions and failures of a run, each with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from momservice.snapshot import Value
from momservice.text import shown

Severity = Literal["error", "warning"]

# How many calls of a chain are told.
CALLS: Final = 10
# Longer names are shortened in messages.
LONGEST_NAME: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a policy: fragment name, line and column, both from 1; the column counts characters."""

    fragment: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.fragment}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding at load. `code` is an error class of the language ("parse", "name", ...); `hint` is "" or one sentence."""

    severity: Severity
    code: str
    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Read:
    """One input that was read on the way to a control (only with trace=True): "stat", "average", "variable", "property"."""

    entity: str
    kind: str
    name: str
    value: Value


class Call(NamedTuple):
    """One call of a function of the policy: the function's name and where it was called."""

    function: str
    place: Place


class Wanted(NamedTuple):
    """One control that the run set. `entity` is a key of the snapshot; the value is as the policy gave it, not yet range-checked.

    `item`: for a setter of an object in a field, the name of that object (a disk's); else "". `calls`: those that led to `place`.
    """

    entity: str
    name: str
    value: Value
    place: Place
    calls: Sequence[Call] = ()
    item: str = ""
    reads: Sequence[Read] = ()


class Failure(NamedTuple):
    """One error of a run, isolated: top-level form `form` (index) failed, or, with `entity`, that guest was dropped from the run.

    `calls`: the calls of functions that were under way, outermost first; of more than `CALLS` the innermost.
    """

    code: str
    message: str
    place: Place
    form: int
    entity: str | None = None
    calls: Sequence[Call] = ()

    def __str__(self) -> str:
        chain = "".join(f", in {shown(call.function, LONGEST_NAME)} called at {call.place}" for call in reversed(self.calls))
        return f"{self.place}: {self.message}{chain}"


class Decisions(NamedTuple):
    """The outcome of one run.

    `results`: value of each top-level form in order (nil for a failed one); entities and methods in it are given as `Opaque`.
    `controls`: by entity in the order of the snapshot, the host first, then by name and item.
    `variables`: all SetVar values after the run by entity key (kept ones included). `debug`: what `debug` forms gave, as text.
    `ended`: the run's total step budget was spent; then `controls` is empty.
    `steps`: how many steps it took, or at most took where the compiled form doesn't count them. `abandoned`: why the compiled form didn't
    decide: "" (it did), "limit" (it may have come to a limit), or one line.
    """

    results: Sequence[object]
    controls: Sequence[Wanted]
    variables: Mapping[str, Mapping[str, Value]]
    failures: Sequence[Failure]
    debug: Sequence[str]
    steps: int
    ended: bool = False
    abandoned: str = ""

    @property
    def degraded(self) -> bool:
        """Whether anything failed."""
        return bool(self.failures) or self.ended


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value that isn't data ("host", "guest", "object") where a result shows it."""

    kind: str
