# SPDX-License-Identifier: GPL-2.0-or-later
"""Tree to code, with all the checks that can be made at load.

Recursion is two Python frames for each bracket of the policy, and brackets nest at most 200 deep.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from momservice.decisions import Place
from momservice.fields import Schema
from momservice.policy import instructions as op
from momservice.policy.checks import Checks
from momservice.policy.forms import FORMS
from momservice.policy.machine import Code, Function, Operation
from momservice.policy.names import Bound, form_name
from momservice.policy.operations import BINARY, VARIADIC
from momservice.policy.reader import Atom, Group, Node, Source


class Compiler:
    """Compiles the forms of one fragment after the other. What is wrong goes to `checks`; the code counts only if nothing is."""

    def __init__(self, sources: Sequence[Source], schema: Schema, bound: Bound, parameters: frozenset[str]) -> None:
        self.checks = Checks(schema, bound, parameters)
        self._sources = sources
        self._operations: list[tuple[Operation, Any]] = []
        self._starts = array("Q")
        self._forms: list[int] = []

    def fragment(self, source: Source, forms: Sequence[Node]) -> None:
        """Compiles the top-level forms of a fragment."""
        self.checks.source = source
        for form in forms:
            self._forms.append(len(self._operations))
            self.value(form)
            self._emit(op.halt, None, form)

    def code(self) -> Code:
        """What has been compiled."""
        bases = [source.base for source in self._sources]
        sources = self._sources

        def place(start: int) -> Place:
            source = sources[bisect_right(bases, start) - 1]
            return source.place(start - source.base)

        return Code(self._operations, self._starts, self._forms, place)

    def _emit(self, operation: Callable[..., int | None], operand: object, node: Node) -> int:
        self._operations.append((operation, operand))
        self._starts.append(self.checks.source.base + node.start)
        return len(self._operations) - 1

    def _patch(self, address: int, operand: object) -> None:
        self._operations[address] = (self._operations[address][0], operand)

    def _next(self) -> int:
        return len(self._operations)

    # --- values ------------------------------------------------------------------------------------------------------------------------

    def value(self, node: Node) -> None:
        """Compiles one value: its code leaves it on the stack."""
        if isinstance(node, Atom):
            self._atom(node)
            return
        if node.bracket == "{":
            self._eval(node, node.items)
            return
        head = self.checks.head(node)
        operands = node.items[1:]
        if head is None:
            for operand in self.checks.operands(node):
                self.value(operand)
        elif head.name in FORMS:
            self.SPECIAL.get(FORMS[head.name].name, Compiler._apply)(self, node, operands)
        elif "." in head.name:
            self._method(node, head, operands)
        else:
            self._call(node, head.name, operands)

    def _atom(self, node: Atom) -> None:
        if node.kind == "literal":
            self._emit(op.push, node.value, node)
        elif self.checks.symbol(node):
            self._path(node, node.name.split("."))

    def _path(self, node: Node, path: Sequence[str]) -> None:
        if path[0] == "Host":
            self._emit(op.push_host, None, node)
        elif path[0] == "Guests":
            self._emit(op.push_guests, None, node)
        else:
            self._emit(op.push_variable, path[0], node)
        for name in path[1:]:
            self._emit(op.take_member, name, node)

    # --- forms ---------------------------------------------------------------------------------------------------------------------------

    def _apply(self, node: Group, operands: Sequence[Node]) -> None:
        for operand in operands:
            self.value(operand)
        name = form_name(node)
        if name in BINARY:
            self._emit(op.apply_binary, BINARY[name], node)
        else:
            self._emit(op.apply_variadic, (VARIADIC[name], len(operands)), node)

    def _eval(self, node: Node, operands: Sequence[Node]) -> None:
        if not operands:
            self._emit(op.push, None, node)
        for index, operand in enumerate(operands):
            if index:
                self._emit(op.drop, None, operand)
            self.value(operand)

    def _if(self, node: Group, operands: Sequence[Node]) -> None:
        condition, then, otherwise = operands
        self.value(condition)
        branch = self._emit(op.jump_if_false, None, node)
        self.value(then)
        skip = self._emit(op.jump, None, node)
        self._patch(branch, self._next())
        self.value(otherwise)
        self._patch(skip, self._next())

    def _and_or(self, node: Group, operands: Sequence[Node]) -> None:
        decide = op.decide_and if form_name(node) == "and" else op.decide_or
        decisions = []
        for index, operand in enumerate(operands):
            if index:
                decisions.append(self._emit(decide, None, node))
            self.value(operand)
        for address in decisions:
            self._patch(address, self._next())

    def _debug(self, node: Group, operands: Sequence[Node]) -> None:
        for operand in operands:
            self.value(operand)
        self._emit(op.log, len(operands), node)

    def _defvar(self, node: Group, operands: Sequence[Node]) -> None:
        name = self.checks.binding(operands[0])
        self.value(operands[1])
        if name is not None:
            self.checks.bind_local(name)
            self._emit(op.define_variable, name, node)

    def _set(self, node: Group, operands: Sequence[Node]) -> None:
        name = self.checks.assigned(operands[0])
        self.value(operands[1])
        if name is not None:
            self._emit(op.assign_variable, name, node)

    def _let(self, node: Group, operands: Sequence[Node]) -> None:
        bindings = self.checks.let_bindings(operands[0])
        self._emit(op.open_scope, None, node)
        self.checks.locals.append(set())
        for name, binding in bindings:
            self.value(binding.items[1])
            self._emit(op.bind, name, binding)
            self.checks.bind_local(name)
        for index, body in enumerate(operands[1:]):
            if index:
                self._emit(op.drop, None, body)
            self.value(body)
        self._emit(op.close_scope, None, node)
        self.checks.locals.pop()

    def _with(self, node: Group, operands: Sequence[Node]) -> None:
        name = self.checks.loop(operands[0], operands[1])
        if name is None:
            return
        self.value(operands[0])
        self._emit(op.begin_loop, None, node)
        again = self._emit(op.next_round, None, node)
        self.checks.locals.append({name})
        self.value(operands[2])
        self.checks.locals.pop()
        self._emit(op.end_round, again, node)
        self._patch(again, (name, self._next()))

    def _def(self, node: Group, operands: Sequence[Node]) -> None:
        name = self.checks.binding(operands[0])
        names = self.checks.parameter_list(operands[1])
        definition = self._emit(op.define_function, None, node)
        self.checks.locals.append(set(names))
        self.value(operands[2])
        self.checks.locals.pop()
        self._emit(op.leave, None, node)
        if name is not None:
            self._patch(definition, (Function(name, tuple(names), definition + 1), self._next()))

    SPECIAL: ClassVar[dict[str, Callable[[Compiler, Group, Sequence[Node]], None]]] = {
        "def": _def,
        "defvar": _defvar,
        "set": _set,
        "let": _let,
        "if": _if,
        "with": _with,
        "eval": _eval,
        "and": _and_or,
        "or": _and_or,
        "debug": _debug,
    }

    # --- calls ---------------------------------------------------------------------------------------------------------------------------

    def _call(self, node: Group, name: str, operands: Sequence[Node]) -> None:
        self._emit(op.find_function, (name, len(operands)), node)
        for operand in operands:
            self.value(operand)
        self._emit(op.call, (len(operands), self._next() + 1), node)

    def _method(self, node: Group, head: Atom, operands: Sequence[Node]) -> None:
        *path, method = head.name.split(".")
        self.checks.method_name(path, method, operands)
        self._path(head, path)
        self._emit(op.find_receiver, method, head)
        for operand in operands:
            self.value(operand)
        self._emit(op.call_method, (method, len(operands), self.checks.source.place(node.start)), node)
