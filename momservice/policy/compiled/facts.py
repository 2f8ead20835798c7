# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of values and variables while code is generated: types, widths, and whether a variable is defined at a point."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from momservice.policy.values import INTEGER_BITS

# Sets of types, as bits.
NIL, BOOL, INT, FLOAT, STR, LIST, THING, RECORD = (1 << bit for bit in range(8))
NUMBER: Final = BOOL | INT | FLOAT
SCALAR: Final = NIL | NUMBER
ANY: Final = (1 << 8) - 1
# Beside the types: a value of a column, which must be looked at before it is used as one of the language.
RAW: Final = 1 << 8

# Whether a variable is defined at a point of the code.
NEVER, MAYBE, ALWAYS = range(3)


class Fact(NamedTuple):
    """What is known of a variable: whether it is defined, the types it may have, and the bits of its integers."""

    state: int
    types: int = ANY
    bits: int = INTEGER_BITS

    def join(self, other: Fact) -> Fact:
        """What is known where either may be so."""
        state = self.state if self.state == other.state else MAYBE
        return Fact(state, self.types | other.types, max(self.bits, other.bits))


UNDEFINED: Final = Fact(NEVER, 0, 0)


def join(one: Mapping[str, Fact], other: Mapping[str, Fact], starts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The facts after two branches. A variable that one of them doesn't know of is there as it was at the start."""
    return {var: one.get(var, starts[var]).join(other.get(var, starts[var])) for var in one.keys() | other.keys()}


@dataclass(frozen=True, slots=True, eq=False)
class GuestLoop:
    """A loop over all guests: its index variable, and the variables that its rounds have by field and by averaged field."""

    index: str
    outermost: bool
    fields: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A disk's limits, of which mostly single figures are read: `mapping` is the variable that has them, `whole` gives all as a value."""

    whole: ast.expr
    mapping: str


# What is known at compile time: the host, the list of guests, the guest of a loop, or limits of a disk.
HOST_REF: Final = "host"
GUESTS_REF: Final = "guests"
Ref = str | GuestLoop | Part


@dataclass(frozen=True, slots=True)
class Val:
    """A value in generated code. `stable`: it may be used later and more than once. `var`: the variable it was read from, if it stays.

    `line`: of a RAW one, where it was read.
    """

    expr: ast.expr
    types: int = ANY
    bits: int = INTEGER_BITS
    stable: bool = False
    var: str = ""
    ref: Ref | None = None
    line: int = 0

    def only(self, types: int) -> bool:
        """Whether it has no other types than these."""
        return not self.types & ~types

    @property
    def repeatable(self) -> bool:
        """Whether evaluating it twice costs nothing and gives the same."""
        return isinstance(self.expr, ast.Name | ast.Constant)


class Unresolved(Exception):
    """Where variables are, or what is called, can't be known before the run."""
