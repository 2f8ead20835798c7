# SPDX-License-Identifier: GPL-2.0-or-later
"""Static code of functions: calls are inlined; what can't be known before the run is called as it is found, with variables lent to it."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Final

from momservice.policy.compiled.emitter import CALL_WORK, METHOD_WORK, Sites, Want
from momservice.policy.compiled.entities import EntityEmitter
from momservice.policy.compiled.facts import ALWAYS, Fact, Unresolved, Val
from momservice.policy.compiled.tree import RUN
from momservice.policy.compiled.world import Slot, World
from momservice.policy.reader import Group, Node

# Inlining may multiply the code: beyond so many values in a form it isn't worth it.
INLINED: Final = 4000
NESTED_CALLS: Final = 30


class FunctionEmitter(EntityEmitter, ABC):
    """Adds functions of the policy."""

    # Whether the code of the round so far calls functions that aren't known before the run.
    lends = False
    _values = 0

    def __init__(self, sites: Sites, world: World, form: int, known: Mapping[str, Fact], made: Mapping[int, str]) -> None:
        """`made`: by the offset of a `def`, where its function is in the namespace."""
        super().__init__(sites, world, known)
        # The names of controls that are taken in another way than by the form's own tables; None for one that isn't known.
        self.indirect: set[str | None] = set()
        self._form = form
        self._made = made

    def value(self, node: Node, want: Want = Want.VALUE) -> Val:
        """Generates the code of one value. Raises Unresolved where there is too much of it."""
        self._values += 1
        if self._values > INLINED:
            raise Unresolved
        self.world.budget.take(1)
        return super().value(node, want)

    def function(self, node: Group, name: str, parameters: Sequence[str], body: Node) -> Val:  # both are in what is made
        """`def` inside of something else."""
        place = self._made.get(self.base + node.start)
        if place is None:
            raise Unresolved
        tree = self.tree
        table = tree.attribute(tree.name(RUN), "functions")
        self.block.append(tree.do(tree.run("write", table, tree.constant(name), tree.name(place))))
        self.writes = True
        self.work += METHOD_WORK
        return self.constant(name)

    def call(self, node: Group, name: str, operands: Sequence[Node], want: Want) -> Val:
        """A call: the function's body in a scope with its parameters, here."""
        known = self.world.functions.get(name)
        if known is None or known.form >= self._form or len(known.parameters) != len(operands):
            return self.deliver(self._lending_call(node, name, operands), want)
        if len(self.calls) == NESTED_CALLS or any(called == name for called, _ in self.calls):
            return self.deliver(self._lending_call(node, name, operands), want)
        values = self.known_operands(operands)
        self.steps += 3
        self.at(node)
        before = self.base, self.calls
        begin = self.tree.placeholder()
        self.block.append(begin)
        self.open(begin)
        for parameter, value in zip(known.parameters, values, strict=True):
            self.bind(parameter, value)
        self.calls = (*self.calls, (name, self.base + node.start))
        self.base = known.base
        result = self.known(self.value(known.body, want))
        self.base, self.calls = before
        self.close()
        return result

    def _lending_call(self, node: Group, name: str, operands: Sequence[Node]) -> Val:
        """A call of a function that isn't known before the run: it sees the variables it may use in a scope that is made for it."""
        tree, reach = self.tree, self.world.reach(name)
        self.steps += 3
        self.at(node)
        function = self.kept(Val(self.risky(tree.run("function", tree.constant(name), tree.constant(len(operands))))))
        given = [self.kept(value) for value in self.known_operands(operands)]
        self.at(node)
        lent = {symbol: slot for symbol in sorted(reach.symbols) if (slot := self._lent(symbol)) is not None}
        self.world.budget.take(len(reach.symbols))
        self.work += 2 * METHOD_WORK + CALL_WORK * (len(lent) + len(operands))
        names = tree.tuple([tree.constant(symbol) for symbol in lent])
        values = tree.tuple([self._from(slot, symbol).expr for symbol, slot in lent.items()])
        chain = tree.tuple([tree.tuple([tree.constant(called), tree.constant(start)]) for called, start in self.calls])
        start = tree.constant(self.base + node.start)
        self.block.append(tree.do(tree.run("lend", chain, names, values)))
        result = self.kept(Val(tree.run("call", function.expr, tree.tuple([value.expr for value in given]), start)))
        for symbol, slot in lent.items():
            if symbol in self.world.assigned:
                self.block.append(tree.assign(slot.var, tree.item_of(tree.attribute(tree.name(RUN), "variable"), tree.constant(symbol))))
                self._changed(slot)
                self._facts[slot.var] = Fact(ALWAYS)
        self.block.append(tree.do(tree.run("take_back")))
        self.lends = self.writes = True
        self.forget_figures()
        if reach.controls:
            self.indirect.add(None)
        return result

    def _lent(self, name: str) -> Slot | None:
        """Where a variable is that a function may use; None where the function finds it by itself, or there is none."""
        slots = self._seen(name)
        if not slots or (name not in self.world.assigned and slots[0].depth == 0 and slots[0].var not in self._written):
            return None
        self._guard(slots[-1])
        if self.fact(slots[0].var).state != ALWAYS:
            raise Unresolved
        return slots[0]
