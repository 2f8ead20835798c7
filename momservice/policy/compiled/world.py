# SPDX-License-Identifier: GPL-2.0-or-later
"""What static code relies on: the functions of the program, and the scopes that are open where code is generated."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from momservice.fields import Schema
from momservice.policy.compiled.facts import GuestLoop, Ref, Unresolved
from momservice.policy.reader import Group, Node


@dataclass(frozen=True, slots=True)
class Definition:
    """A function whose definition is certain after a form: there is no other, and it is a top-level form by itself."""

    name: str
    parameters: Sequence[str]
    body: Node
    base: int
    form: int


@dataclass(slots=True)
class Budget:
    """How many values may still be generated statically, in all forms together: inlining and lending multiply them."""

    left: int

    def take(self, values: int) -> None:
        """Takes some. Raises Unresolved where there are no more."""
        self.left -= values
        if self.left < 0:
            raise Unresolved


@dataclass(frozen=True, slots=True)
class World:
    """What the static code of a program may rely on.

    `assigned`: the names that some `set` assigns to. `bodies`: of all definitions of each function.
    """

    schema: Schema
    functions: Mapping[str, Definition]
    assigned: frozenset[str]
    controls_are_read: bool
    bodies: Mapping[str, Sequence[Node]]
    budget: Budget
    _reaches: dict[str, Reach] = field(default_factory=dict)

    def reach(self, name: str) -> Reach:
        """What a call of a function may do, whichever it is when it is called."""
        if name not in self._reaches:
            self._reaches[name] = self._reach(name)
        return self._reaches[name]

    def _reach(self, name: str) -> Reach:
        symbols: set[str] = set()
        called = {name}
        waiting = list(self.bodies.get(name, ()))
        while waiting:
            node = waiting.pop()
            if isinstance(node, Group):
                waiting.extend(node.items)
            elif node.kind == "symbol":
                symbols.add(node.name.split(".")[0])
                if node.name in self.bodies and node.name not in called:
                    called.add(node.name)
                    waiting.extend(self.bodies[node.name])
                symbols.update({CONTROLS} if node.name.endswith(".Control") else ())
        return Reach(frozenset(symbols - {CONTROLS}), CONTROLS in symbols)


# No symbol of a policy.
CONTROLS: Final = ".Control"


@dataclass(frozen=True, slots=True)
class Reach:
    """`symbols`: what names it may read or set; `controls`: whether it may take controls."""

    symbols: frozenset[str]
    controls: bool


@dataclass(slots=True, eq=False)
class Slot:
    """A variable of one scope. `ref`: the entity it certainly is."""

    var: str
    depth: int
    ref: Ref | None = None


@dataclass(slots=True)
class Scope:
    """An open scope. `begin`: where those of its variables that may stay undefined are set to ABSENT."""

    begin: ast.If
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass(slots=True)
class Round:
    """The round of an outermost guest loop that is being generated: how many scopes are outside of it, and what it sets there."""

    loop: GuestLoop
    depth: int
    changed: dict[str, Slot] = field(default_factory=dict)
