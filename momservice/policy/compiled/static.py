# SPDX-License-Identifier: GPL-2.0-or-later
"""Code for forms of which all is known before the run: calls are inlined, and each variable of each scope is a variable of the code.

Scope is dynamic, but where calls are inlined the scopes that are open at a point are known. Whether a variable is defined may depend on
the run: then it holds ABSENT until it is. Changes of global variables are local until the form's end, so a form that fails has changed
nothing; a guest's round keeps what it may change outside of itself and puts it back. Functions that can't be known before the run are
called as they are found, with the variables that they may see lent to them.
"""

from __future__ import annotations

import ast

from momservice.policy.compiled.emitter import Want
from momservice.policy.compiled.facts import ALWAYS, NEVER, UNDEFINED, Fact
from momservice.policy.compiled.methods import MethodEmitter
from momservice.policy.compiled.tree import GLOBALS, RUN
from momservice.policy.reader import Node


class StaticCode(MethodEmitter):
    """Generates one top-level form. Raises Unresolved."""

    guarded = False

    def form(self, node: Node, base: int) -> list[ast.stmt]:
        """The body of the function of the form; it leaves the form's value in RESULT."""
        self.base = base
        self.value(node, Want.RESULT)
        self.steps += 1
        self.at(node)
        self.guarded = bool(self._guarded)
        return [*self._prologue(), *self.block, *self._epilogue()]

    def _prologue(self) -> list[ast.stmt]:
        tree = self.tree
        lines: list[ast.stmt] = []
        for name, slot in self._scopes[0].slots.items():
            lines.append(tree.assign(slot.var, self._load(name)))
            if slot.var in self._guarded:
                elsewhere = tree.give(tree.run("dynamic"))
                lines.append(tree.if_(tree.is_(tree.name(slot.var), "ABSENT"), [elsewhere], []))
        lines += [tree.assign(var, tree.run("host_value", tree.constant(name))) for name, var in self._host.items()]
        if self.looped:
            lines.append(tree.assign("D", tree.attribute(tree.name(RUN), "dropped")))
        return [*lines, *(tree.assign(var, tree.empty()) for var in self._controls.values())]

    def _load(self, name: str) -> ast.expr:
        state = self._known.get(name, UNDEFINED).state
        if state == NEVER:
            return self.tree.name("ABSENT")
        key = self.tree.constant(name)
        return self.tree.item(GLOBALS, key) if state == ALWAYS else self.tree.get(GLOBALS, key, self.tree.name("ABSENT"))

    def _epilogue(self) -> list[ast.stmt]:
        tree = self.tree
        lines: list[ast.stmt] = []
        for name, slot in self._scopes[0].slots.items():
            if slot.var in self._written:
                store = tree.assign_item(GLOBALS, tree.constant(name), tree.name(slot.var))
                always = self.fact(slot.var).state == ALWAYS
                lines.append(store if always else tree.if_(tree.is_not(tree.name(slot.var), "ABSENT"), [store], []))
        for name, var in self._controls.items():
            lines.append(tree.if_(tree.name(var), [tree.do(tree.run("take_controls", tree.constant(name), tree.name(var)))], []))
        return lines

    def facts_after(self) -> dict[str, Fact]:
        """The facts of the global variables that the form knows of, after it."""
        return {name: self.fact(slot.var) for name, slot in self._scopes[0].slots.items()}
