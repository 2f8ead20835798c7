# SPDX-License-Identifier: GPL-2.0-or-later
"""The evaluator that counts every step and can trace: runs a program's operations on one snapshot.

A stack machine rather than a recursive walk, so that how deep a policy nests and calls never meets Python's recursion limit, and a step
is the same thing everywhere: one operation. What it decides is what the language means; the compiled form is measured against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from momservice.decisions import CALLS, Call, Decisions, Failure, Place, Read, Wanted
from momservice.fields import Schema
from momservice.policy.state import CALL_DEPTH, FORM_STEPS, READS, ROUND_STEPS, RUN_STEPS, State
from momservice.policy.values import Datum, List, PolicyError, Thing, cost, shown
from momservice.snapshot import Snapshot, Value

HALT: Final = -1

# An operation gets its operand; it gives the address to go on at, or None for the next one.
Operation: TypeAlias = "Callable[[Machine, Any], int | None]"


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled program: one list of operations.

    `forms`: the first address of each top-level form. `starts`: by address the offset in the text of all fragments, that `place` makes a
    place of.
    """

    operations: Sequence[tuple[Operation, Any]]
    starts: Sequence[int]
    forms: Sequence[int]
    place: Callable[[int], Place]


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the policy: its parameters and the address of its body."""

    name: str
    parameters: tuple[str, ...]
    address: int


@dataclass(slots=True)
class Loop:
    """A `with` under way. It lies on the stack below the value of its body."""

    items: tuple[Datum, ...]
    next: int = 0
    values: list[Datum] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Round:
    """One guest's round of an outermost loop: what to go back to when it fails."""

    guest: Thing
    loop: Loop
    again: int
    journal: int
    stack: int
    scopes: int
    calls: int
    steps: int
    reads: int


class _Taken(NamedTuple):
    """A control as it was taken. `calls`: told only once it is clear that it counts."""

    value: Value
    place: Place
    calls: Sequence[tuple[int, Function]]
    reads: Sequence[Read]


class _Ended(Exception):
    """The steps of the whole run are spent."""


