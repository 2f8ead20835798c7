# SPDX-License-Identifier: GPL-2.0-or-later
"""Code for forms of which not all is known before the run: variables are looked up by name, functions called as they are found."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from momservice.policy.compiled.emitter import Sites, Want
from momservice.policy.compiled.facts import ANY, LIST, STR, THING, Fact, Val
from momservice.policy.compiled.operators import OperatorEmitter
from momservice.policy.compiled.tree import GLOBALS, RUN
from momservice.policy.forms import READING
from momservice.policy.reader import Atom, Group, Node


@dataclass(frozen=True, slots=True)
class Made:
    """A function of the policy as generated: the offset of its definition, and where its body and its `Function` are in the namespace."""

    name: str
    parameters: tuple[str, ...]
    start: int
    body: str
    place: str
    steps: int


class DynamicEmitter(OperatorEmitter):
    """Generates one top-level form; bodies of functions and loops are functions of their own, in `functions`."""

    def __init__(self, sites: Sites, prefix: str) -> None:
        """`prefix`: begins the names of generated functions, so that no two forms share them."""
        super().__init__(sites)
        self.functions: list[ast.stmt] = []
        self.made: list[Made] = []
        self._prefix = prefix

    def form(self, node: Node, base: int) -> tuple[str, int]:
        """Generates a form; gives the name of its function and the most steps it takes outside of calls and loops."""
        self.base = base
        name, steps = self._body(node)
        return name, steps + 1

    def _body(self, node: Node) -> tuple[str, int]:
        outer, self.block = self.block, []
        steps, self.steps = self.steps, 0
        value = self.known(self.value(node))
        self.at(node)
        globals_ = self.tree.assign(GLOBALS, self.tree.attribute(self.tree.name(RUN), "variable"))
        name = self.fresh(self._prefix)
        self.functions.append(self.tree.define(name, [RUN], [globals_, *self.block, self.tree.give(value.expr)]))
        taken, self.steps, self.block = self.steps, steps, outer
        return name, taken

    def _now(self, expr: ast.expr, types: int = ANY) -> Val:
        """A value that is computed here, for what follows may depend on it."""
        return self.kept(Val(expr, types))

    # --- variables -----------------------------------------------------------------------------------------------------------------------

    def read(self, node: Node, path: Sequence[str]) -> Val:  # the place is set already
        """A plain or dotted name."""
        base, *members = path
        tree = self.tree
        if base in ("Host", "Guests"):
            value = Val(tree.attribute(tree.name(RUN), "host" if base == "Host" else "guest_list"), THING if base == "Host" else LIST)
        else:
            name = tree.constant(base)
            found = tree.compare(name, ast.In(), tree.name(GLOBALS))
            value = Val(tree.choose(found, tree.item(GLOBALS, name), tree.run("undefined", name)))
        for member in members:
            value = Val(tree.call("member", tree.name(RUN), value.expr, tree.constant(member)))
        return value

    def define(self, node: Node, name: str, value: Val) -> Val:  # the place is set already
        """`defvar`."""
        return self._now(self.tree.run("define", self.tree.constant(name), value.expr))

    def assign(self, node: Node, name: str, value: Val) -> None:  # the place is set already
        """`set`."""
        self.block.append(self.tree.do(self.tree.run("assign", self.tree.constant(name), value.expr)))

    def scoped(self, node: Node, bindings: Sequence[tuple[str, Node]], body: Callable[[], Val]) -> Val:
        """`let`."""
        self.block.append(self.tree.do(self.tree.run("open_scope")))
        for name, binding in bindings:
            value = self.known(self.value(binding))
            self.block.append(self.tree.do(self.tree.run("define", self.tree.constant(name), value.expr)))
        result = self.kept(self.known(body()))
        self.at(node)
        self.block.append(self.tree.do(self.tree.run("close_scope")))
        return result

    # --- loops and calls -----------------------------------------------------------------------------------------------------------------

    def loop(self, node: Group, items: Atom, item: str, body: Node, want: Want) -> Val:
        """`with`."""
        self.at(items)
        source = self.kept(self.read(items, items.name.split(".")))
        name, steps = self._body(body)
        self.at(node)
        tree = self.tree
        rounds = tree.run("loop", source.expr, tree.constant(item), tree.name(name), tree.constant(steps + 2))
        return self.deliver(self._now(rounds, LIST), want)

    def function(self, node: Group, name: str, parameters: Sequence[str], body: Node) -> Val:
        """`def`."""
        code, steps = self._body(body)
        place = self.fresh(self._prefix)
        self.made.append(Made(name, tuple(parameters), self.base + node.start, code, place, steps))
        self.at(node)
        tree = self.tree
        table = tree.attribute(tree.name(RUN), "functions")
        self.block.append(tree.do(tree.run("write", table, tree.constant(name), tree.name(place))))
        return Val(tree.constant(name), STR, stable=True)

    def call(self, node: Group, name: str, operands: Sequence[Node], want: Want) -> Val:
        """A call."""
        tree = self.tree
        self.steps += 3
        self.at(node)
        function = self._now(tree.run("function", tree.constant(name), tree.constant(len(operands))))
        values = self.known_operands(operands)
        self.at(node)
        start = tree.constant(self.base + node.start)
        called = tree.run("call", function.expr, tree.tuple([value.expr for value in values]), start)
        return self.deliver(self._now(called), want)

    def method(self, node: Group, head: Atom, operands: Sequence[Node]) -> Val:
        """A call of a method."""
        *path, method = head.name.split(".")
        tree = self.tree
        self.steps += len(path) + 2
        self.at(head)
        base = self.read(head, path)
        receiver = self._now(tree.call("receiver", base.expr, tree.constant(method)))
        values = self.known_operands(operands)
        site = self.at(node)
        given = (tree.constant(method), receiver.expr, tree.tuple([value.expr for value in values]))
        if method in READING:
            return self._now(tree.run("method", *given))
        return self._now(tree.run("setting", *given, tree.constant(site)))

    # --- nothing is known, so nothing is lost --------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Fact]:
        """Nothing."""
        return {}

    def refine(self, value: Val, types: int) -> None:
        """Nothing."""

    def restore(self, saved: dict[str, Fact]) -> None:
        """Nothing."""

    def join(self, saved: dict[str, Fact]) -> None:
        """Nothing."""
