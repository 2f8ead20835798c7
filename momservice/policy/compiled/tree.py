# SPDX-License-Identifier: GPL-2.0-or-later
"""Building blocks of Python syntax trees. Each node carries the number of a site of the policy as its line."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final, TypeVar

Node = TypeVar("Node", bound=ast.expr | ast.stmt)

# The variables that all generated functions have: the run, and the global variables of the policy.
RUN: Final = "R"
GLOBALS: Final = "V"


class Tree:
    """Makes nodes. `line`: the site that they belong to, plus 1."""

    def __init__(self) -> None:
        self.line = 1

    def _at(self, node: Node) -> Node:
        node.lineno = node.end_lineno = self.line
        node.col_offset = node.end_col_offset = 0
        return node

    # --- expressions -----------------------------------------------------------------------------------------------------------------

    def name(self, name: str) -> ast.expr:
        """A variable of the generated code, read."""
        return self._at(ast.Name(name, ast.Load()))

    def constant(self, value: float | str | None) -> ast.Constant:
        """A constant."""
        return self._at(ast.Constant(value))

    def call(self, function: str, *operands: ast.expr) -> ast.expr:
        """A call of something in the namespace."""
        return self._at(ast.Call(self.name(function), list(operands), []))

    def attribute(self, of: ast.expr, name: str) -> ast.expr:
        """An attribute."""
        return self._at(ast.Attribute(of, name, ast.Load()))

    def run(self, method: str, *operands: ast.expr) -> ast.expr:
        """A call of a method of the run."""
        return self._at(ast.Call(self.attribute(self.name(RUN), method), list(operands), []))

    def item(self, of: str, index: ast.expr) -> ast.expr:
        """An item, read."""
        return self._at(ast.Subscript(self.name(of), index, ast.Load()))

    def item_of(self, of: ast.expr, index: ast.expr) -> ast.expr:
        """An item of an expression, read."""
        return self._at(ast.Subscript(of, index, ast.Load()))

    def tuple(self, items: Sequence[ast.expr]) -> ast.expr:
        """A tuple."""
        return self._at(ast.Tuple(list(items), ast.Load()))

    def compute(self, left: ast.expr, operator: ast.operator, right: ast.expr) -> ast.expr:
        """Arithmetic."""
        return self._at(ast.BinOp(left, operator, right))

    def compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> ast.expr:
        """A comparison."""
        return self._at(ast.Compare(left, [operator], [right]))

    def between(self, low: ast.expr, value: ast.expr, high: ast.expr) -> ast.expr:
        """low < value < high."""
        return self._at(ast.Compare(low, [ast.Lt(), ast.Lt()], [value, high]))

    def all(self, tests: Sequence[ast.expr]) -> ast.expr:
        """and."""
        return tests[0] if len(tests) == 1 else self._at(ast.BoolOp(ast.And(), list(tests)))

    def any(self, tests: Sequence[ast.expr]) -> ast.expr:
        """or."""
        return tests[0] if len(tests) == 1 else self._at(ast.BoolOp(ast.Or(), list(tests)))

    def negate(self, value: ast.expr) -> ast.expr:
        """not."""
        return self._at(ast.UnaryOp(ast.Not(), value))

    def choose(self, test: ast.expr, then: ast.expr, otherwise: ast.expr) -> ast.expr:
        """A conditional expression."""
        return self._at(ast.IfExp(test, then, otherwise))

    def is_type(self, value: ast.expr, kind: str) -> ast.expr:
        """type(value) is kind."""
        return self.compare(self.call("type", value), ast.Is(), self.name(kind))

    def empty_list(self) -> ast.expr:
        """An empty list."""
        return self._at(ast.List([], ast.Load()))

    def method(self, of: str, name: str, *operands: ast.expr) -> ast.expr:
        """A call of a method of a variable."""
        return self._at(ast.Call(self.attribute(self.name(of), name), list(operands), []))

    def assign_attribute(self, of: str, name: str, value: ast.expr) -> ast.stmt:
        """An assignment to an attribute."""
        return self._at(ast.Assign([self._at(ast.Attribute(self.name(of), name, ast.Store()))], value))

    def is_not(self, value: ast.expr, name: str) -> ast.expr:
        """Value is not name."""
        return self.compare(value, ast.IsNot(), self.name(name))

    def get(self, of: str, key: ast.expr, default: ast.expr) -> ast.expr:
        """of.get(key, default)."""
        return self._at(ast.Call(self.attribute(self.name(of), "get"), [key, default], []))

    def empty(self) -> ast.expr:
        """An empty dictionary."""
        return self._at(ast.Dict([], []))

    def is_(self, value: ast.expr, name: str) -> ast.expr:
        """Value is name."""
        return self.compare(value, ast.Is(), self.name(name))

    # --- statements --------------------------------------------------------------------------------------------------------------------

    def assign(self, name: str, value: ast.expr) -> ast.stmt:
        """An assignment to a variable."""
        return self._at(ast.Assign([self._at(ast.Name(name, ast.Store()))], value))

    def assign_item(self, of: str, index: ast.expr, value: ast.expr) -> ast.stmt:
        """An assignment to an item."""
        return self._at(ast.Assign([self._at(ast.Subscript(self.name(of), index, ast.Store()))], value))

    def do(self, value: ast.expr) -> ast.stmt:
        """An expression whose value isn't used."""
        return self._at(ast.Expr(value))

    def if_(self, test: ast.expr, then: list[ast.stmt], otherwise: list[ast.stmt]) -> ast.stmt:
        """A branch; an empty one is nothing."""
        return self._at(ast.If(test, then or [self._at(ast.Pass())], otherwise))

    def loop(self, targets: Sequence[str], source: ast.expr, body: list[ast.stmt]) -> ast.stmt:
        """A loop over tuples (over single items, if there is one target)."""
        names: list[ast.expr] = [self._at(ast.Name(target, ast.Store())) for target in targets]
        target = names[0] if len(names) == 1 else self._at(ast.Tuple(names, ast.Store()))
        return self._at(ast.For(target, source, body, []))

    def next_round(self) -> ast.stmt:
        """continue."""
        return self._at(ast.Continue())

    def guard(self, body: list[ast.stmt], error: str, caught: list[ast.stmt]) -> ast.stmt:
        """Try, with a handler for any exception."""
        handler = ast.ExceptHandler(self.name("Exception"), error, caught)
        handler.lineno = handler.end_lineno = self.line
        handler.col_offset = handler.end_col_offset = 0
        return self._at(ast.Try(body, [handler], [], []))

    def give(self, value: ast.expr) -> ast.stmt:
        """return."""
        return self._at(ast.Return(value))

    def define(self, name: str, parameters: Sequence[str], body: list[ast.stmt]) -> ast.stmt:
        """A function."""
        arguments = ast.arguments(
            [], [ast.arg(p, lineno=1, col_offset=0, end_lineno=1, end_col_offset=0) for p in parameters], None, [], [], None, []
        )
        return self._at(ast.FunctionDef(name, arguments, body, [], None))

    def placeholder(self) -> ast.If:
        """A place for statements that turn out to be needed only later: `if True`, which costs nothing."""
        return self._at(ast.If(self.constant(True), [self._at(ast.Pass())], []))
