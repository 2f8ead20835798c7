# SPDX-License-Identifier: GPL-2.0-or-later
"""Static code of variables: each one of each scope is a variable of the code."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from momservice.policy.compiled.emitter import Sites, Want
from momservice.policy.compiled.facts import ALWAYS, ANY, MAYBE, NEVER, UNDEFINED, Fact, Part, Ref, Unresolved, Val
from momservice.policy.compiled.scopes import ScopeEmitter
from momservice.policy.compiled.world import Round, Slot, World
from momservice.policy.reader import Node


class VariableEmitter(ScopeEmitter, ABC):
    """Adds reading, defining and setting of variables."""

    # None outside of guests' rounds.
    round: Round | None = None

    def __init__(self, sites: Sites, world: World, known: Mapping[str, Fact]) -> None:
        super().__init__(sites, world, known)
        # The global variables that the form defines where it doesn't fail before.
        self.defined: set[str] = set()
        self._guarded: set[str] = set()
        self._written: set[str] = set()

    @abstractmethod
    def entity(self, ref: Ref) -> Val:
        """What is known at compile time, as a value."""

    def variable(self, name: str) -> Val:
        """The value of a variable."""
        slots = self._seen(name)
        if slots:
            self._guard(slots[-1])
        if slots and self.fact(slots[0].var).state == ALWAYS:
            return self._from(slots[0], name)
        return self._search(name, slots)

    def _guard(self, slot: Slot) -> None:
        """Takes for granted that a global variable which may be defined before the form is: where it isn't, the dynamic code runs."""
        start = self.starts[slot.var]
        if slot.depth == 0 and start.state == MAYBE and slot.var not in self._facts and slot.var not in self._written:
            self._guarded.add(slot.var)
            self.starts[slot.var] = Fact(ALWAYS, start.types, start.bits)

    def _from(self, slot: Slot, name: str) -> Val:
        if slot.ref is not None:
            return self.entity(slot.ref)
        fact = self.fact(slot.var)
        stable = name not in self.world.assigned
        return Val(self.tree.name(slot.var), fact.types, fact.bits, stable=stable, var=slot.var if stable else "")

    def _search(self, name: str, slots: Sequence[Slot]) -> Val:
        """A variable that is in one of several scopes, or in none."""
        tree = self.tree
        self.fails = True
        expr, types, bits = tree.run("undefined", tree.constant(name)), 0, 0
        for slot in reversed(slots):
            found = self._from(slot, name)
            types, bits = types | found.types, max(bits, found.bits)
            certain = self.fact(slot.var).state == ALWAYS
            expr = found.expr if certain else tree.choose(tree.is_(tree.name(slot.var), "ABSENT"), expr, found.expr)
        return Val(expr, types or ANY, bits)

    def define(self, node: Node, name: str, value: Val) -> Val:  # the place is set already
        """`defvar`."""
        depth = len(self._scopes) - 1
        if depth == 0:
            self.defined.add(name)
        slot = self._slot(depth, name)
        if slot is None:
            slot = self._scopes[depth].slots[name] = Slot(self.fresh("v"), depth)
            self.starts[slot.var] = UNDEFINED
            self._begins[slot.var] = self._scopes[depth].begin
        fact = self.fact(slot.var)
        if fact.state == ALWAYS:
            self.deliver(value, Want.DROP)
            return self._from(slot, name)
        self._store(slot, name, value, fact)
        return self._from(slot, name)

    def _store(self, slot: Slot, name: str, value: Val, fact: Fact) -> None:
        if slot.depth == 0:
            self._written.add(slot.var)
        if slot.ref is not None:
            # It has been something else on another way here.
            raise Unresolved
        if fact.state == NEVER:
            if isinstance(value.ref, Part) and slot.depth > 0 and name not in self.world.assigned:
                slot.ref = value.ref
                value = replace(value, expr=self.tree.name(value.ref.mapping))
            self.block.append(self.tree.assign(slot.var, value.expr))
            self._facts[slot.var] = Fact(ALWAYS, value.types, value.bits)
            return
        kept = self.kept(value)
        self.block.append(self.tree.if_(self.tree.is_(self.tree.name(slot.var), "ABSENT"), [self.tree.assign(slot.var, kept.expr)], []))
        self._facts[slot.var] = Fact(ALWAYS, fact.types | value.types, max(fact.bits, value.bits))

    def assign(self, node: Node, name: str, value: Val) -> None:  # the place is set already
        """`set`."""
        slots = self._seen(name)
        if slots:
            self._guard(slots[-1])
            slots = self._seen(name)
        tree = self.tree
        certain = bool(slots) and self.fact(slots[-1].var).state == ALWAYS
        lines: list[ast.stmt] = [] if certain else [tree.do(tree.run("undefined", tree.constant(name)))]
        self.fails = self.fails or not certain
        for slot in reversed(slots):
            store: list[ast.stmt] = [tree.assign(slot.var, value.expr)]
            old = self.fact(slot.var)
            lines = store if old.state == ALWAYS else [tree.if_(tree.is_(tree.name(slot.var), "ABSENT"), lines, store)]
            self._changed(slot)
            new = Fact(old.state, value.types, value.bits)
            self._facts[slot.var] = new if len(slots) == 1 else old.join(new)
        self.block += lines

    def _changed(self, slot: Slot) -> None:
        if slot.depth == 0:
            self._written.add(slot.var)
        if self.round is not None and slot.depth < self.round.depth:
            self.round.changed[slot.var] = slot

    def scoped(self, node: Node, bindings: Sequence[tuple[str, Node]], body: Callable[[], Val]) -> Val:
        """`let`."""
        self.at(node)
        begin = self.tree.placeholder()
        self.block.append(begin)
        scope = self.open(begin)
        for name, binding in bindings:
            value = self.known(self.value(binding))
            if name in scope.slots:
                self.define(binding, name, value)
            else:
                self.bind(name, value)
        result = self.known(body())
        self.close()
        return result
