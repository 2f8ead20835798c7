# SPDX-License-Identifier: GPL-2.0-or-later
"""From the forms of a policy to generated code: what doesn't depend on where variables live.

Values are pending expressions as long as nothing else must be evaluated before them; statements are made where an expression can't do it.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar, Final

from momservice.policy.compiled.facts import ANY, FLOAT, INT, NIL, RAW, SCALAR, STR, Fact, Val
from momservice.policy.compiled.tree import Tree
from momservice.policy.names import form_name
from momservice.policy.operations import BINARY, VARIADIC
from momservice.policy.reader import Atom, Group, Node

# What generated code calls for the forms: by name of the form, the name in the namespace.
OPERATIONS: Final = {name: f"op{number}" for number, name in enumerate((*BINARY, *VARIADIC))}
RESULT: Final = "res"
# How much longer than a step calls take: of an operation or a field, and of a method or a list.
CALL_WORK: Final = 10
METHOD_WORK: Final = 30
# Of a control, and of each operand of a form that takes any number of them.
SETTING_WORK: Final = 80
OPERAND_WORK: Final = 8


class Want(Enum):
    """What becomes of a value: it is used, dropped, or is the result of the form."""

    VALUE = 1
    DROP = 2
    RESULT = 3


@dataclass(slots=True)
class Sites:
    """The places of the policy that generated code can tell, numbered."""

    all: list[tuple[int, tuple[tuple[str, int], ...]]] = field(default_factory=list)
    _numbers: dict[tuple[int, tuple[tuple[str, int], ...]], int] = field(default_factory=dict)

    def number(self, start: int, calls: tuple[tuple[str, int], ...]) -> int:
        """The number of a place and the calls that lead there."""
        site = (start, calls)
        number = self._numbers.setdefault(site, len(self.all))
        if number == len(self.all):
            self.all.append(site)
        return number


class Emitter(ABC):
    """Generates the code of one function. `steps`: the most that the code so far takes; `averages`: how many averages it takes."""

    def __init__(self, sites: Sites) -> None:
        self.tree = Tree()
        self.block: list[ast.stmt] = []
        self.steps = 0
        self.averages = 0
        # What it takes beyond its steps where it calls something, in both branches of an `if` together.
        self.work = 0
        self.base = 0
        self.calls: tuple[tuple[str, int], ...] = ()
        # Whether the code so far may fail, may charge steps, may write to the journal.
        self.fails = self.charges = self.writes = False
        self._sites = sites
        self._names = 0

    # --- what depends on where variables live --------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, node: Node, path: Sequence[str]) -> Val:
        """A plain or dotted name."""

    @abstractmethod
    def define(self, node: Node, name: str, value: Val) -> Val:
        """`defvar`; gives the variable's value."""

    @abstractmethod
    def assign(self, node: Node, name: str, value: Val) -> None:
        """`set`; the value is stable."""

    @abstractmethod
    def scoped(self, node: Node, bindings: Sequence[tuple[str, Node]], body: Callable[[], Val]) -> Val:
        """`let`: body in a scope with the bindings."""

    @abstractmethod
    def loop(self, node: Group, items: Atom, item: str, body: Node, want: Want) -> Val:
        """`with`."""

    @abstractmethod
    def function(self, node: Group, name: str, parameters: Sequence[str], body: Node) -> Val:
        """`def`."""

    @abstractmethod
    def call(self, node: Group, name: str, operands: Sequence[Node], want: Want) -> Val:
        """A call of a function of the policy."""

    @abstractmethod
    def method(self, node: Group, head: Atom, operands: Sequence[Node]) -> Val:
        """A call of a method."""

    @abstractmethod
    def apply(self, node: Group, operands: Sequence[Node]) -> Val:
        """A form that evaluates all its operands."""

    @abstractmethod
    def save(self) -> dict[str, Fact]:
        """The facts at this point."""

    @abstractmethod
    def restore(self, saved: dict[str, Fact]) -> None:
        """Go on from other facts."""

    @abstractmethod
    def join(self, saved: dict[str, Fact]) -> None:
        """Go on from where the present facts or the saved ones hold."""

    @abstractmethod
    def refine(self, value: Val, types: int) -> None:
        """From here on a value is known to have one of these types, for otherwise there was an error."""

    def opened(self, value: Val) -> ast.expr:
        """The expression of a value that is RAW, taken in."""
        return value.expr

    # --- helpers -------------------------------------------------------------------------------------------------------------------------

    def at(self, node: Node) -> int:
        """What is generated next belongs to a node; gives the number of the site."""
        site = self._sites.number(self.base + node.start, self.calls)
        self.tree.line = site + 1
        return site

    def fresh(self, prefix: str) -> str:
        """A new variable of the generated code."""
        self._names += 1
        return f"{prefix}{self._names}"

    def constant(self, value: float | str | None) -> Val:
        """A literal."""
        if value is None:
            return Val(self.tree.constant(None), NIL, 0, stable=True)
        if type(value) is int:
            return Val(self.tree.constant(value), INT, value.bit_length(), stable=True)
        return Val(self.tree.constant(value), STR if isinstance(value, str) else FLOAT, 0, stable=True)

    def kept(self, value: Val) -> Val:
        """The same value, in a variable if it isn't stable."""
        if value.stable and not value.types & RAW:
            return value
        name = self.fresh("t")
        self.block.append(self.tree.assign(name, self.datum(value)))
        return replace(value, expr=self.tree.name(name), types=value.types & ANY, stable=True, var=name)

    def datum(self, value: Val) -> ast.expr:
        """The expression of a value of the language."""
        if not value.types & RAW:
            return value.expr
        return self.risky(self.opened(value), 1)

    def known(self, value: Val) -> Val:
        """The same value, not RAW."""
        return replace(value, expr=self.datum(value), types=value.types & ANY, stable=False, var="") if value.types & RAW else value

    def risky(self, expr: ast.expr, work: int = CALL_WORK) -> ast.expr:
        """An expression that may fail and charge, and takes longer than its steps tell."""
        self.fails = self.charges = True
        self.work += work
        return expr

    def operands(self, nodes: Iterable[Node]) -> list[Val]:
        """Values in order. Those before one that isn't simple are evaluated before it."""
        values: list[Val] = []
        for node in nodes:
            start, failed, self.fails = len(self.block), self.fails, False
            value = self.value(node)
            # What neither does anything nor can fail may as well come first.
            if self.fails or len(self.block) > start:
                self._settle(values, start, pending=len(self.block) > start)
            self.fails = self.fails or failed
            values.append(value)
        return values

    def _settle(self, values: list[Val], start: int, *, pending: bool) -> None:
        after = self.block[start:]
        del self.block[start:]
        for index, value in enumerate(values):
            if value.types & RAW or (pending and not value.stable):
                values[index] = self.kept(value)
        self.block += after

    def known_operands(self, nodes: Iterable[Node]) -> list[Val]:
        """Values in order, none of them RAW."""
        return [self.known(value) for value in self.operands(nodes)]

    def deliver(self, value: Val, want: Want) -> Val:
        """Do with a value what is wanted."""
        if want is Want.VALUE:
            return value
        if want is Want.DROP:
            # What is known at compile time is there without being evaluated.
            if value.ref is None and (not value.repeatable or value.types & RAW):
                self.block.append(self.tree.do(self.datum(value)))
        else:
            expr = self.datum(value)
            shown = expr if value.only(SCALAR) else self.tree.run("result", expr)
            self.block.append(self.tree.assign(RESULT, shown))
        return self.constant(None)

    # --- values --------------------------------------------------------------------------------------------------------------------------

    def value(self, node: Node, want: Want = Want.VALUE) -> Val:
        """Generates the code of one value."""
        if isinstance(node, Group):
            return self._group(node, want)
        self.steps += 1
        if node.kind == "literal":
            return self.deliver(self.constant(node.value), want)
        self.at(node)
        path = node.name.split(".")
        self.steps += len(path) - 1
        return self.deliver(self.read(node, path), want)

    def _group(self, node: Group, want: Want) -> Val:
        if node.bracket == "{":
            return self.block_of(node.items, want)
        head = node.items[0]
        if not isinstance(head, Atom):
            raise TypeError("a form without a name has passed the checks")
        operands = node.items[1:]
        name = form_name(node)
        if name in self.TAIL:
            return self.TAIL[name](self, node, operands, want)
        if name:
            return self.deliver(self.FORM[name](self, node, operands) if name in self.FORM else self.apply(node, operands), want)
        if "." in head.name:
            return self.deliver(self.method(node, head, operands), want)
        return self.call(node, head.name, operands, want)

    def block_of(self, nodes: Sequence[Node], want: Want) -> Val:
        """Values in order, of which the last one counts."""
        if not nodes:
            self.steps += 1
            return self.deliver(self.constant(None), want)
        self.steps += len(nodes) - 1
        for node in nodes[:-1]:
            self.value(node, Want.DROP)
        return self.value(nodes[-1], want)

    def branch(self, node: Node, want: Want) -> tuple[list[ast.stmt], Val]:
        """The code of a value in a block of its own, which the caller puts somewhere."""
        outer, self.block = self.block, []
        value = self.known(self.value(node, want))
        block, self.block = self.block, outer
        return block, value

    def _if(self, node: Group, operands: Sequence[Node], want: Want) -> Val:
        test = self.known(self.value(operands[0]))
        before, steps = self.save(), self.steps + 1
        self.steps = steps
        then_block, then = self.branch(operands[1], want)
        after, longest, self.steps = self.save(), self.steps + 1, steps
        self.restore(before)
        else_block, otherwise = self.branch(operands[2], want)
        self.join(after)
        self.steps = max(self.steps, longest)
        self.at(node)
        types, bits = then.types | otherwise.types, max(then.bits, otherwise.bits)
        if want is not Want.VALUE:
            self.block.append(self.tree.if_(test.expr, then_block, else_block))
            return self.constant(None)
        if not then_block and not else_block:
            return Val(self.tree.choose(test.expr, then.expr, otherwise.expr), types, bits)
        name = self.fresh("t")
        then_block.append(self.tree.assign(name, then.expr))
        else_block.append(self.tree.assign(name, otherwise.expr))
        self.block.append(self.tree.if_(test.expr, then_block, else_block))
        return Val(self.tree.name(name), types, bits, stable=True, var=name)

    def _and_or(self, node: Group, operands: Sequence[Node], want: Want) -> Val:
        first = self.known(self.value(operands[0]))
        self.steps += len(operands) - 1
        rest: list[tuple[list[ast.stmt], Val]] = []
        for operand in operands[1:]:
            before = self.save()
            rest.append(self.branch(operand, Want.VALUE))
            self.join(before)
        self.at(node)
        values = [first, *(value for _, value in rest)]
        types, bits = 0, 0
        for value in values:
            types, bits = types | value.types, max(bits, value.bits)
        combine = self.tree.all if form_name(node) == "and" else self.tree.any
        if not any(block for block, _ in rest):
            return self.deliver(Val(combine([value.expr for value in values]), types, bits, stable=len(values) == 1 and first.stable), want)
        name = self.fresh("t")
        self.block.append(self.tree.assign(name, first.expr))
        for block, value in rest:
            test = self.tree.name(name) if form_name(node) == "and" else self.tree.negate(self.tree.name(name))
            self.block.append(self.tree.if_(test, [*block, self.tree.assign(name, value.expr)], []))
        return self.deliver(Val(self.tree.name(name), types, bits, stable=True, var=name), want)

    def _eval(self, _node: Group, operands: Sequence[Node], want: Want) -> Val:
        return self.block_of(operands, want)

    def _let(self, node: Group, operands: Sequence[Node], want: Want) -> Val:
        self.steps += 2
        groups = operands[0].items if isinstance(operands[0], Group) else []
        bindings = [
            (binding.items[0].name, binding.items[1])
            for binding in groups
            if isinstance(binding, Group) and isinstance(binding.items[0], Atom)
        ]
        self.steps += len(bindings)
        return self.deliver(self.scoped(node, bindings, lambda: self.block_of(operands[1:], Want.VALUE)), want)

    def _with(self, node: Group, operands: Sequence[Node], want: Want) -> Val:
        items, item, body = operands
        if not isinstance(items, Atom) or not isinstance(item, Atom):
            raise TypeError("a loop over something else than a name has passed the checks")
        # The path of the list, the start of the loop, and the look for a round after the last.
        self.steps += len(items.name.split(".")) + 2
        return self.loop(node, items, item.name, body, want)

    TAIL: ClassVar[dict[str, Callable[[Emitter, Group, Sequence[Node], Want], Val]]] = {
        "if": _if,
        "and": _and_or,
        "or": _and_or,
        "eval": _eval,
        "let": _let,
        "with": _with,
    }

    # --- forms of one value --------------------------------------------------------------------------------------------------------------

    def _def(self, node: Group, operands: Sequence[Node]) -> Val:
        self.steps += 1
        name, parameters, body = operands
        if not isinstance(name, Atom) or not isinstance(parameters, Group):
            raise TypeError("a function without name or parameters has passed the checks")
        return self.function(node, name.name, [item.name for item in parameters.items if isinstance(item, Atom)], body)

    def _defvar(self, node: Group, operands: Sequence[Node]) -> Val:
        return self._bind(node, operands, self.define)

    def _set(self, node: Group, operands: Sequence[Node]) -> Val:
        def assigned(node: Node, name: str, value: Val) -> Val:
            kept = self.kept(value)
            self.assign(node, name, kept)
            return kept

        return self._bind(node, operands, assigned)

    def _bind(self, node: Group, operands: Sequence[Node], bind: Callable[[Node, str, Val], Val]) -> Val:
        name = operands[0]
        if not isinstance(name, Atom):
            raise TypeError("a binding without a name has passed the checks")
        value = self.known(self.value(operands[1]))
        self.steps += 1
        self.at(node)
        return bind(node, name.name, value)

    def _debug(self, node: Group, operands: Sequence[Node]) -> Val:
        values = [self.kept(value) for value in self.known_operands(operands)]
        self.steps += 1
        self.at(node)
        self.work += METHOD_WORK
        self.block.append(self.tree.do(self.tree.run("log", self.tree.tuple([value.expr for value in values]))))
        return values[-1]

    FORM: ClassVar[dict[str, Callable[[Emitter, Group, Sequence[Node]], Val]]] = {
        "def": _def,
        "defvar": _defvar,
        "set": _set,
        "debug": _debug,
    }
