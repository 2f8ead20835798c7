# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run has changed so far, and the way back: shared by the evaluator that traces and the compiled form.

All that a run changes goes through `write`, which remembers what was there: undoing a failed form or a failed guest's round is going back
through that journal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from momservice.columns import GuestTable
from momservice.decisions import Place, Read
from momservice.policy.values import HOST_INDEX, NUMBERS, WIDE, Datum, List, PolicyError, Thing, as_text, cost, inward, short
from momservice.snapshot import Snapshot, Value

CALL_DEPTH: Final = 200
FORM_STEPS: Final = 10_000
ROUND_STEPS: Final = 10_000
# Of a run that is counted step by step.
RUN_STEPS: Final = 1_000_000
# Of a run of the compiled form: what its loops pay in advance by the most that they may take, and what is counted while it happens.
RUN_WORK: Final = 8_000_000
RUN_COUNTED: Final = 450_000
DEBUG_LINES: Final = 1000
# How many inputs a control is explained by.
READS: Final = 100
ABSENT: Final = object()
_JOURNAL: Final = 20_000
_INTEGERS: Final = frozenset({int, bool})
# What can't be averaged, so that nothing of the history need be taken in.
_NO_NUMBERS: Final = frozenset({str, list, tuple, dict})


# Inputs by entity, kind and name.
Reads: TypeAlias = dict[tuple[str, str, str], Read]


