# SPDX-License-Identifier: GPL-2.0-or-later
"""The load checks: what can be known to be wrong in a policy without running it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Final

from momservice.decisions import Diagnostic
from momservice.fields import Names, Schema
from momservice.policy.diagnostics import FINDINGS
from momservice.policy.forms import ENTITIES, FORMS, METHODS, RESERVED, TUNE_FIELDS, TUNE_SETTERS, Form
from momservice.policy.names import Bound, nearest
from momservice.policy.reader import Atom, Group, Node, Source
from momservice.policy.values import short

_HINTS: Final = 20
_METHODS_OF_ANY: Final = METHODS | TUNE_SETTERS


def _misfit(node: Group, most: int | None) -> Node:
    """What to point at where a list has the wrong number of operands: the first that is too much, or the head."""
    operands = node.items[1:]
    return node.items[0] if most is None or len(operands) <= most else operands[most]


def _either(schema: Schema) -> Names:
    """The names that an entity may have of which isn't known which it is."""
    host, guest = schema.host, schema.guest
    return Names(
        host.declared | guest.declared, host.known | guest.known, host.controls | guest.controls, host.properties | guest.properties
    )


class Checks:
    """Finds what is wrong with the parts of forms.

    `source` is the fragment being checked. `locals` are the variables of the scopes that are open around the part in the text.
    """

    def __init__(self, schema: Schema, bound: Bound, parameters: frozenset[str]) -> None:
        self.source = Source("", "")
        self.locals: list[set[str]] = []
        self.errors: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self._schema = schema
        self._either = _either(schema)
        self._bound = bound
        self._parameters = parameters
        self._hints = 0

    def error(self, code: str, node: Node, message: str, hint: str = "") -> None:
        """Reports an error at a node."""
        if len(self.errors) < FINDINGS:
            self.errors.append(Diagnostic("error", code, self.source.place(node.start), message, hint))

    def warning(self, code: str, node: Node, message: str, hint: str = "") -> None:
        """Reports a warning at a node."""
        if len(self.warnings) < FINDINGS:
            self.warnings.append(Diagnostic("warning", code, self.source.place(node.start), message, hint))

    def _near(self, name: str, *candidates: Collection[str]) -> str:
        self._hints += 1
        return nearest(name, chain(*candidates)) if self._hints <= _HINTS else ""

    # --- heads -------------------------------------------------------------------------------------------------------------------------

    def head(self, node: Group) -> Atom | None:
        """The head of a list in round brackets, if it can be called with so many operands."""
        if not node.items:
            self.error("form", node, "an empty list calls nothing", "'{}' is the empty block")
            return None
        head = node.items[0]
        if isinstance(head, Group) or head.kind == "literal":
            self.error("form", head, "a list begins with the name of a form, function or method", "'{...}' evaluates values in order")
            return None
        return head if self._callable(node, head, len(node.items) - 1) else None

    def operands(self, node: Group) -> Sequence[Node]:
        """The operands that can be checked of a list that calls nothing: none of what is meant for a form that binds names."""
        head = node.items[0] if node.items else None
        return () if isinstance(head, Atom) and head.name in self._bound.misspelled else node.items[1:]

    def _callable(self, node: Group, head: Atom, count: int) -> bool:
        if head.name in FORMS:
            return self._fits(FORMS[head.name], node, count)
        if "." in head.name:
            return self._method(node, head, count)
        if head.name in self._bound.unread:
            return True
        if head.name in self._bound.functions:
            return self._function_fits(node, head.name, count)
        if head.name in self._bound.variables or head.name in ENTITIES:
            self.error("name", head, f"'{short(head.name)}' is a variable, not a function")
        else:
            hint = self._near(head.name, FORMS, self._bound.functions)
            self.error("name", head, f"unknown function '{short(head.name)}'", hint)
        return False

    def _fits(self, form: Form, node: Group, count: int) -> bool:
        misfit = form.misfit(count)
        if misfit:
            self.error("arity", _misfit(node, form.most), misfit, form.doc)
        return not misfit

    def _function_fits(self, node: Group, name: str, count: int) -> bool:
        arities = self._bound.functions[name]
        if count in arities:
            return True
        wanted = " or ".join(str(arity) for arity in sorted(arities)[:5])
        self.error(
            "arity", _misfit(node, max(arities)), f"'{short(name)}' takes {wanted} argument{'' if wanted == '1' else 's'}, not {count}"
        )
        return False

    def _method(self, node: Group, head: Atom, count: int) -> bool:
        *path, method = head.name.split(".")
        if not self._path(head, path):
            return False
        methods = METHODS if path[0] == "Host" else _METHODS_OF_ANY
        if method not in methods:
            self.error("name", head, f"unknown method '{short(method)}'", self._near(method, methods))
            return False
        return self._fits(methods[method], node, count)

    # --- names that are read -----------------------------------------------------------------------------------------------------------

    def symbol(self, node: Atom) -> bool:
        """Whether a symbol (or operator) can be read as a value."""
        if node.kind == "operator":
            self.error("form", node, f"the operator '{node.name}' is not a value", f"({node.name} a b) applies it")
            return False
        return self._path(node, node.name.split("."))

    def _path(self, node: Atom, path: Sequence[str]) -> bool:
        base, *members = path
        if base not in ENTITIES and not self._variable(node, base):
            return False
        if base == "Host":
            return self._host_path(node, members)
        if base == "Guests" and members:
            self.error("name", node, f"the list of guests has no field '{short(members[0])}'", "'(with Guests guest ...)' gives each")
            return False
        good = [self._member(node, name) for name in members]
        return all(good)

    def _variable(self, node: Atom, name: str) -> bool:
        if name in self._bound.variables or name in self._bound.unread:
            return True
        if name in RESERVED or name in self._bound.functions:
            self.error("name", node, f"'{short(name)}' is a function or form, not a value", f"({short(name)} ...) calls it")
        else:
            self.error("name", node, f"unknown variable '{short(name)}'", self._near(name, self._bound.variables, ENTITIES))
        return False

    def _host_path(self, node: Atom, members: Sequence[str]) -> bool:
        if len(members) > 1:
            self.error("name", node, f"the host's fields have no field '{short(members[1])}'")
            return False
        return not members or self._field(node, members[0], self._schema.host, "name")

    def _member(self, node: Atom, name: str) -> bool:
        if name in TUNE_SETTERS:
            self.error("form", node, f"the method '{name}' is not called")
            return False
        return name in TUNE_FIELDS or self._field(node, name, self._either, "name")

    def _field(self, node: Node, name: str, names: Names, code: str) -> bool:
        if name in METHODS:
            self.error("form", node, f"the method '{name}' is not called")
            return False
        if name in names.declared:
            return True
        if name in names.known:
            self.warning("not-collected", node, f"'{name}' is nil: no configured collector gives it")
            return True
        members = TUNE_FIELDS if names is self._either and code == "name" else frozenset[str]()
        self.error(code, node, f"unknown field '{short(name)}'", self._near(name, names.known, names.declared, members))
        return False

    def method_name(self, path: Sequence[str], method: str, operands: Sequence[Node]) -> None:
        """Checks the name that a method is given, where it is a literal."""
        name = operands[0]
        if not isinstance(name, Atom) or not isinstance(name.value, str):
            return
        names = self._schema.host if path == ["Host"] else self._either
        if method in ("Stat", "StatAvg") and name.value not in METHODS:
            self._field(name, name.value, names, "unknown-field")
        elif method == "Prop" and name.value not in names.properties:
            self.error("unknown-prop", name, f"unknown property '{short(name.value)}'", self._near(name.value, names.properties))
        elif method in ("Control", "GetControl") and name.value not in self._either.controls:
            hint = self._near(name.value, names.controls)
            self.warning("unknown-control", name, f"no controller has the control '{short(name.value)}'", hint)

    # --- names that are bound ------------------------------------------------------------------------------------------------------------

    def binding(self, node: Node) -> str | None:
        """The name that a form binds, if it may be bound."""
        if not isinstance(node, Atom) or node.kind != "symbol":
            self.error("form", node, "a name was expected here")
        elif node.name in RESERVED:
            self.error("form", node, f"the name '{node.name}' is reserved")
        elif "." in node.name:
            self.error("form", node, f"a dotted name can't be bound: '{short(node.name)}'")
        else:
            return node.name
        return None

    def assigned(self, node: Node) -> str | None:
        """The name that `set` assigns to."""
        if isinstance(node, Atom) and node.kind == "symbol" and "." in node.name:
            self.error("name", node, f"'set' of a dotted name: '{short(node.name)}'", "fields can only be read")
            return None
        name = self.binding(node)
        if name is None or not isinstance(node, Atom) or not self._variable(node, name):
            return None
        if name in self._parameters and not any(name in scope for scope in self.locals):
            self.warning("parameter", node, f"this 'set' wins over the parameter '{short(name)}'")
        return name

    def bind_local(self, name: str) -> None:
        """Notes that a name is bound in the innermost scope of the text."""
        if self.locals:
            self.locals[-1].add(name)

    def let_bindings(self, node: Node) -> list[tuple[str, Group]]:
        """The bindings of a `let` with their names."""
        if not isinstance(node, Group) or node.bracket == "{":
            self.error("form", node, "'let' takes a list of bindings: ((name value)...)")
            return []
        found = [pair for binding in node.items if (pair := self._let_binding(binding)) is not None]
        self._distinct([(name, binding.items[0]) for name, binding in found], "let")
        return found

    def _let_binding(self, node: Node) -> tuple[str, Group] | None:
        if isinstance(node, Group) and node.bracket != "{" and len(node.items) == len(("name", "value")):
            name = self.binding(node.items[0])
            return None if name is None else (name, node)
        self.error("form", node, "a binding of 'let' is a name and a value in brackets")
        return None

    def parameter_list(self, node: Node) -> list[str]:
        """The parameters of a function."""
        if not isinstance(node, Group) or node.bracket == "{":
            self.error("form", node, "'def' takes a list of parameters: (name...)")
            return []
        pairs = [(self.binding(item), item) for item in node.items]
        found = [(name, item) for name, item in pairs if name is not None]
        self._distinct(found, "def")
        return [name for name, _ in found]

    def _distinct(self, found: Sequence[tuple[str, Node]], form: str) -> None:
        seen: set[str] = set()
        for name, node in found:
            if name in seen:
                self.error("form", node, f"'{short(name)}' occurs twice in this '{form}'")
            seen.add(name)

    def loop(self, items: Node, item: Node) -> str | None:
        """The item name of a `with`, if list and item are symbols."""
        if not isinstance(items, Atom) or items.kind != "symbol":
            self.error("form", items, "'with' takes the name of a list")
            return None
        return self.binding(item)
