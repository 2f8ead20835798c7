# SPDX-License-Identifier: GPL-2.0-or-later
"""The names a program binds, wherever in it: scope is dynamic, so any of them may be seen from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from momservice.policy.forms import FORMS, RESERVED
from momservice.policy.reader import Atom, Group, Node
from momservice.snapshot import Value

_LONGEST: Final = 64
_CANDIDATES: Final = 1000
# Names that differ more in length aren't near.
_LONGER_BY: Final = 3
_BINDING: Final = ("def", "defun", "defvar", "let", "with")
_MISSPELLED: Final = 20


@dataclass(slots=True)
class Bound:
    """Variables, and functions with the numbers of parameters their definitions have.

    `unread`: names in what couldn't be read, or whose form is misspelled: each may be a variable, and a function of any number of
    parameters. `misspelled`: the names of such forms, as they are spelled.
    """

    variables: set[str] = field(default_factory=set)
    functions: dict[str, set[int]] = field(default_factory=dict)
    unread: AbstractSet[str] = frozenset()
    misspelled: AbstractSet[str] = frozenset()


def form_name(node: Node) -> str:
    """The form a list calls, by its first name ("def" for defun); "" if it calls none."""
    if isinstance(node, Group) and node.bracket != "{" and node.items and isinstance(node.items[0], Atom):
        form = FORMS.get(node.items[0].name)
        return form.name if form else ""
    return ""


def bound_names(forms: Sequence[Node], unread: AbstractSet[str] = frozenset()) -> Bound:
    """Collects what the forms bind, without recursion. `unread`: the names in what couldn't be read."""
    bound = Bound(unread=unread - RESERVED)
    called: set[str] = set()
    for node in _groups(forms):
        form = form_name(node)
        if form:
            _collect(bound, form, node.items[1:])
        elif node.bracket != "{" and node.items and isinstance(node.items[0], Atom):
            called.add(node.items[0].name)
    bound.misspelled = _misspelled(called - bound.functions.keys() - bound.variables - bound.unread)
    if bound.misspelled:
        bound.unread |= _names_in_calls(forms, bound.misspelled) - RESERVED
    return bound


def _groups(nodes: Iterable[Node]) -> Iterator[Group]:
    """All lists in nodes, in no order that means anything."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Group):
            waiting.extend(node.items)
            yield node


def _misspelled(unknown: AbstractSet[str]) -> set[str]:
    """The names that look like those of forms that bind names: what they bind would be unknown everywhere else."""
    return {name for name in sorted(unknown)[:_MISSPELLED] if nearest(name, _BINDING)}


def _names_in_calls(forms: Iterable[Node], heads: AbstractSet[str]) -> set[str]:
    names: set[str] = set()
    waiting = list(forms)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Atom) or not node.items:
            continue
        if isinstance(node.items[0], Atom) and node.items[0].name in heads:
            names.update(name.split(".")[0] for group in _groups([node]) for name in _symbols(group.items))
        else:
            waiting.extend(node.items)
    return names - heads


def _collect(bound: Bound, form: str, operands: Sequence[Node]) -> None:
    if form == "defvar":
        bound.variables.update(_symbols(operands[:1]))
    elif form == "with":
        bound.variables.update(_symbols(operands[1:2]))
    elif form == "let" and operands and isinstance(operands[0], Group):
        for binding in operands[0].items:
            bound.variables.update(_symbols(binding.items[:1] if isinstance(binding, Group) else ()))
    elif form == "def" and len(operands) > 1 and isinstance(operands[1], Group):
        parameters = operands[1].items
        bound.variables.update(_symbols(parameters))
        for name in _symbols(operands[:1]):
            bound.functions.setdefault(name, set()).add(len(parameters))


def _symbols(nodes: Iterable[Node]) -> list[str]:
    return [node.name for node in nodes if isinstance(node, Atom) and node.kind == "symbol"]


def parameters(forms: Iterable[Node]) -> dict[str, Value]:
    """Name -> default of each parameter: a global whose first top-level `defvar` gives a constant."""
    constants: dict[str, Value] = {}
    for name, value in first_definitions(forms).items():
        if isinstance(value, Atom) and value.kind == "literal":
            constants[name] = value.value
        elif isinstance(value, Atom) and value.name in constants:
            constants[name] = constants[value.name]
    return constants


def first_definitions(forms: Iterable[Node]) -> dict[str, Node]:
    """Name -> what the first top-level `defvar` of that name gives."""
    defined: dict[str, Node] = {}
    for form in forms:
        if form_name(form) == "defvar" and isinstance(form, Group) and len(form.items) == 3:  # noqa: PLR2004  # defvar, name, value
            name, value = form.items[1:]
            if isinstance(name, Atom) and name.kind == "symbol":
                defined.setdefault(name.name, value)
    return defined


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A hint with the nearest of the candidates; "" if none is near. What it costs is bounded, however many and long the names are."""
    alike = [other for other in candidates if abs(len(other) - len(name)) <= _LONGER_BY and other != name and len(other) <= _LONGEST]
    if len(name) > _LONGEST:
        return ""
    alike = sorted(set(alike))[:_CANDIDATES]
    # Letters that have changed places weigh too much in short names.
    letters = sorted(name)
    found = [other for other in alike if sorted(other) == letters] or get_close_matches(name, alike, n=1, cutoff=0.7)
    return f"did you mean '{found[0]}'?" if found else ""
