# SPDX-License-Identifier: GPL-2.0-or-later
"""Warnings of what a policy certainly does in every run and can't be meant: what has no effect, is never evaluated or always fails.

A wrong warning is worse than none, so only what holds whatever the figures are is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Final

from momservice.fields import Names, Schema
from momservice.policy.checks import Checks
from momservice.policy.forms import ENTITIES, FORMS, METHODS, TUNE_FIELDS, TUNE_SETTERS
from momservice.policy.kinds import GUEST, HOST, LIST, NUMBER, OBJECT, STRING, Kinds, described
from momservice.policy.names import form_name
from momservice.policy.operations import SHIFT
from momservice.policy.reader import Atom, Group, Node
from momservice.policy.values import short, truth
from momservice.snapshot import Value

_BLOCK: Final = "{"
_SCOPES: Final = frozenset({"def", "let", "with"})
_ORDERED: Final = NUMBER | STRING
# The kinds that a form's operands must have in common.
_TAKES: Final = {
    **dict.fromkeys(("-", "*", "/", "<<", ">>", "abs"), NUMBER),
    **dict.fromkeys(("<", ">", "<=", ">=", "min", "max"), _ORDERED),
    "+": _ORDERED | LIST,
}


class Flow:
    """Looks through the forms of one fragment after the other, in the order they run; the findings go to `checks`."""

    def __init__(self, checks: Checks, schema: Schema, kinds: Kinds) -> None:
        self._checks = checks
        self._schema = schema
        self._kinds = kinds
        # Any other member is an error already.
        self._members = TUNE_SETTERS.keys() | TUNE_FIELDS.union(*(names.known | names.declared for names in (schema.host, schema.guest)))
        # The variables that earlier top-level forms have certainly defined, and as what constant: (True, value), or (False, None).
        self._defined: dict[str, tuple[bool, Value]] = {}

    def fragment(self, forms: Sequence[Node]) -> None:
        """Looks through the top-level forms of a fragment, which is the source of `checks`."""
        for form in forms:
            if isinstance(form, Group):
                self._globals(form)
            self._everything(form)

    def _everything(self, form: Node) -> None:
        waiting = [form]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Atom):
                if "." in node.name:
                    self._path(node, node.name.split("."))
                continue
            # In the order of the text: of many findings the first are told.
            waiting.extend(reversed(node.items))
            if node.items and node.bracket != _BLOCK:
                self._group(node)

    def _group(self, node: Group) -> None:
        form, operands = form_name(node), node.items[1:]
        if not form:
            self._method(node.items[0], operands)
        elif not FORMS[form].misfit(len(operands)):
            check = self._OF_FORM.get(form)
            if check is not None:
                check(self, node, operands)
            elif form in _TAKES:
                self._operation(form, operands)

    # --- definitions without effect ------------------------------------------------------------------------------------------------------

    def _globals(self, form: Group) -> None:
        """What a top-level form defines, and which of its definitions come too late."""
        for name, value in _definitions([form]):
            if name.name in self._defined:
                constant = self._constant(value)
                if constant is None or constant != self._defined[name.name]:
                    self._warn(
                        "no-effect", name, f"'{short(name.name)}' is already defined: this 'defvar' has no effect", "'set' changes it"
                    )
        for name, value in _definition(form):
            constant = self._constant(value)
            # Anything but a constant may fail; then nothing is defined.
            if constant is not None:
                self._defined.setdefault(name.name, constant)

    def _constant(self, value: Node) -> tuple[bool, Value] | None:
        """A value that can't fail, by itself or as the name of one."""
        if isinstance(value, Group):
            return None
        if value.kind == "literal":
            return True, value.value
        return (False, None) if value.name in self._defined else None

    def _in_scope(self, names: Iterable[Node], bodies: Sequence[Node], what: str) -> None:
        """Warns of definitions of what the scope around them already has."""
        bound = {name.name for name in names if isinstance(name, Atom)}
        for name, _ in _definitions(bodies):
            if name.name in bound:
                self._warn("no-effect", name, f"'{short(name.name)}' is {what} here: this 'defvar' has no effect", "'set' changes it")

    def _def(self, _node: Group, operands: Sequence[Node]) -> None:
        if isinstance(operands[1], Group):
            self._in_scope(operands[1].items, operands[2:], "a parameter of the function")

    def _let(self, _node: Group, operands: Sequence[Node]) -> None:
        if isinstance(operands[0], Group):
            names = [binding.items[0] for binding in operands[0].items if isinstance(binding, Group) and binding.items]
            self._in_scope(names, operands[1:], "bound by 'let'")

    def _with(self, _node: Group, operands: Sequence[Node]) -> None:
        self._in_scope(operands[1:2], operands[2:], "the item of 'with'")
        if not self._kinds.of(operands[0]) & LIST:
            self._fails(operands[0], f"'with' takes a list, and this is {described(self._kinds.of(operands[0]))}")

    # --- what is never evaluated ---------------------------------------------------------------------------------------------------------

    def _if(self, _node: Group, operands: Sequence[Node]) -> None:
        condition = operands[0]
        if isinstance(condition, Atom) and condition.kind == "literal":
            holds = truth(condition.value)
            self._warn(
                "unreachable", operands[2 if holds else 1], f"never evaluated: the condition is always {'true' if holds else 'false'}"
            )

    def _and_or(self, node: Group, operands: Sequence[Node]) -> None:
        form = form_name(node)
        for operand, following in pairwise(operands):
            if isinstance(operand, Atom) and operand.kind == "literal" and truth(operand.value) == (form == "or"):
                self._warn("unreachable", following, f"never evaluated: an operand of '{form}' before it always decides")
                return

    # --- operands ------------------------------------------------------------------------------------------------------------------------

    def _operation(self, form: str, operands: Sequence[Node]) -> None:
        taken = common = _TAKES[form]
        for operand in operands:
            kinds = self._kinds.of(operand)
            if not kinds & taken:
                self._fails(operand, f"'{form}' takes {described(taken)}, and this is {described(kinds)}")
                return
            if not kinds & common:
                self._fails(operand, f"'{form}' takes operands of one type, and this is {described(kinds)}")
                return
            common &= kinds
        if form in ("/", "<<", ">>"):
            self._literal_operand(form, operands[1])

    def _literal_operand(self, form: str, operand: Node) -> None:
        value = operand.value if isinstance(operand, Atom) and operand.kind == "literal" else None
        if form == "/" and value == 0 and value is not None:
            self._fails(operand, "division by zero")
        elif form != "/" and isinstance(value, int | float) and not (isinstance(value, int) and 0 <= value <= SHIFT):
            self._fails(operand, f"'{form}' shifts by 0 to {SHIFT}")

    def _equality(self, node: Group, operands: Sequence[Node]) -> None:
        left, right = (self._kinds.of(operand) for operand in operands)
        if not left & right:
            always = "false" if form_name(node) == "==" else "true"
            self._warn("mixed-types", operands[1], f"{described(right)} never equals {described(left)}: this is always {always}")

    # --- entities ------------------------------------------------------------------------------------------------------------------------

    def _receiver(self, name: str) -> int:
        return self._kinds.of(Atom("symbol", 0, name))

    def _path(self, node: Atom, path: Sequence[str]) -> None:
        """A field read, or the fields on the way to a method."""
        base, member = path[:2]
        if base in ENTITIES or member not in self._members:
            return
        kinds = self._receiver(base)
        if not kinds & (HOST | GUEST | OBJECT):
            self._fails(node, f"'{short(base)}' is {described(kinds)}, which has no fields")
        elif kinds in (HOST, GUEST):
            mine, other = self._names(kinds)
            if member not in mine.known | mine.declared:
                hint = f"({short(base)}.Prop '{member}') is the property" if member in mine.properties else ""
                self._misplaced(node, kinds, "field", member, member in other.known | other.declared, hint)

    def _names(self, kinds: int) -> tuple[Names, Names]:
        """The names of the entity that is meant, and of the other kind."""
        return (self._schema.host, self._schema.guest) if kinds == HOST else (self._schema.guest, self._schema.host)

    def _misplaced(self, node: Node, kinds: int, what: str, name: str, elsewhere: bool, hint: str = "") -> None:
        mine, other = ("the host", "guests") if kinds == HOST else ("guests", "the host")
        if elsewhere:
            self._warn("wrong-entity", node, f"'{short(name)}' is a {what} of {other}, not of {mine}", hint)
        else:
            self._fails(node, f"{mine} {'has' if kinds == HOST else 'have'} no {what} '{short(name)}'", hint)

    def _method(self, head: Node, operands: Sequence[Node]) -> None:
        if not isinstance(head, Atom) or head.name.count(".") != 1:
            return
        base, method = head.name.split(".")
        kinds = self._receiver(base)
        if method in METHODS and not kinds & (HOST | GUEST):
            self._fails(head, f"'{short(base)}' is {described(kinds)}, which has no method '{method}'")
        elif kinds in (HOST, GUEST) and operands and isinstance(operands[0], Atom) and isinstance(operands[0].value, str):
            self._argument(method, kinds, operands[0], operands[0].value)

    def _argument(self, method: str, kinds: int, node: Node, name: str) -> None:
        mine, other = self._names(kinds)
        if method in ("Control", "GetControl"):
            if name in other.controls and name not in mine.controls:
                self._misplaced(node, kinds, "control", name, elsewhere=True)
        elif kinds == GUEST and method in ("Stat", "StatAvg") and name not in mine.known | mine.declared:
            self._misplaced(node, kinds, "field", name, name in other.known | other.declared)
        elif kinds == GUEST and method == "Prop" and name not in mine.properties:
            self._misplaced(node, kinds, "property", name, name in other.properties)

    # --- telling -------------------------------------------------------------------------------------------------------------------------

    def _warn(self, code: str, node: Node, message: str, hint: str = "") -> None:
        self._checks.warning(code, node, message, hint)

    def _fails(self, node: Node, message: str, hint: str = "") -> None:
        self._warn("always-fails", node, f"this always fails: {message}", hint)

    _OF_FORM: ClassVar[Mapping[str, Callable[[Flow, Group, Sequence[Node]], None]]] = {
        "def": _def,
        "let": _let,
        "with": _with,
        "if": _if,
        "and": _and_or,
        "or": _and_or,
        "==": _equality,
        "!=": _equality,
    }


def _definitions(nodes: Sequence[Node]) -> Iterator[tuple[Atom, Node]]:
    """The names and values of the `defvar`s in the scope that nodes evaluate in, in the order of the text."""
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        if isinstance(node, Group) and form_name(node) not in _SCOPES:
            waiting.extend(reversed(node.items))
            yield from _definition(node)


def _definition(node: Group) -> Iterator[tuple[Atom, Node]]:
    """The name and the value, if a list is a `defvar`."""
    if form_name(node) == "defvar" and not FORMS["defvar"].misfit(len(node.items) - 1) and isinstance(node.items[1], Atom):
        yield node.items[1], node.items[2]
