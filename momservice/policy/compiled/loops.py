# SPDX-License-Identifier: GPL-2.0-or-later
"""Static code of `with`: loops over all guests, whose outermost rounds fail alone, and over lists inside of them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from momservice.policy.compiled.emitter import METHOD_WORK, RESULT, Want
from momservice.policy.compiled.facts import ANY, GUESTS_REF, LIST, SCALAR, STR, GuestLoop, Unresolved, Val
from momservice.policy.compiled.functions import FunctionEmitter
from momservice.policy.compiled.world import Round
from momservice.policy.reader import Atom, Group, Node

# CPython nests 20 loops and handlers.
NESTED: Final = 15
# What a round takes beside its body: its start and its end.
ROUND: Final = 2


class LoopEmitter(FunctionEmitter):
    """Adds the loops."""

    looped = False
    _nested = 0

    def loop(self, node: Group, items: Atom, item: str, body: Node, want: Want) -> Val:
        """`with`."""
        if self._nested == NESTED:
            raise Unresolved
        self.at(items)
        source = self.known(self.read(items, items.name.split(".")))
        self._nested += 1
        self.looped = True
        self.forget_assigned()
        if source.ref == GUESTS_REF:
            result = self._guests(node, item, body, want)
        elif self.round is not None:
            result = self._list(node, source, item, body, want)
        else:
            # Whether its rounds fail alone depends on whether it holds guests.
            raise Unresolved
        self._nested -= 1
        return result

    def _guests(self, node: Group, item: str, body: Node, want: Want) -> Val:
        loop = GuestLoop(self.fresh("i"), outermost=self.round is None)
        if loop.outermost:
            return self._outermost(node, loop, item, body, want)
        lines, value, cost = self._body(node, self.entity(loop), item, body, want)
        tree = self.tree
        self.at(node)
        self.charges = True
        self.block.append(tree.do(tree.run("charge_rounds", tree.attribute(tree.name("R"), "count"), *self._constants(cost))))
        values = self._values_of(value, want)
        self._begin(values)
        skip = tree.all([tree.name("D"), tree.compare(tree.name(loop.index), ast.In(), tree.name("D"))])
        lines = [self._skip(skip, values), *lines, *self._keep(value, values)]
        self.block.append(self._over(loop, lines))
        return self._result(value, values, want)

    def _outermost(self, node: Group, loop: GuestLoop, item: str, body: Node, want: Want) -> Val:
        outer = self.round = Round(loop, self.depth)
        charged, wrote, lent = self.charges, self.writes, self.lends
        self.charges = self.writes = self.lends = False
        lines, value, cost = self._body(node, self.entity(loop), item, body, want)
        self.round = None
        tree = self.tree
        self.at(node)
        values = self._values_of(value, want)
        budget, before, mark, error = (self.fresh(prefix) for prefix in ("l", "s", "m", "e"))
        skip = tree.all([tree.name("D"), tree.compare(tree.name(loop.index), ast.In(), tree.name("D"))])
        begin: list[ast.stmt] = [self._skip(skip, values)]
        self.block += [
            tree.assign(budget, tree.run("begin_rounds", *self._constants(cost))),
            tree.assign(before, tree.attribute(tree.name("R"), "steps")),
        ]
        if self.writes:
            begin.append(tree.assign(mark, tree.run("mark")))
        else:
            # What never writes needs no way back.
            self.block.append(tree.assign(mark, tree.constant(sys.maxsize)))
        self._begin(values)
        if self.charges:
            begin.append(tree.assign_attribute("R", "steps", tree.name(budget)))
        saved = {var: self.fresh("o") for var in outer.changed}
        begin += [tree.assign(copy, tree.name(var)) for var, copy in saved.items()]
        failed = tree.do(tree.run("round_failed", tree.name(error), tree.name(loop.index), tree.name(mark)))
        caught = [failed, *(tree.assign(var, tree.name(copy)) for var, copy in saved.items())]
        if values:
            caught.append(self._append(values, tree.constant(None)))
        if self.lends:
            # In a guest's round, loops over guests are inner ones.
            caught.insert(1, tree.do(tree.run("unwind")))
            self.block.append(tree.assign_attribute("R", "in_round", tree.constant(True)))
        self.block.append(self._over(loop, [*begin, tree.guard([*lines, *self._keep(value, values)], error, caught)]))
        if self.charges:
            self.block.append(tree.assign_attribute("R", "steps", tree.name(before)))
        if self.lends:
            self.block.append(tree.assign_attribute("R", "in_round", tree.constant(False)))
        self.charges, self.writes, self.lends = self.charges or charged, self.writes or wrote, lent
        self.fails = True
        return self._result(value, values, want)

    def _list(self, node: Group, source: Val, item: str, body: Node, want: Want) -> Val:
        tree = self.tree
        self.at(node)
        things, one = self.fresh("n"), self.fresh("x")
        self.block.append(tree.assign(things, self.risky(tree.call("items_of", source.expr))))
        lines, value, cost = self._body(node, Val(tree.name(one), stable=True), item, body, want)
        self.at(node)
        self.block.append(tree.do(tree.run("charge_rounds", tree.call("len", tree.name(things)), *self._constants(cost))))
        values = self._values_of(value, want)
        self._begin(values)
        skip = tree.all([tree.name("D"), tree.run("gone", tree.name(one))])
        self.block.append(tree.loop([one], tree.name(things), [self._skip(skip, values), *lines, *self._keep(value, values)]))
        return self._result(value, values, want)

    def _body(self, node: Group, one: Val, item: str, body: Node, want: Want) -> tuple[list[ast.stmt], Val, tuple[int, int, int]]:
        """The statements of a round, the value of its body, and the most steps, averages and further work that a round takes."""
        before, steps, averages, work, mappings = self.save(), self.steps, self.averages, self.work, self._mappings
        self.steps, self.averages, self.work = ROUND, 0, 0
        self._mappings = dict(mappings)
        outer, self.block = self.block, []
        self.forget_figures()
        begin = self.tree.placeholder()
        self.block.append(begin)
        self.open(begin)
        self.bind(item, one)
        value = self.known(self.value(body, Want.VALUE))
        if want is Want.RESULT and not value.only(SCALAR | STR):
            self.at(node)
        self.close()
        lines, self.block = self.block, outer
        self.forget_figures()
        cost = (self.steps, self.averages, self.work)
        self.steps, self.averages, self.work, self._mappings = steps, averages, work, mappings
        self.join(before)
        return lines, value, cost

    def _constants(self, cost: Sequence[int]) -> list[ast.expr]:
        return [self.tree.constant(number) for number in cost]

    def _over(self, loop: GuestLoop, lines: list[ast.stmt]) -> ast.stmt:
        """The loop over the indices of all guests and those of their columns that the rounds read."""
        tree = self.tree
        indices = tree.call("range", tree.attribute(tree.name("R"), "count"))
        columns = [tree.run("column", tree.constant(name)) for name in loop.fields]
        for name, var in loop.sums.items():
            self.block.append(tree.assign(var + "k", tree.run("sums", tree.constant(name))))
            columns.append(tree.attribute(tree.name(var + "k"), "by_guest"))
            self.block.append(tree.assign(var + "n", tree.attribute(tree.name(var + "k"), "samples")))
        targets = [loop.index, *loop.fields.values(), *loop.sums.values()]
        return tree.loop(targets, tree.call("zip", indices, *columns) if columns else indices, lines)

    # --- the list of values --------------------------------------------------------------------------------------------------------------

    def _values_of(self, value: Val, want: Want) -> str:
        """The variable of the list of values; "" if nobody needs it and it can't be too long either."""
        return "" if want is Want.DROP and value.only(SCALAR | STR) else self.fresh("w")

    def _begin(self, values: str) -> None:
        if values:
            self.block.append(self.tree.assign(values, self.tree.empty_list()))

    def _append(self, values: str, value: ast.expr) -> ast.stmt:
        return self.tree.do(self.tree.method(values, "append", value))

    def _keep(self, value: Val, values: str) -> list[ast.stmt]:
        if values:
            return [self._append(values, value.expr)]
        return [] if value.stable else [self.tree.do(value.expr)]

    def _skip(self, test: ast.expr, values: str) -> ast.stmt:
        nothing = [self._append(values, self.tree.constant(None))] if values else []
        return self.tree.if_(test, [*nothing, self.tree.next_round()], [])

    def _result(self, value: Val, values: str, want: Want) -> Val:
        tree = self.tree
        if not values:
            return self.constant(None)
        if want is Want.RESULT and value.only(SCALAR | STR):
            # It shows as it is, and costs its length.
            self.block.append(tree.do(tree.run("pay", tree.call("len", tree.name(values)))))
            self.block.append(tree.assign(RESULT, tree.name(values)))
            return self.constant(None)
        made = Val(self.risky(tree.run("list_of", tree.name(values)), METHOD_WORK), LIST, 0)
        return self.deliver(replace(made, types=LIST & ANY), want)
