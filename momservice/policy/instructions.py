# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations that policies compile to. Each takes the machine and its operand, and gives the address to jump to, or None."""

from __future__ import annotations

from typing import TypeAlias

from momservice.decisions import Place
from momservice.policy.machine import HALT, Function, Loop, Machine
from momservice.policy.members import METHOD_CODE, member, receiver
from momservice.policy.operations import Binary, Variadic, items_of
from momservice.policy.values import Datum, List, PolicyError, cost, short, truth

Address: TypeAlias = int


def halt(_machine: Machine, _operand: None) -> int:
    """The end of a top-level form."""
    return HALT


def push(machine: Machine, value: Datum) -> None:
    """A literal."""
    machine.stack.append(value)


def drop(machine: Machine, _operand: None) -> None:
    """The end of a value in a block whose value isn't used."""
    machine.stack.pop()


def push_host(machine: Machine, _operand: None) -> None:
    """The symbol Host."""
    machine.stack.append(machine.host)


def push_guests(machine: Machine, _operand: None) -> None:
    """The symbol Guests."""
    machine.stack.append(machine.guests)


def push_variable(machine: Machine, name: str) -> None:
    """A plain symbol."""
    machine.stack.append(machine.look_up(name))


def take_member(machine: Machine, name: str) -> None:
    """One dot of a dotted symbol: the value becomes its member."""
    machine.stack[-1] = member(machine, machine.stack[-1], name)


def jump(_machine: Machine, target: Address) -> int:
    """Go on elsewhere."""
    return target


def jump_if_false(machine: Machine, target: Address) -> int | None:
    """The condition of an `if`."""
    return None if truth(machine.stack.pop()) else target


def decide_and(machine: Machine, end: Address) -> int | None:
    """An operand of `and` but the last: a false one is the value."""
    if not truth(machine.stack[-1]):
        return end
    machine.stack.pop()
    return None


def decide_or(machine: Machine, end: Address) -> int | None:
    """An operand of `or` but the last: a true one is the value."""
    if truth(machine.stack[-1]):
        return end
    machine.stack.pop()
    return None


def apply_binary(machine: Machine, operation: Binary) -> None:
    """A form of two operands."""
    stack = machine.stack
    right = stack.pop()
    left = stack[-1]
    if type(left) is str or type(left) is List:
        machine.charge(cost(left, right))
    stack[-1] = operation(left, right)


def _take(machine: Machine, count: int) -> list[Datum]:
    """The last `count` values, off the stack."""
    start = len(machine.stack) - count
    operands = machine.stack[start:]
    del machine.stack[start:]
    return operands


def apply_variadic(machine: Machine, operand: tuple[Variadic, int]) -> None:
    """A form of any number of operands."""
    operation, count = operand
    operands = _take(machine, count)
    machine.charge(cost(*operands))
    machine.stack.append(operation(operands))


def log(machine: Machine, count: int) -> None:
    """`debug`."""
    operands = _take(machine, count)
    machine.log(operands)
    machine.stack.append(operands[-1])


def define_variable(machine: Machine, name: str) -> None:
    """`defvar`."""
    machine.stack[-1] = machine.define(name, machine.stack[-1])


def assign_variable(machine: Machine, name: str) -> None:
    """`set`."""
    machine.assign(name, machine.stack[-1])


def open_scope(machine: Machine, _operand: None) -> None:
    """The start of a `let`."""
    machine.open_scope()


def bind(machine: Machine, name: str) -> None:
    """A binding of a `let`."""
    machine.define(name, machine.stack.pop())


def close_scope(machine: Machine, _operand: None) -> None:
    """The end of a `let`."""
    machine.close_scope()


def define_function(machine: Machine, operand: tuple[Function, Address]) -> int:
    """`def`; the function's body follows and is jumped over."""
    function, end = operand
    machine.write(machine.functions, function.name, function)
    machine.stack.append(function.name)
    return end


def find_function(machine: Machine, operand: tuple[str, int]) -> None:
    """The head of a call, before its arguments evaluate."""
    name, count = operand
    function = machine.functions.get(name)
    if function is None:
        raise PolicyError("name", f"the function '{short(name)}' is not defined yet")
    if len(function.parameters) != count:
        raise PolicyError("arity", f"'{short(name)}' takes {len(function.parameters)} arguments, not {count}")
    machine.stack.append(function)


def call(machine: Machine, operand: tuple[int, Address]) -> int:
    """A call, after its arguments."""
    count, back = operand
    operands = _take(machine, count)
    return machine.enter(machine.stack.pop(), operands, back)


def leave(machine: Machine, _operand: None) -> int:
    """The end of a function's body."""
    return machine.leave()


def find_receiver(machine: Machine, method: str) -> None:
    """The entity of a method call, before the arguments evaluate."""
    machine.stack[-1] = receiver(machine.stack[-1], method)


def call_method(machine: Machine, operand: tuple[str, int, Place]) -> None:
    """A method call, after its arguments."""
    method, count, place = operand
    operands = _take(machine, count)
    thing = machine.stack.pop()
    machine.stack.append(METHOD_CODE[method](machine, thing, operands, place))


def begin_loop(machine: Machine, _operand: None) -> None:
    """The list of a `with`."""
    machine.stack[-1] = Loop(items_of(machine.stack[-1]))


def next_round(machine: Machine, operand: tuple[str, Address]) -> int | None:
    """The start of a round of a `with`."""
    return machine.next_round(*operand)


def end_round(machine: Machine, again: Address) -> int:
    """The end of a round of a `with`."""
    machine.end_of_round()
    return again
