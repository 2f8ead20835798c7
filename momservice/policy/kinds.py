# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kinds of values a name can have in any run: what a policy certainly does, told without running it.

Scope is dynamic, so a name stands for every variable of that name: its kinds are those of all values that the program binds to it
anywhere. What isn't known is `ANY`; nothing that is said here is ever too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from momservice.policy.names import form_name
from momservice.policy.reader import Atom, Group, Node
from momservice.snapshot import Value

NUMBER: Final = 1
STRING: Final = 2
NIL: Final = 4
LIST: Final = 8
HOST: Final = 16
GUEST: Final = 32
OBJECT: Final = 64
ANY: Final = 127
_NAMES: Final = {
    NUMBER: "a number",
    STRING: "a string",
    NIL: "nil",
    LIST: "a list",
    HOST: "the host",
    GUEST: "a guest",
    OBJECT: "an object",
}

# What forms give; booleans count, and compare, as numbers.
_RESULTS: Final = {
    **dict.fromkeys(("-", "*", "/", "<<", ">>", "abs", "<", ">", "<=", ">=", "==", "!=", "not", "null", "valid"), NUMBER),
    **dict.fromkeys(("min", "max"), NUMBER | STRING),
    "+": NUMBER | STRING | LIST,
    "def": STRING,
    "with": LIST,
}
_ENTITIES: Final = {"Host": HOST, "Guests": LIST}


def described(kinds: int) -> str:
    """The kinds as text: "a number or nil"."""
    return " or ".join(name for kind, name in _NAMES.items() if kinds & kind)


def of_value(value: Value) -> int:
    """The kind of a literal's value."""
    return NIL if value is None else STRING if isinstance(value, str) else NUMBER


class Kinds:
    """The kinds of a program's names. `unread`: names that may be bound in what couldn't be read; `parameters`: name -> default."""

    def __init__(self, forms: Iterable[Node], unread: AbstractSet[str], parameters: Mapping[str, Value]) -> None:
        self._kinds: dict[str, int] = dict.fromkeys(unread, ANY)
        # A parameter without a type takes any value; others keep the type of their default.
        self._kinds.update({name: ANY for name, default in parameters.items() if default is None})
        self._reaches: dict[str, list[str]] = {}
        self._functions: dict[str, list[list[str]]] = {}
        self._calls: list[tuple[str, Sequence[Node]]] = []
        self._collect(forms)
        for name in unread & self._functions.keys():
            for parameters_of in self._functions[name]:
                self._kinds.update(dict.fromkeys(parameters_of, ANY))
        self._pass_arguments()
        self._spread()

    def of(self, node: Node) -> int:
        """The kinds that the value of a node can have."""
        kinds, names = _parts(node)
        for name in names:
            kinds |= self._kinds.get(name, 0) or ANY
        return kinds

    # --- collecting ----------------------------------------------------------------------------------------------------------------------

    def _collect(self, forms: Iterable[Node]) -> None:
        waiting = list(forms)
        while waiting:
            node = waiting.pop()
            if isinstance(node, Group) and node.items:
                waiting.extend(node.items)
                self._bindings(node)

    def _bindings(self, node: Group) -> None:
        form, operands = form_name(node), node.items[1:]
        if form in ("defvar", "set") and len(operands) > 1:
            self._bind(operands[0], operands[1])
        elif form == "let" and operands and isinstance(operands[0], Group):
            for binding in operands[0].items:
                if isinstance(binding, Group) and len(binding.items) > 1:
                    self._bind(binding.items[0], binding.items[1])
        elif form == "with" and len(operands) > 1:
            self._item(*operands[:2])
        elif form == "def" and len(operands) > 1 and isinstance(operands[0], Atom) and isinstance(operands[1], Group):
            self._functions.setdefault(operands[0].name, []).append([item.name for item in operands[1].items if isinstance(item, Atom)])
        elif not form and node.bracket != "{" and isinstance(node.items[0], Atom):
            self._calls.append((node.items[0].name, operands))

    def _bind(self, name: Node, value: Node) -> None:
        if isinstance(name, Atom):
            self._flow(name.name, value)

    def _flow(self, name: str, value: Node) -> None:
        kinds, names = _parts(value)
        self._kinds[name] = self._kinds.get(name, 0) | kinds
        for other in names:
            self._reaches.setdefault(other, []).append(name)

    def _item(self, items: Node, item: Node) -> None:
        if isinstance(item, Atom):
            guests = isinstance(items, Atom) and items.name == "Guests"
            self._kinds[item.name] = self._kinds.get(item.name, 0) | (GUEST if guests else ANY)

    def _pass_arguments(self) -> None:
        # Functions may be defined anew with other parameters: each definition may be the one that is called. Arguments reach them through
        # a name of their own, which no policy can have, so that many calls of many definitions cost no more than their sum.
        for function, definitions in self._functions.items():
            for parameters in definitions:
                for index, name in enumerate(parameters):
                    self._reaches.setdefault(f"{function}/{len(parameters)}/{index}", []).append(name)
        for function, arguments in self._calls:
            if function in self._functions:
                for index, value in enumerate(arguments):
                    self._flow(f"{function}/{len(arguments)}/{index}", value)

    def _spread(self) -> None:
        """Hands kinds on from name to name until nothing changes: each name changes at most once for each kind there is."""
        waiting = list(self._kinds)
        while waiting:
            name = waiting.pop()
            for other in self._reaches.get(name, ()):
                kinds = self._kinds.get(other, 0) | self._kinds[name]
                if kinds != self._kinds.get(other, 0):
                    self._kinds[other] = kinds
                    waiting.append(other)


def _parts(node: Node) -> tuple[int, list[str]]:
    """The kinds that a value can have of itself, and the names that it may be the value of."""
    kinds, names = 0, []
    waiting: list[Node] = [node]
    while waiting and kinds != ANY:
        node = waiting.pop()
        if isinstance(node, Group):
            known, last = _of_group(node)
            kinds |= known
            waiting.extend(last)
        elif node.kind == "literal":
            kinds |= of_value(node.value)
        elif node.kind == "operator" or "." in node.name:
            kinds = ANY
        elif node.name in _ENTITIES:
            kinds |= _ENTITIES[node.name]
        else:
            names.append(node.name)
    return kinds, names


def _of_group(node: Group) -> tuple[int, Sequence[Node]]:
    """The kinds of a list's value, or the parts of which one is its value."""
    if node.bracket == "{":
        return (0, node.items[-1:]) if node.items else (NIL, ())
    form, operands = form_name(node), node.items[1:]
    if form == "if":
        return 0, operands[1:]
    if form in ("and", "or"):
        return 0, operands
    if form in ("eval", "debug"):
        return (0, operands[-1:]) if operands else (NIL, ())
    return _RESULTS.get(form, ANY), ()
