# SPDX-License-Identifier: GPL-2.0-or-later
"""The scopes that are open where static code is generated, and what is known there of their variables."""

from __future__ import annotations

import ast
from abc import ABC
from collections.abc import Mapping

from momservice.policy.compiled.emitter import Sites
from momservice.policy.compiled.facts import ALWAYS, MAYBE, NEVER, UNDEFINED, Fact, Val, join
from momservice.policy.compiled.operators import OperatorEmitter
from momservice.policy.compiled.world import Scope, Slot, World


class ScopeEmitter(OperatorEmitter, ABC):
    """Adds scopes and facts. `starts`: what is known of each variable where the form, or its scope, begins."""

    def __init__(self, sites: Sites, world: World, known: Mapping[str, Fact]) -> None:
        """`known`: facts of global variables at the start of the form."""
        super().__init__(sites)
        self.world = world
        self.starts: dict[str, Fact] = {}
        self._known = known
        self._facts: dict[str, Fact] = {}
        self._scopes: list[Scope] = [Scope(self.tree.placeholder())]
        self._begins: dict[str, ast.If] = {}

    # --- facts --------------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Fact]:
        """The facts at this point."""
        return dict(self._facts)

    def restore(self, saved: dict[str, Fact]) -> None:
        """Go on from other facts."""
        self._facts = dict(saved)

    def join(self, saved: dict[str, Fact]) -> None:
        """Go on from where the present facts or the saved ones hold."""
        self._facts = join(self._facts, saved, self.starts)
        for var, fact in self._facts.items():
            begin = self._begins.get(var)
            if fact.state == MAYBE and begin is not None:
                begin.body.append(self.tree.assign(var, self.tree.name("ABSENT")))
                del self._begins[var]

    def fact(self, var: str) -> Fact:
        """What is known of a variable here."""
        return self._facts.get(var) or self.starts[var]

    def refine(self, value: Val, types: int) -> None:
        """From here on a value is known to have one of these types."""
        # A RAW one that turns out to be a number is as it was in its column: Raw holds none.
        if value.stable and value.var in self.starts:
            self._facts[value.var] = Fact(ALWAYS, value.types & types, value.bits)

    # --- scopes -------------------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """How many scopes are open."""
        return len(self._scopes)

    def open(self, begin: ast.If) -> Scope:
        """Begins a scope; `begin` is in the code where it begins."""
        scope = Scope(begin)
        self._scopes.append(scope)
        return scope

    def close(self) -> None:
        """Ends the innermost scope. Whether its variables are defined matters no more."""
        for slot in self._scopes.pop().slots.values():
            self._begins.pop(slot.var, None)

    def bind(self, name: str, value: Val) -> None:
        """Defines a variable that the innermost scope doesn't have."""
        slot = Slot(self.fresh("v"), len(self._scopes) - 1, None if name in self.world.assigned else value.ref)
        self._scopes[-1].slots[name] = slot
        self.starts[slot.var] = Fact(ALWAYS, value.types, value.bits)
        if slot.ref is None:
            self.block.append(self.tree.assign(slot.var, self.datum(value)))

    def forget_assigned(self) -> None:
        """What a loop may set outside of itself may be anything when a round begins."""
        for scope in self._scopes:
            for name, slot in scope.slots.items():
                if name in self.world.assigned:
                    self._facts[slot.var] = Fact(self.fact(slot.var).state)

    def _slot(self, depth: int, name: str) -> Slot | None:
        scope = self._scopes[depth]
        if depth == 0 and name not in scope.slots:
            start = self._known.get(name, UNDEFINED)
            slot = scope.slots[name] = Slot(self.fresh("g"), 0)
            self.starts[slot.var] = Fact(start.state) if name in self.world.assigned else start
        return scope.slots.get(name)

    def _seen(self, name: str) -> list[Slot]:
        """The slots where a variable may be, innermost first; only the last one may have it certainly."""
        found: list[Slot] = []
        for depth in range(len(self._scopes) - 1, -1, -1):
            slot = self._slot(depth, name)
            if slot is None or self.fact(slot.var).state == NEVER:
                continue
            found.append(slot)
            if self.fact(slot.var).state == ALWAYS:
                break
        return found
