# SPDX-License-Identifier: GPL-2.0-or-later
"""From a checked program to its compiled form, or to none where that doesn't pay."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Final

from momservice.columns import Raw
from momservice.decisions import Call, Place
from momservice.fields import Schema
from momservice.policy.compiled.dynamic import DynamicEmitter, Made
from momservice.policy.compiled.emitter import OPERATIONS, RESULT, Sites
from momservice.policy.compiled.facts import ALWAYS, ANY, FLOAT, INT, MAYBE, STR, UNDEFINED, Fact, Unresolved
from momservice.policy.compiled.shape import GENERATED, Certain, Form, Function, Site
from momservice.policy.compiled.static import StaticCode
from momservice.policy.compiled.tree import GLOBALS, RUN, Tree
from momservice.policy.compiled.world import Budget, Definition, World
from momservice.policy.members import member, receiver
from momservice.policy.names import form_name
from momservice.policy.operations import BINARY, VARIADIC, items_of
from momservice.policy.reader import Atom, Group, Node
from momservice.policy.state import ABSENT, FORM_STEPS
from momservice.policy.values import INTEGER_BITS, Record, integer
from momservice.snapshot import EMPTY, Value

# Larger programs are left to the tracing evaluator: to make code of them takes longer than it saves.
LARGEST: Final = 20_000
# What inlining may make of them.
GENERATED_VALUES: Final = 40_000
# How many forms that can't fail are put together.
_TOGETHER: Final = 50
_BUILTINS: Final = ("type", "int", "float", "abs", "len", "range", "zip", "Exception")


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """The compiled form. `lines` and `whereabouts` grow as errors are looked up: they are memories of what never changes."""

    parts: Sequence[Form | Certain]
    static_work: int
    static_averages: int
    sites: Sequence[Site]
    place: Callable[[int], Place]
    lines: dict[tuple[CodeType, int], int] = field(default_factory=dict)
    whereabouts: dict[int | Site, tuple[Place, Sequence[Call]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Names:
    """What a program binds and uses, as far as generated code depends on it."""

    bodies: Mapping[str, Sequence[Node]]
    assigned: frozenset[str]
    defvars: frozenset[str]
    controls_are_read: bool


# A top-level form and the offset of its fragment.
Source = tuple[Node, int]


def build(forms: Sequence[Source], schema: Schema, parameters: Mapping[str, Value], place: Callable[[int], Place]) -> CompiledProgram | str:
    """The compiled form of a checked program; if it has none, why, in one line. Raises nothing."""
    try:
        return _build(forms, schema, parameters, place)
    except (RecursionError, MemoryError):
        return "it nests too deep for Python's own compiler"
    except Exception as error:  # a policy that can't be compiled still runs
        return f"{type(error).__name__}: {error}"


def _build(
    forms: Sequence[Source], schema: Schema, parameters: Mapping[str, Value], place: Callable[[int], Place]
) -> CompiledProgram | str:
    names = _names(forms)
    if names is None:
        return f"it has more than {LARGEST} values"
    world = World(
        schema, _definitions(forms, names.bodies), names.assigned, names.controls_are_read, names.bodies, Budget(GENERATED_VALUES)
    )
    builder = _Builder(world, names, {name: Fact(MAYBE, _types(default)) for name, default in parameters.items()})
    parts = builder.parts(forms)
    work = sum(part.steps + part.work for part in parts)
    return CompiledProgram(parts, work, sum(part.averages for part in parts), builder.sites.all, place)


def _types(default: Value) -> int:
    if isinstance(default, float):
        return FLOAT
    return INT if isinstance(default, int) else STR if isinstance(default, str) else ANY


def _names(forms: Sequence[Source]) -> _Names | None:
    """What the forms bind and use; None if there is too much of them."""
    bodies: dict[str, list[Node]] = {}
    bound: dict[str, set[str]] = {"set": set(), "defvar": set()}
    controls_are_read = False
    waiting: list[Node] = [node for node, _ in forms]
    seen = 0
    while waiting:
        seen += 1
        node = waiting.pop()
        if isinstance(node, Atom):
            controls_are_read = controls_are_read or node.name.endswith(".GetControl")
            continue
        waiting.extend(node.items)
        form, name = form_name(node), node.items[1] if len(node.items) > 1 else None
        if isinstance(name, Atom) and form == "def":
            bodies.setdefault(name.name, []).append(node.items[3])
        elif isinstance(name, Atom) and form in bound:
            bound[form].add(name.name)
    return _Names(bodies, frozenset(bound["set"]), frozenset(bound["defvar"]), controls_are_read) if seen <= LARGEST else None


def _definitions(forms: Sequence[Source], bodies: Mapping[str, Sequence[Node]]) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for index, (node, base) in enumerate(forms):
        made = _definition(node, base, index)
        if made is not None and len(bodies[made.name]) == 1:
            found[made.name] = made
    return found


def _definition(node: Node, base: int, form: int) -> Definition | None:
    if not isinstance(node, Group) or form_name(node) != "def":
        return None
    _, name, parameters, body = node.items
    if not isinstance(name, Atom) or not isinstance(parameters, Group):
        return None
    return Definition(name.name, [item.name for item in parameters.items if isinstance(item, Atom)], body, base, form)


@dataclass(frozen=True, slots=True)
class _Static:
    """The static code of a form. `certain`: nothing in it can fail or turn out not to be so."""

    body: list[ast.stmt]
    steps: int
    averages: int
    work: int
    certain: bool


class _Builder:
    """Generates form after form; what is known of global variables goes from one to the next."""

    def __init__(self, world: World, names: _Names, known: dict[str, Fact]) -> None:
        self.sites = Sites()
        self._world = world
        self._names = names
        self._known = known
        self._namespace = _namespace()
        self._tree = Tree()
        # Whether nothing has been learned since all was forgotten.
        self._forgotten = False

    def parts(self, forms: Sequence[Source]) -> list[Form | Certain]:
        """The code of all forms in order; those in a row that can't fail are one function."""
        parts: list[Form | Certain] = []
        certain: list[_Static] = []
        for index, (node, base) in enumerate(forms):
            dynamic = DynamicEmitter(self.sites, f"d{index}_")
            name, dynamic_steps = dynamic.form(node, base)
            static = self._static(index, node, base, dynamic.made)
            if certain and (static is None or not static.certain or len(certain) == _TOGETHER):
                parts.append(self._together(index, certain))
                certain = []
            if static is not None and static.certain:
                self._make(dynamic, [])
                certain.append(static)
            else:
                parts.append(self._form(index, dynamic, (name, dynamic_steps), static))
        return [*parts, self._together(len(forms), certain)] if certain else parts

    def _form(self, index: int, dynamic: DynamicEmitter, code: tuple[str, int], static: _Static | None) -> Form:
        functions = [] if static is None else [self._function(f"s{index}", [*static.body, self._tree.give(self._tree.name(RESULT))])]
        self._make(dynamic, functions)
        name, steps = code
        if static is None:
            return Form(index, None, self._namespace[name], 0, 0, 0, steps)
        return Form(index, self._namespace[f"s{index}"], self._namespace[name], static.steps, static.averages, static.work, steps)

    def _together(self, index: int, forms: Sequence[_Static]) -> Certain:
        tree = self._tree
        results = [f"{RESULT}{number}" for number in range(len(forms))]
        body = [line for form, result in zip(forms, results, strict=True) for line in (*form.body, tree.assign(result, tree.name(RESULT)))]
        name = f"c{index}"
        self._run_module([self._function(name, [*body, tree.give(tree.tuple([tree.name(result) for result in results]))])])
        return Certain(self._namespace[name], sum(form.steps for form in forms))

    def _function(self, name: str, body: list[ast.stmt]) -> ast.stmt:
        return self._tree.define(name, [RUN, GLOBALS], body)

    def _make(self, dynamic: DynamicEmitter, functions: list[ast.stmt]) -> None:
        self._run_module([*dynamic.functions, *functions])
        for made in dynamic.made:
            self._namespace[made.place] = Function(made.name, made.parameters, self._namespace[made.body], made.steps)

    def _run_module(self, functions: list[ast.stmt]) -> None:
        module = ast.Module(functions, [])
        exec(compile(module, GENERATED, "exec"), self._namespace)  # noqa: S102  # made of numbered names and constants only

    def _static(self, index: int, node: Node, base: int, made: Sequence[Made]) -> _Static | None:
        definition = _definition(node, base, index)
        if definition is not None:
            return _Static(_defining(self._tree, made[-1]), 2, 0, 0, certain=True)
        try:
            emitter, body = self._emitted(index, node, base, {one.start: one.place for one in made})
        except Unresolved:
            self._forget()
            return None
        self._forgotten = False
        certain = not (emitter.fails or emitter.guarded)
        for name, fact in emitter.facts_after().items():
            before = self._known.get(name, UNDEFINED)
            # Where the dynamic code runs instead, what is defined may be something else.
            after = Fact(MAYBE) if emitter.guarded and name in emitter.defined else fact
            self._known[name] = after if certain else after.join(before)
        if emitter.steps > FORM_STEPS:
            return None
        return _Static(body, emitter.steps, emitter.averages, emitter.work, certain)

    def _emitted(self, index: int, node: Node, base: int, made: Mapping[int, str]) -> tuple[StaticCode, list[ast.stmt]]:
        for direct in (True, False):
            emitter = StaticCode(self.sites, self._world, index, self._known, made, direct=direct)
            body = emitter.form(node, base)
            if not emitter.mixed:
                break
        return emitter, body

    def _forget(self) -> None:
        """After a form of which nothing is known, any global variable may be anything; what was defined still is."""
        if self._forgotten:
            return
        self._forgotten = True
        for name in self._names.defvars | self._known.keys():
            state = self._known.get(name, UNDEFINED).state
            self._known[name] = Fact(ALWAYS if state == ALWAYS else MAYBE)


def _defining(tree: Tree, made: Made) -> list[ast.stmt]:
    """The code of a form that only defines a function: nothing in it can fail."""
    table = tree.assign("T", tree.attribute(tree.name(RUN), "functions"))
    store = tree.assign_item("T", tree.constant(made.name), tree.name(made.place))
    return [table, store, tree.assign(RESULT, tree.constant(made.name))]


def _namespace() -> dict[str, Any]:
    """All that generated code can reach."""
    operations = {OPERATIONS[name]: operation for name, operation in (*BINARY.items(), *VARIADIC.items())}
    known = {name: getattr(builtins, name) for name in _BUILTINS}
    limits = {"LOW": -(1 << INTEGER_BITS), "HIGH": 1 << INTEGER_BITS, "ABSENT": ABSENT, "EMPTY": EMPTY}
    functions = {"Raw": Raw, "Record": Record, "member": member, "receiver": receiver, "items_of": items_of, "too_wide": integer}
    return {"__builtins__": {}, **operations, **known, **limits, **functions}
