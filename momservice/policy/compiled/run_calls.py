# SPDX-License-Identifier: GPL-2.0-or-later
"""What generated code calls where it knows little: functions as they are found, loops over any list, scopes, methods and operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from momservice.policy.compiled.places import NOWHERE
from momservice.policy.compiled.run_controls import RunControls
from momservice.policy.compiled.shape import Function
from momservice.policy.members import METHOD_CODE
from momservice.policy.operations import items_of
from momservice.policy.state import CALL_DEPTH, ROUND_STEPS
from momservice.policy.values import HOST_INDEX, Datum, List, PolicyError, Thing, cost, short


class RunCalls(RunControls):
    """All that bodies of functions and loops use of a run."""

    # --- functions -------------------------------------------------------------------------------------------------------------------

    def function(self, name: str, count: int) -> Function:
        """The function that a call finds, before its arguments evaluate. Raises PolicyError("name", "arity")."""
        function: Function | None = self.functions.get(name)
        if function is None:
            raise PolicyError("name", f"the function '{short(name)}' is not defined yet")
        if len(function.parameters) != count:
            raise PolicyError("arity", f"'{short(name)}' takes {len(function.parameters)} arguments, not {count}")
        return function

    def call(self, function: Function, operands: Sequence[Datum], start: int) -> Datum:
        """Calls a function; `start`: where. Raises PolicyError("too-deep")."""
        if len(self.calls) == CALL_DEPTH:
            raise PolicyError("too-deep", f"calls are more than {CALL_DEPTH} deep")
        self.charge(function.steps)
        self.calls.append((function.name, start))
        self.open_scope(function.parameters, operands)
        value = function.body(self)
        self.close_scope()
        self.calls.pop()
        return value

    def lend(self, chain: Sequence[tuple[str, int]], names: Sequence[str], values: Sequence[Datum]) -> None:
        """Shows the variables of static code to a function that isn't known before the run. `chain`: the calls that led to its call."""
        self.calls.extend(chain)
        self.open_scope(names, values)

    def take_back(self) -> None:
        """Ends that, after the call."""
        self.calls.clear()
        self.close_scope()

    def unwind(self) -> None:
        """After an error in such a call."""
        self.calls.clear()
        self.scopes.clear()

    # --- loops -----------------------------------------------------------------------------------------------------------------------

    def loop(self, value: Datum, item: str, body: Callable[[RunCalls], Datum], steps: int) -> Datum:
        """A `with` of which isn't known what its list holds. `steps`: the most that a round takes by itself."""
        values = [self._round(one, item, body, steps) for one in items_of(value)]
        result = List(values)
        self.charge(result.weight - len(values))
        return result

    def _round(self, one: Datum, item: str, body: Callable[[RunCalls], Datum], steps: int) -> Datum:
        if type(one) is Thing and one.index != HOST_INDEX:
            if one.index in self.dropped:
                self.charge(1)
                return None
            if not self.in_round:
                return self._outer_round(one, item, body, steps)
        self.charge(steps)
        return self._body(one, item, body)

    def _body(self, one: Datum, item: str, body: Callable[[RunCalls], Datum]) -> Datum:
        self.open_scope((item,), (one,))
        value = body(self)
        self.close_scope()
        return value

    def _outer_round(self, guest: Thing, item: str, body: Callable[[RunCalls], Datum], steps: int) -> Datum:
        before, self.steps, self.in_round = self.steps, ROUND_STEPS, True
        mark, scopes, calls = len(self.journal), len(self.scopes), len(self.calls)
        try:
            self.charge(steps)
            return self._body(guest, item, body)
        except Exception as error:
            self.round_failed(error, guest.index, mark)
            del self.scopes[scopes:], self.calls[calls:]
            return None
        finally:
            self.steps, self.in_round = before, False
            self.shorten_journal()

    def gone(self, value: Datum) -> bool:
        """Whether a loop passes over an item: a guest that has failed."""
        return type(value) is Thing and value.index in self.dropped

    def list_of(self, values: Sequence[Datum]) -> List:
        """The values of a loop as a list."""
        result = List(values)
        if result.weight > len(values):
            self.charge(result.weight - len(values))
        return result

    # --- names, methods and operations -----------------------------------------------------------------------------------------------

    def undefined(self, name: str) -> NoReturn:
        """Raises PolicyError("name")."""
        raise PolicyError("name", f"the variable '{short(name)}' is not defined here")

    def method(self, name: str, thing: object, operands: Sequence[Datum]) -> Datum:
        """Calls a method of an entity or object."""
        return METHOD_CODE[name](self, thing, operands, NOWHERE)

    def setting(self, name: str, thing: object, operands: Sequence[Datum], site: int) -> Datum:
        """Calls a method that takes a control, whose place is told."""
        self._site = (self._compiled.sites[site][0], tuple(self.calls)) if self.calls else site
        return METHOD_CODE[name](self, thing, operands, NOWHERE)

    def binary(self, operation: Callable[[Datum, Datum], Datum], left: Datum, right: Datum) -> Datum:
        """A form of two operands."""
        if type(left) is str or type(left) is List:
            self.charge(cost(left, right))
        return operation(left, right)

    def variadic(self, operation: Callable[[Sequence[Datum]], Datum], operands: Sequence[Datum]) -> Datum:
        """A form of any number of operands."""
        self.charge(cost(*operands))
        return operation(operands)
