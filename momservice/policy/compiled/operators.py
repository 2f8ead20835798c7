# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of the forms that evaluate all their operands: Python's own operators where the operands are numbers, else the language's."""

from __future__ import annotations

import ast
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from momservice.policy.compiled.emitter import OPERAND_WORK, OPERATIONS, Emitter
from momservice.policy.compiled.facts import ANY, BOOL, FLOAT, INT, LIST, NUMBER, SCALAR, STR, Val
from momservice.policy.names import form_name
from momservice.policy.operations import BINARY
from momservice.policy.reader import Group, Node
from momservice.policy.values import INTEGER_BITS

_ARITHMETIC: Final[dict[str, ast.operator]] = {"+": ast.Add(), "-": ast.Sub(), "*": ast.Mult(), "/": ast.Div()}
_ORDER: Final[dict[str, ast.cmpop]] = {"<": ast.Lt(), ">": ast.Gt(), "<=": ast.LtE(), ">=": ast.GtE()}
_EQUAL: Final[dict[str, ast.cmpop]] = {"==": ast.Eq(), "!=": ast.NotEq()}
_QUESTIONS: Final = ("not", "null", "valid")


class OperatorEmitter(Emitter, ABC):
    """Adds the operators."""

    def apply(self, node: Group, operands: Sequence[Node]) -> Val:
        """A form that evaluates all its operands."""
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
        if name in _QUESTIONS and len(values) == 1 and values[0].types & SCALAR:
            return self._question(name, values[0])
        if name == "abs" and values[0].only(NUMBER):
            types = values[0].types & (FLOAT | INT) | (INT if values[0].types & BOOL else 0)
            return Val(self.tree.call("abs", values[0].expr), types, values[0].bits)
        if all(value.types & (INT | FLOAT) for value in values) and len(values) == len(("left", "right")):
            found = self._of_numbers(name, values)
            if found is not None:
                return found
        return self._by_call(name, values)

    def _question(self, name: str, value: Val) -> Val:
        """`not`, `null` or `valid` of one value: mostly it is nil or a number; of others the answer may cost more than a step."""
        tree, nil = self.tree, self.tree.constant(None)
        if name == "not" and value.only(SCALAR):
            return Val(tree.negate(value.expr), BOOL, 0)
        value = value if isinstance(value.expr, ast.Name) else self.kept(replace(value, stable=False))
        is_nil = tree.compare(value.expr, ast.Is(), nil)
        answers = {"not": tree.negate(value.expr), "null": is_nil, "valid": tree.compare(value.expr, ast.IsNot(), nil)}
        direct = Val(answers[name], BOOL, 0)
        if value.only(SCALAR):
            return direct
        # What is false costs nothing either.
        free = tree.any([answers["not"] if name == "not" else is_nil, *self._number_tests([value])])
        return self._either([free], ([], direct), self._by_call(name, [value]), BOOL)

    def _by_call(self, name: str, values: Sequence[Val]) -> Val:
        expr = self.tree.run("variadic", self.tree.name(OPERATIONS[name]), self.tree.tuple([value.expr for value in values]))
        self.work += OPERAND_WORK * len(values)
        types = {"abs": NUMBER & ~BOOL, "min": NUMBER | STR, "max": NUMBER | STR}.get(name, BOOL)
        return Val(self.risky(expr), types)

    def _of_numbers(self, name: str, values: Sequence[Val]) -> Val | None:
        """Two operands that are numbers, or will mostly be."""
        tree = self.tree
        values = [self.kept(value) for value in values]
        first, last = values[0], values[-1]
        if name in ("min", "max"):
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