class Machine(State):
    """The state of one run. Operations (operations of `code`) are functions on it."""

    def __init__(
        self, code: Code, schema: Schema, snapshot: Snapshot, parameters: Mapping[str, Value], *, trace: bool, steps: int | None = None
    ) -> None:
        """`steps`: the budget of the run, if it isn't RUN_STEPS."""
        super().__init__(snapshot, parameters)
        self._code = code
        self.host = Thing("host", snapshot.host.key, schema.host)
        self.guests = List(Thing("guest", key, schema.guest, index) for index, key in enumerate(self.table.keys))
        self.stack: list[Any] = []
        # Of each call that is under way, the address to go back to and the function.
        self.calls: list[tuple[int, Function]] = []
        self._controls: dict[str, dict[tuple[str, str], _Taken]] = {}
        self._variables = {key: dict(values) for key, values in self.kept_before().items() if values}
        self.reads = {} if trace else None
        self._round: _Round | None = None
        self._dropped: set[str] = set()
        self._failures: list[Failure] = []
        self._form = 0
        self._budget = self._run_steps = RUN_STEPS if steps is None else steps
        self._steps = self._granted = 0

    # --- running -------------------------------------------------------------------------------------------------------------------

    def run(self) -> Decisions:
        """Evaluates all top-level forms in order. Raises nothing, whatever the policy does."""
        kept = {key: dict(values) for key, values in self._variables.items()}
        results: list[object] = []
        try:
            for index, address in enumerate(self._code.forms):
                self._form = index
                value = self._run_form(address)
                self._pay(cost(value))
                results.append(shown(value))
        except _Ended:
            return Decisions(results, (), kept, self._failures, self.debug, self._budget, ended=True)
        variables = {key: values for key, values in self._variables.items() if values}
        return Decisions(results, self._wanted(), variables, self._failures, self.debug, self._budget - self._run_steps)

    def _wanted(self) -> list[Wanted]:
        keys = (self.host.key, *self.table.keys)
        return [
            Wanted(key, name, taken.value, taken.place, self._told(taken.calls), item, taken.reads)
            for key in keys
            if key not in self._dropped
            for (name, item), taken in sorted(self._controls.get(key, {}).items())
        ]

    def _run_form(self, address: int) -> Datum:
        self._grant(FORM_STEPS)
        value: Datum = None
        while address != HALT:
            try:
                self._go(address)
                value = self.stack.pop()
                address = HALT
            except PolicyError as error:
                address = self._recover(error)
        self._account()
        self.end_journal()
        if self.reads:
            self.reads.clear()
        return value

    def _go(self, address: int) -> None:
        """The inner loop: from an address to the end of the form. Raises PolicyError, with `_at` telling where."""
        operations = self._code.operations
        while address != HALT:
            self._at = address
            self._steps -= 1
            if self._steps < 0:
                self._out_of_steps()
            operation, operand = operations[address]
            jump = operation(self, operand)
            address = address + 1 if jump is None else jump

    # --- steps ---------------------------------------------------------------------------------------------------------------------

    def charge(self, steps: int) -> None:
        """Counts more steps for an operation whose cost depends on its operands. Raises PolicyError("limit")."""
        self._steps -= steps
        if self._steps < 0:
            self._out_of_steps()

    def _grant(self, steps: int) -> None:
        self._steps = self._granted = min(steps, self._run_steps)

    def _account(self) -> None:
        """Takes what the form or round under way has used so far from the steps of the run."""
        self._run_steps -= self._granted - max(self._steps, 0)
        self._granted = self._steps = max(self._steps, 0)

    def _pay(self, steps: int) -> None:
        """Takes steps from the run alone, for what is done for it outside of forms."""
        self._run_steps -= steps
        if self._run_steps < 0:
            self._end()

    def _end(self) -> NoReturn:
        message = f"the run takes more than {self._budget} steps"
        self._failures.append(Failure("limit", message, self._here(), self._form, None, self._told(self.calls)))
        raise _Ended

    def _out_of_steps(self) -> NoReturn:
        if self._granted >= self._run_steps:
            self._end()
        most = FORM_STEPS if self._round is None else ROUND_STEPS
        raise PolicyError("limit", f"more than {most} steps in one {'form' if self._round is None else 'round of a guest'}")

    # --- failures ----------------------------------------------------------------------------------------------------------------------

    def _recover(self, error: PolicyError) -> int:
        """Undoes the failed round, or else the form; gives the address to go on at."""
        failed, entity = self._round, None if self._round is None else self._round.guest.key
        self._failures.append(Failure(error.code, error.message, self._here(), self._form, entity, self._told(self.calls)))
        if failed is None:
            self.undo(0)
            self.stack.clear()
            self.scopes.clear()
            self.hidden_origins.clear()
            self.calls.clear()
            return HALT
        self.undo(failed.journal)
        del self.stack[failed.stack :], self.scopes[failed.scopes :], self.calls[failed.calls :], self.hidden_origins[failed.scopes :]
        self._dropped.add(failed.guest.key)
        failed.loop.values.append(None)
        self._end_round(failed)
        return failed.again

    def _here(self) -> Place:
        return self._code.place(self._code.starts[self._at])

    def _told(self, calls: Sequence[tuple[int, Function]]) -> tuple[Call, ...]:
        """Calls as they are told."""
        return tuple(Call(function.name, self._code.place(self._code.starts[back - 1])) for back, function in calls[-CALLS:])

    # --- what methods read and want ------------------------------------------------------------------------------------------------------

    def want(self, key: str, name: str, item: str, value: Value, place: Place) -> None:
        """Takes a control, with the inputs read so far."""
        reads = tuple(islice(self.reads.values(), READS)) if self.reads is not None else ()
        self.write(self._controls.setdefault(key, {}), (name, item), _Taken(value, place, self.calls[-CALLS:], reads))

    def wanted(self, key: str, name: str, item: str = "") -> Value:
        """The control that has been taken, None if none has."""
        wanted = self._controls.get(key, {}).get((name, item))
        return None if wanted is None else wanted.value

    def kept(self, thing: Thing) -> dict[str, Value]:
        """The variables that an entity keeps."""
        return self._variables.setdefault(thing.key, {})

    def kept_value(self, thing: Thing, name: str) -> Value:
        """One of them; None if there is none."""
        return self._variables.get(thing.key, {}).get(name)

    # --- functions and loops ------------------------------------------------------------------------------------------------------------

    def enter(self, function: Function, operands: Sequence[Datum], back: int) -> int:
        """Calls a function; gives the address of its body. Raises PolicyError("too-deep")."""
        if len(self.calls) == CALL_DEPTH:
            raise PolicyError("too-deep", f"calls are more than {CALL_DEPTH} deep")
        self.calls.append((back, function))
        self.open_scope(function.parameters, operands)
        return function.address

    def leave(self) -> int:
        """Ends a call; gives the address to go back to."""
        self.close_scope()
        return self.calls.pop()[0]

    def next_round(self, item: str, end: int) -> int | None:
        """Begins the next round of the loop on the stack, skipping guests that failed.

        After the last one leaves the list of values and gives `end`.
        """
        loop: Loop = self.stack[-1]
        while loop.next < len(loop.items):
            value = loop.items[loop.next]
            loop.next += 1
            if type(value) is Thing and value.kind == "guest":
                if value.key in self._dropped:
                    self.charge(1)
                    loop.values.append(None)
                    continue
                if self._round is None:
                    self._begin_round(value, loop)
            self.open_scope()
            self.define(item, value)
            return None
        values = self.stack[-1] = List(loop.values)
        # The rounds have paid for the values themselves, not for lists in them that were there before.
        self.charge(values.weight - len(values.items))
        return end

    def end_of_round(self) -> None:
        """Takes the value of the body that has just ended into the loop below it."""
        value = self.stack.pop()
        loop: Loop = self.stack[-1]
        loop.values.append(value)
        self.close_scope()
        if self._round is not None and self._round.loop is loop:
            self._end_round(self._round)

    def _begin_round(self, guest: Thing, loop: Loop) -> None:
        # The step that found the guest is the round's, so that a form's budget doesn't depend on the number of guests.
        self._steps += 1
        self._account()
        reads = len(self.reads) if self.reads is not None else 0
        marks = (len(self.journal), len(self.stack), len(self.scopes), len(self.calls))
        self._round = _Round(guest, loop, self._at, *marks, self._steps, reads)
        self._grant(ROUND_STEPS)
        self._steps -= 1

    def _end_round(self, ended: _Round) -> None:
        self._account()
        self._round = None
        self._grant(ended.steps)
        while self.reads is not None and len(self.reads) > ended.reads:
            self.reads.popitem()
        self.shorten_journal()
