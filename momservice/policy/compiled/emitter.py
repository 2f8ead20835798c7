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

from momservice.policy.compiled.facts import ANY, BOOL, FLOAT, INT, LIST, NIL, NUMBER, RAW, SCALAR, STR, Fact, Val
from momservice.policy.compiled.tree import Tree
from momservice.policy.names import form_name
from momservice.policy.operations import BINARY, VARIADIC
from momservice.policy.reader import Atom, Group, Node
from momservice.policy.values import INTEGER_BITS

# What generated code calls for the forms: by name of the form, the name in the namespace.
OPERATIONS: Final = {name: f"op{number}" for number, name in enumerate((*BINARY, *VARIADIC))}
_ARITHMETIC: Final[dict[str, ast.operator]] = {"+": ast.Add(), "-": ast.Sub(), "*": ast.Mult(), "/": ast.Div()}
_ORDER: Final[dict[str, ast.cmpop]] = {"<": ast.Lt(), ">": ast.Gt(), "<=": ast.LtE(), ">=": ast.GtE()}
_EQUAL: Final[dict[str, ast.cmpop]] = {"==": ast.Eq(), "!=": ast.NotEq()}
RESULT: Final = "res"
# How much longer than a step calls take: of an operation or a field, and of a method or a list.
CALL_WORK: Final = 4
METHOD_WORK: Final = 20


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
            if not value.repeatable or value.types & RAW:
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
            return self.deliver(self.FORM.get(name, Emitter._apply)(self, node, operands), want)
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

    def _apply(self, node: Group, operands: Sequence[Node]) -> Val:
        name = form_name(node)
        values = self.operands(operands)
        self.steps += 1
        self.at(node)
        if name in _ARITHMETIC:
            return self._arithmetic(name, *values)
        if name in _ORDER:
            return self._order(name, *values)
        values = [self.known(value) for value in values]
        if name in _EQUAL:
            return self._equal(name, *values)
        if name in BINARY:
            return self._binary(name, *values)
        return self._variadic(name, values)

    def _binary(self, name: str, left: Val, right: Val) -> Val:
        expr = self.tree.run("binary", self.tree.name(OPERATIONS[name]), self.datum(left), self.datum(right))
        return Val(self.risky(expr), BOOL if name in _EQUAL or name in _ORDER else ANY)

    def _number_tests(self, values: Sequence[Val]) -> list[ast.expr]:
        """Tests that all values are integers or floats, as far as that isn't known."""
        unknown = {value.expr.id: value for value in values if not value.only(NUMBER) and isinstance(value.expr, ast.Name)}
        name = self.tree.name
        return [self.tree.any([self.tree.is_type(name(var), "int"), self.tree.is_type(name(var), "float")]) for var in unknown]

    def _repeatable(self, left: Val, right: Val) -> tuple[Val, Val]:
        """Both as names or constants, evaluated in their order."""
        if not left.repeatable or (not left.stable and not right.repeatable):
            left = self.kept(left)
        return left, right if right.repeatable else self.kept(right)

    def _arithmetic(self, name: str, left: Val, right: Val) -> Val:
        float_result = name == "/" or FLOAT in (left.types & ANY, right.types & ANY)
        # What isn't a number is an error, but for sums of texts and lists.
        if name != "+" or left.only(NUMBER) or right.only(NUMBER):
            types = FLOAT if float_result else (NUMBER & ~BOOL if (left.types | right.types) & FLOAT else INT)
        else:
            types = FLOAT | INT | ((STR | LIST) & left.types & right.types)
        self.fails = self.fails or name == "/"
        bits = left.bits + right.bits if name == "*" else max(left.bits, right.bits) + 1
        if left.only(NUMBER) and right.only(NUMBER):
            return self._bounded(Val(self.tree.compute(left.expr, _ARITHMETIC[name], right.expr), types, bits))
        if not left.types & (INT | FLOAT) or not right.types & (INT | FLOAT):
            return self._binary(name, left, right)
        left, right = self._repeatable(left, right)
        then = self._captured(lambda: self._bounded(Val(self.tree.compute(left.expr, _ARITHMETIC[name], right.expr), types & NUMBER, bits)))
        result = self._either(self._number_tests([left, right]), then, self._binary(name, left, right), types)
        if name != "+" or left.only(NUMBER) or right.only(NUMBER):
            self.refine(left, NUMBER)
            self.refine(right, NUMBER)
        return result

    def _captured(self, make: Callable[[], Val]) -> tuple[list[ast.stmt], Val]:
        outer, self.block = self.block, []
        value = make()
        block, self.block = self.block, outer
        return block, value

    def _either(self, tests: Sequence[ast.expr], then: tuple[list[ast.stmt], Val], otherwise: Val, types: int) -> Val:
        block, value = then
        test = self.tree.all(tests)
        if not block:
            return Val(self.tree.choose(test, value.expr, otherwise.expr), types)
        name = self.fresh("t")
        self.block.append(self.tree.if_(test, [*block, self.tree.assign(name, value.expr)], [self.tree.assign(name, otherwise.expr)]))
        return Val(self.tree.name(name), types, stable=True, var=name)

    def _bounded(self, value: Val) -> Val:
        """A computed number, checked where it may be an integer that is too wide: the class before the range."""
        if not value.types & INT or value.bits <= INTEGER_BITS:
            return value
        kept = self.kept(replace(value, var=""))
        self.fails = True
        inside = self.tree.between(self.tree.name("LOW"), kept.expr, self.tree.name("HIGH"))
        test = self.tree.negate(inside)
        if kept.types & FLOAT:
            test = self.tree.all([self.tree.is_type(kept.expr, "int"), test])
        self.block.append(self.tree.if_(test, [self.tree.do(self.tree.call("too_wide", kept.expr))], []))
        return replace(kept, bits=INTEGER_BITS)

    def _order(self, name: str, left: Val, right: Val) -> Val:
        if left.only(NUMBER) and right.only(NUMBER):
            return Val(self.tree.compare(left.expr, _ORDER[name], right.expr), BOOL, 0)
        if not left.types & (INT | FLOAT) or not right.types & (INT | FLOAT):
            return self._binary(name, left, right)
        left, right = self._repeatable(left, right)
        compared = Val(self.tree.compare(left.expr, _ORDER[name], right.expr), BOOL, 0)
        result = self._either(self._number_tests([left, right]), ([], compared), self._binary(name, left, right), BOOL)
        if left.only(NUMBER) or right.only(NUMBER):
            self.refine(left, NUMBER)
            self.refine(right, NUMBER)
        return result

    def _equal(self, name: str, left: Val, right: Val) -> Val:
        if left.only(SCALAR) and right.only(SCALAR):
            return Val(self.tree.compare(left.expr, _EQUAL[name], right.expr), BOOL, 0)
        if not left.types & (INT | FLOAT) or not right.types & (INT | FLOAT):
            return self._binary(name, left, right)
        left, right = self._repeatable(left, right)
        compared = Val(self.tree.compare(left.expr, _EQUAL[name], right.expr), BOOL, 0)
        return self._either(self._number_tests([left, right]), ([], compared), self._binary(name, left, right), BOOL)

    def _variadic(self, name: str, values: Sequence[Val]) -> Val:
        tree, nil = self.tree, self.tree.constant(None)
        scalar = all(value.only(SCALAR) for value in values)
        if name == "not" and scalar:
            return Val(tree.negate(values[0].expr), BOOL, 0)
        if name in ("null", "valid") and scalar and len(values) == 1:
            value = values[0] if isinstance(values[0].expr, ast.Name) else self.kept(replace(values[0], stable=False))
            return Val(tree.compare(value.expr, ast.Is() if name == "null" else ast.IsNot(), nil), BOOL, 0)
        if name == "abs" and values[0].only(NUMBER):
            types = values[0].types & (FLOAT | INT) | (INT if values[0].types & BOOL else 0)
            return Val(tree.call("abs", values[0].expr), types, values[0].bits)
        if all(value.types & (INT | FLOAT) for value in values) and (name == "not" or len(values) == len(("left", "right"))):
            found = self._of_numbers(name, values)
            if found is not None:
                return found
        return self._by_call(name, values)

    def _by_call(self, name: str, values: Sequence[Val]) -> Val:
        expr = self.tree.run("variadic", self.tree.name(OPERATIONS[name]), self.tree.tuple([value.expr for value in values]))
        types = {"abs": NUMBER & ~BOOL, "min": NUMBER | STR, "max": NUMBER | STR}.get(name, BOOL)
        return Val(self.risky(expr), types)

    def _of_numbers(self, name: str, values: Sequence[Val]) -> Val | None:
        """One or two operands that are numbers, or will mostly be."""
        tree = self.tree
        values = [self.kept(value) for value in values]
        first, last = values[0], values[-1]
        if name == "not":
            direct = Val(tree.negate(first.expr), BOOL, 0)
        elif name in ("min", "max"):
            better = tree.compare(last.expr, ast.Lt() if name == "min" else ast.Gt(), first.expr)
            numbers = (first.types | last.types) & NUMBER
            direct = Val(tree.choose(better, last.expr, first.expr), numbers, max(first.bits, last.bits))
        elif name in ("valid", "null"):
            direct = Val(tree.constant(name == "valid"), BOOL, 0)
        else:
            return None
        tests = self._number_tests(values)
        if not tests:
            return direct
        called = self._by_call(name, values)
        return self._either(tests, ([], direct), called, direct.types | called.types)

    FORM: ClassVar[dict[str, Callable[[Emitter, Group, Sequence[Node]], Val]]] = {
        "def": _def,
        "defvar": _defvar,
        "set": _set,
        "debug": _debug,
    }
