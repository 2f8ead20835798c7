# SPDX-License-Identifier: GPL-2.0-or-later
"""What the forms that evaluate all their operands do with them: pure functions from values to a value."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

from momservice.policy.values import NUMBERS, Datum, List, PolicyError, integer, kind_name, kind_of, text, truth

SHIFT: Final = 255
Binary: TypeAlias = Callable[[Datum, Datum], Datum]
Variadic: TypeAlias = Callable[[Sequence[Datum]], Datum]


def _misfit(name: str, *operands: Datum) -> PolicyError:
    return PolicyError("type", _misfit_told(name, tuple(map(type, operands))))


@cache
def _misfit_told(name: str, kinds: tuple[type, ...]) -> str:
    """What is told of wrong types; once, for thousands of guests may fail alike, and there are few operations and types."""
    return f"'{name}' takes no {' and '.join(kind_name(kind).split(' ')[-1] for kind in kinds)}"


def _arithmetic(name: str, compute: Callable[[Any, Any], int | float]) -> Binary:
    def apply(left: Datum, right: Datum) -> Datum:
        if type(left) in NUMBERS and type(right) in NUMBERS:
            result = compute(left, right)
            return integer(result) if type(result) is int else result
        raise _misfit(name, left, right)

    return apply


def _comparison(name: str, compare: Callable[[Any, Any], bool]) -> Binary:
    def apply(left: Datum, right: Datum) -> Datum:
        if (type(left) in NUMBERS and type(right) in NUMBERS) or (type(left) is str and type(right) is str):
            return compare(left, right)
        raise _misfit(name, left, right)

    return apply


_sum: Final = _arithmetic("+", operator.add)


def _add(left: Datum, right: Datum) -> Datum:
    if isinstance(left, str) and isinstance(right, str):
        return text(left + right)
    if isinstance(left, List) and isinstance(right, List):
        return List(left.items + right.items)
    return _sum(left, right)


def _divide(left: Datum, right: Datum) -> Datum:
    if isinstance(left, int | float) and isinstance(right, int | float):
        if right == 0:
            raise PolicyError("zero-division", "division by zero")
        return left / right
    raise _misfit("/", left, right)


def _shift(name: str, compute: Callable[[int, int], int]) -> Binary:
    def apply(left: Datum, right: Datum) -> Datum:
        if not (isinstance(left, int) and isinstance(right, int)):
            raise _misfit(name, left, right)
        if not 0 <= right <= SHIFT:
            raise PolicyError("value", f"'{name}' shifts by 0 to {SHIFT}")
        return integer(compute(left, right))

    return apply


def equal(left: Datum, right: Datum) -> bool:
    """Whether two values are equal: numbers by value, lists item by item, entities only to themselves.

    Without recursion, for lists may nest as deep as a policy likes to make them.
    """
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, List) and isinstance(other, List):
            if one.weight != other.weight or len(one.items) != len(other.items):
                return False
            pairs.extend(zip(one.items, other.items, strict=True))
        elif one != other:
            return False
    return True


def _extreme(name: str, better: Callable[[Any, Any], bool]) -> Variadic:
    compare = _comparison(name, better)

    def apply(operands: Sequence[Datum]) -> Datum:
        best = operands[0]
        if type(best) not in NUMBERS and type(best) is not str:
            raise _misfit(name, best)
        for value in operands[1:]:
            if compare(value, best):
                best = value
        return best

    return apply


def _absolute(operands: Sequence[Datum]) -> Datum:
    value = operands[0]
    if isinstance(value, int | float):
        return abs(value)
    raise _misfit("abs", value)


def _empty(value: Datum) -> bool:
    return value is None or (isinstance(value, str | List) and not truth(value))


def items_of(value: Datum) -> tuple[Datum, ...]:
    """The items of the list that a `with` goes through. Raises PolicyError("type")."""
    if isinstance(value, List):
        return value.items
    raise PolicyError("type", f"'with' takes a list, not {kind_of(value)}")


BINARY: Final[dict[str, Binary]] = {
    "+": _add,
    "-": _arithmetic("-", operator.sub),
    "*": _arithmetic("*", operator.mul),
    "/": _divide,
    "<": _comparison("<", operator.lt),
    ">": _comparison(">", operator.gt),
    "<=": _comparison("<=", operator.le),
    ">=": _comparison(">=", operator.ge),
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<<": _shift("<<", operator.lshift),
    ">>": _shift(">>", operator.rshift),
}
VARIADIC: Final[dict[str, Variadic]] = {
    "not": lambda operands: not truth(operands[0]),
    "min": _extreme("min", operator.lt),
    "max": _extreme("max", operator.gt),
    "null": lambda operands: all(map(_empty, operands)),
    "valid": lambda operands: all(value is not None for value in operands),
    "abs": _absolute,
}