class State(ABC):
    """Variables, scopes, functions, kept variables and debug lines of one run, and the snapshot it reads.

    `variable`: the value that each variable has now; `scopes`: innermost last, what their variables hide (ABSENT: nothing). With no scope
    open, `variable` is the global scope. `reads`: the inputs read in the form under way, None when they aren't traced.
    """

    host: Thing
    guests: List

    def __init__(self, snapshot: Snapshot, parameters: Mapping[str, Value]) -> None:
        guests = snapshot.guests
        # Not made into entities: of thousands of guests that takes longer than most runs.
        self.table = guests if isinstance(guests, GuestTable) else GuestTable.of(guests)
        self._host = snapshot.host
        self.variable: dict[str, Any] = {name: inward(value) for name, value in parameters.items()}
        self.scopes: list[dict[str, Any]] = []
        self.functions: dict[str, Any] = {}
        self.reads: Reads | None = None
        # While tracing: the inputs that were read on the way to each variable's value, and those that the variables of scopes hide.
        self._origins: dict[str, Reads] = {}
        self.hidden_origins: list[dict[str, Reads]] = []
        self.debug: list[str] = []
        self.journal: list[tuple[dict[Any, Any], Any, Any]] = []
        self._journal_limit = _JOURNAL

    @abstractmethod
    def charge(self, steps: int) -> None:
        """Counts more steps for an operation whose cost depends on its operands. Raises PolicyError("limit")."""

    @abstractmethod
    def want(self, key: str, name: str, item: str, value: Value, place: Place) -> None:
        """Takes a control of the entity `key`; the last one of a name and item wins."""

    @abstractmethod
    def wanted(self, key: str, name: str, item: str = "") -> Value:
        """The control that has been taken, None if none has."""

    @abstractmethod
    def kept(self, thing: Thing) -> dict[str, Value]:
        """The variables that an entity keeps, to be changed by `write`."""

    @abstractmethod
    def kept_value(self, thing: Thing, name: str) -> Value:
        """One of them; None if there is none."""

    # --- the snapshot ----------------------------------------------------------------------------------------------------------------

    def newest(self, thing: Thing, name: str) -> Value:
        """The newest value of a field."""
        if thing.index == HOST_INDEX:
            return self._host.newest(name)
        return self.table.rows[-1][thing.index].get(name) if self.table.rows else None

    def history(self, thing: Thing, name: str) -> Sequence[Value]:
        """The values of a field in all samples, oldest first, nil ones left out."""
        if thing.index == HOST_INDEX:
            return self._host.history(name)
        return [value for row in self.table.rows if (value := row[thing.index].get(name)) is not None]

    def sample_count(self, thing: Thing) -> int:
        """How many samples there are to look through."""
        return len(self._host.samples if thing.index == HOST_INDEX else self.table.rows)

    def properties(self, thing: Thing) -> Mapping[str, Value]:
        """The properties of an entity."""
        return self._host.properties if thing.index == HOST_INDEX else self.table.properties[thing.index]

    def kept_before(self) -> dict[str, Mapping[str, Value]]:
        """The variables that entities have kept from earlier runs, by key; those that have none may be left out."""
        return {**self.table.variables, **({self._host.key: self._host.variables} if self._host.variables else {})}

    def mean(self, thing: Thing, name: str) -> float | None:
        """The mean of a field over the history, None without any value. Raises PolicyError("type", "value")."""
        history = self.history(thing, name)
        if not history:
            return None
        kinds = {*map(type, history)}
        if kinds <= NUMBERS:
            integers = history if kinds <= _INTEGERS else [value for value in history if type(value) is int]
            if not integers or (max(integers) < WIDE and min(integers) > -WIDE):  # type: ignore[type-var, operator]  # seen
                # What most fields hold: neither cost nor conversion.
                return sum(history) / len(history)  # type: ignore[arg-type]  # seen
        values = []
        for value in [] if kinds & _NO_NUMBERS else history:
            taken = inward(value)
            self.charge(cost(taken))
            values.append(taken)
        if not values or any(type(value) not in NUMBERS for value in values):
            raise PolicyError("type", f"'{short(name)}' can't be averaged: it isn't a number")
        return sum(values) / len(values)  # type: ignore[arg-type]  # all of them are numbers

    # --- changes and their undoing ---------------------------------------------------------------------------------------------------

    def write(self, table: dict[Any, Any], name: object, value: object) -> None:
        """Sets an entry, so that it can be undone."""
        self.journal.append((table, name, table.get(name, ABSENT)))
        table[name] = value

    def undo(self, mark: int) -> None:
        """Goes back to when the journal was that long."""
        for table, name, old in reversed(self.journal[mark:]):
            _put(table, name, old)
        del self.journal[mark:]

    def end_journal(self) -> None:
        """What has been written stays."""
        self.journal.clear()
        self._journal_limit = _JOURNAL

    def shorten_journal(self) -> None:
        """Where it is long, keeps what each entry was at the start of the form: enough while no round is under way."""
        if len(self.journal) > self._journal_limit:
            self._shorten()

    def _shorten(self) -> None:
        first: dict[tuple[int, Any], tuple[dict[Any, Any], Any, Any]] = {}
        for change in self.journal:
            first.setdefault((id(change[0]), change[1]), change)
        self.journal = list(first.values())
        # What can't be shortened is gone through again only once it has doubled.
        self._journal_limit = max(_JOURNAL, 2 * len(self.journal))

    # --- scopes ----------------------------------------------------------------------------------------------------------------------

    def define(self, name: str, value: Datum) -> Datum:
        """Defines a variable in the innermost scope if it is absent there; gives the value it has then."""
        if self.scopes:
            scope = self.scopes[-1]
            if name in scope:
                return self._value(name)
            scope[name] = self.variable.get(name, ABSENT)
        elif name in self.variable:
            return self._value(name)
        self.write(self.variable, name, value)
        if self.reads is not None:
            self._trace_to((name,), new=True)
        return value

    def _value(self, name: str) -> Datum:
        value: Datum = self.variable[name]
        return value

    def look_up(self, name: str) -> Datum:
        """The value of a variable. Raises PolicyError("name")."""
        if name not in self.variable:
            raise PolicyError("name", f"the variable '{short(name)}' is not defined here")
        if self.reads is not None:
            self.reads.update(self._origins.get(name, {}))
        return self._value(name)

    def assign(self, name: str, value: Datum) -> None:
        """Sets a variable in the nearest scope that has it. Raises PolicyError("name")."""
        if name not in self.variable:
            self.look_up(name)
        self.write(self.variable, name, value)
        if self.reads is not None:
            self._trace_to((name,), new=False)

    def _trace_to(self, names: Sequence[str], *, new: bool) -> None:
        """What has been read so far led to the values of these variables; `new` ones hide others while the innermost scope is open."""
        reads = dict(islice((self.reads or {}).items(), READS))
        for name in names:
            if new and self.hidden_origins:
                self.hidden_origins[-1][name] = self._origins.get(name, {})
            self.write(self._origins, name, reads)

    def open_scope(self, names: Sequence[str] = (), values: Sequence[Datum] = ()) -> None:
        """Begins a scope with some variables, each of another name."""
        variable, scope = self.variable, {name: self.variable.get(name, ABSENT) for name in names}
        self.scopes.append(scope)
        for name, value in zip(names, values, strict=True):
            self.journal.append((variable, name, scope[name]))
            variable[name] = value
        if self.reads is not None:
            self.hidden_origins.append({})
            self._trace_to(names, new=True)

    def close_scope(self) -> None:
        """Ends the innermost scope: what its variables hid is seen again."""
        variable = self.variable
        for name, hidden in self.scopes.pop().items():
            self.journal.append((variable, name, variable[name]))
            _put(variable, name, hidden)
        if self.reads is not None:
            for name, origin in self.hidden_origins.pop().items():
                self.write(self._origins, name, origin)

    def log(self, operands: Sequence[Datum]) -> None:
        """Keeps the values of a `debug` form as one line of text; the first thousand lines of a run."""
        if len(self.debug) < DEBUG_LINES:
            self.debug.append(" ".join(map(as_text, operands[:100])))


def _put(table: dict[Any, Any], name: object, value: object) -> None:
    if value is ABSENT:
        table.pop(name, None)
    else:
        table[name] = value
