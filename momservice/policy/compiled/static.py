# SPDX-License-Identifier: GPL-2.0-or-later
"""Code for forms of which all is known before the run: calls are inlined, and each variable of each scope is a variable of the code.

Scope is dynamic, but where calls are inlined the scopes that are open at a point are known. Whether a variable is defined may depend on
the run: then it holds ABSENT until it is. Changes of global variables are local until the form's end, so a form that fails has changed
nothing; a guest's round keeps what it may change outside of itself and puts it back. Functions that can't be known before the run are
called as they are found, with the variables that they may see lent to them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from momservice.policy.compiled.emitter import CALL_WORK, METHOD_WORK, Sites, Want
from momservice.policy.compiled.facts import (
    ALWAYS,
    ANY,
    GUESTS_REF,
    HOST_REF,
    LIST,
    MAYBE,
    NEVER,
    RAW,
    THING,
    UNDEFINED,
    Fact,
    GuestLoop,
    Part,
    Ref,
    Unresolved,
    Val,
    join,
)
from momservice.policy.compiled.operators import OperatorEmitter
from momservice.policy.compiled.tree import GLOBALS, RUN
from momservice.policy.compiled.world import Round, Scope, Slot, World
from momservice.policy.forms import TUNE_FIGURES, TUNE_PARTS
from momservice.policy.reader import Group, Node

# Inlining may multiply the code: beyond so many values in a form it isn't worth it.
INLINED: Final = 4000
NESTED_CALLS: Final = 30
# Integers below it take Python one digit.
_SMALL: Final = 1 << 30


class StaticEmitter(OperatorEmitter):
    """Generates one top-level form. Raises Unresolved."""

    def __init__(self, sites: Sites, world: World, form: int, known: Mapping[str, Fact], made: Mapping[int, str], *, direct: bool) -> None:
        """`known`: facts of global variables at the start of the form. `direct`: keep controls in tables of the form's own, if it can be.

        `made`: by the offset of a `def`, where its function is in the namespace.
        """
        super().__init__(sites)
        self._made = made
        # Whether the code of the round so far calls functions that aren't known before the run.
        self.lends = False
        self.direct = direct
        # The names of controls that are taken in another way than by the form's own tables; None for one that isn't known.
        self.indirect: set[str | None] = set()
        self.guarded = False
        # The global variables that the form defines where it doesn't fail before.
        self.defined: set[str] = set()
        self.world = world
        self.round: Round | None = None
        self.starts: dict[str, Fact] = {}
        self.looped = False
        self._form = form
        self._known = known
        self._facts: dict[str, Fact] = {}
        self._scopes: list[Scope] = [Scope(self.tree.placeholder())]
        self._begins: dict[str, ast.If] = {}
        self._guarded: set[str] = set()
        self._written: set[str] = set()
        self._indices: dict[str, ast.expr] = {}
        self._host: dict[str, str] = {}
        self._controls: dict[str, str] = {}
        self._values = 0
        # Single limits of disks that have been read, by mapping and name, as long as nothing may have set them.
        self._figures: dict[tuple[str, str], Val] = {}
        # The variable of the mapping, by the variable of the limits.
        self._mappings: dict[str, str] = {}

    # --- the function ------------------------------------------------------------------------------------------------------------------

    def form(self, node: Node, base: int) -> list[ast.stmt]:
        """The body of the function of the form; it leaves the form's value in RESULT."""
        self.base = base
        self.value(node, Want.RESULT)
        self.steps += 1
        self.at(node)
        self.guarded = bool(self._guarded)
        return [*self._prologue(), *self.block, *self._epilogue()]

    @property
    def mixed(self) -> bool:
        """Whether a control is taken in both ways, so that it matters which was the last."""
        return bool(self._controls) and (None in self.indirect or not self._controls.keys().isdisjoint(self.indirect))

    def _prologue(self) -> list[ast.stmt]:
        tree = self.tree
        lines: list[ast.stmt] = []
        for name, slot in self._scopes[0].slots.items():
            lines.append(tree.assign(slot.var, self._load(name)))
            if slot.var in self._guarded:
                elsewhere = tree.give(tree.run("dynamic"))
                lines.append(tree.if_(tree.is_(tree.name(slot.var), "ABSENT"), [elsewhere], []))
        lines += [tree.assign(var, tree.run("host_value", tree.constant(name))) for name, var in self._host.items()]
        if self.looped:
            lines.append(tree.assign("D", tree.attribute(tree.name(RUN), "dropped")))
        return [*lines, *(tree.assign(var, tree.empty()) for var in self._controls.values())]

    def _load(self, name: str) -> ast.expr:
        state = self._known.get(name, UNDEFINED).state
        if state == NEVER:
            return self.tree.name("ABSENT")
        key = self.tree.constant(name)
        return self.tree.item(GLOBALS, key) if state == ALWAYS else self.tree.get(GLOBALS, key, self.tree.name("ABSENT"))

    def _epilogue(self) -> list[ast.stmt]:
        tree = self.tree
        lines: list[ast.stmt] = []
        for name, slot in self._scopes[0].slots.items():
            if slot.var in self._written:
                store = tree.assign_item(GLOBALS, tree.constant(name), tree.name(slot.var))
                always = self.fact(slot.var).state == ALWAYS
                lines.append(store if always else tree.if_(tree.is_not(tree.name(slot.var), "ABSENT"), [store], []))
        for name, var in self._controls.items():
            lines.append(tree.if_(tree.name(var), [tree.do(tree.run("take_controls", tree.constant(name), tree.name(var)))], []))
        return lines

    def facts_after(self) -> dict[str, Fact]:
        """The facts of the global variables that the form knows of, after it."""
        return {name: self.fact(slot.var) for name, slot in self._scopes[0].slots.items()}

    def value(self, node: Node, want: Want = Want.VALUE) -> Val:
        """Generates the code of one value. Raises Unresolved where there is too much of it."""
        self._values += 1
        if self._values > INLINED:
            raise Unresolved
        self.world.budget.take(1)
        return super().value(node, want)

    # --- facts ---------------------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Fact]:
        """The facts at this point."""
        return dict(self._facts)

    def restore(self, saved: dict[str, Fact]) -> None:
        """Go on from other facts."""
        self._facts = dict(saved)

    def join(self, saved: dict[str, Fact]) -> None:
        """Go on from where the present facts or the saved ones hold."""
        self._facts = join(self._facts, saved, self.starts)
        for var, fact in self._facts.items():
            begin = self._begins.get(var)
            if fact.state == MAYBE and begin is not None:
                begin.body.append(self.tree.assign(var, self.tree.name("ABSENT")))
                del self._begins[var]

    def fact(self, var: str) -> Fact:
        """What is known of a variable here."""
        return self._facts.get(var) or self.starts[var]

    def refine(self, value: Val, types: int) -> None:
        """From here on a value is known to have one of these types."""
        # A RAW one that turns out to be a number is as it was in its column: Raw holds none.
        if value.stable and value.var in self.starts:
            self._facts[value.var] = Fact(ALWAYS, value.types & types, value.bits)

    # --- scopes --------------------------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """How many scopes are open."""
        return len(self._scopes)

    def open(self, begin: ast.If) -> Scope:
        """Begins a scope; `begin` is in the code where it begins."""
        scope = Scope(begin)
        self._scopes.append(scope)
        return scope

    def close(self) -> None:
        """Ends the innermost scope. Whether its variables are defined matters no more."""
        for slot in self._scopes.pop().slots.values():
            self._begins.pop(slot.var, None)

    def bind(self, name: str, value: Val) -> None:
        """Defines a variable that the innermost scope doesn't have."""
        slot = Slot(self.fresh("v"), len(self._scopes) - 1, None if name in self.world.assigned else value.ref)
        self._scopes[-1].slots[name] = slot
        self.starts[slot.var] = Fact(ALWAYS, value.types, value.bits)
        if slot.ref is None:
            self.block.append(self.tree.assign(slot.var, self.datum(value)))

    def forget_assigned(self) -> None:
        """What a loop may set outside of itself may be anything when a round begins."""
        for scope in self._scopes:
            for name, slot in scope.slots.items():
                if name in self.world.assigned:
                    self._facts[slot.var] = Fact(self.fact(slot.var).state)

    def _slot(self, depth: int, name: str) -> Slot | None:
        scope = self._scopes[depth]
        if depth == 0 and name not in scope.slots:
            start = self._known.get(name, UNDEFINED)
            slot = scope.slots[name] = Slot(self.fresh("g"), 0)
            self.starts[slot.var] = Fact(start.state) if name in self.world.assigned else start
        return scope.slots.get(name)

    def _seen(self, name: str) -> list[Slot]:
        """The slots where a variable may be, innermost first; only the last one may have it certainly."""
        found: list[Slot] = []
        for depth in range(len(self._scopes) - 1, -1, -1):
            slot = self._slot(depth, name)
            if slot is None or self.fact(slot.var).state == NEVER:
                continue
            found.append(slot)
            if self.fact(slot.var).state == ALWAYS:
                break
        return found

    # --- variables -----------------------------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> Val:
        """The value of a variable."""
        slots = self._seen(name)
        if slots:
            self._guard(slots[-1])
        if slots and self.fact(slots[0].var).state == ALWAYS:
            return self._from(slots[0], name)
        return self._search(name, slots)

    def _guard(self, slot: Slot) -> None:
        """Takes for granted that a global variable which may be defined before the form is: where it isn't, the dynamic code runs."""
        start = self.starts[slot.var]
        if slot.depth == 0 and start.state == MAYBE and slot.var not in self._facts and slot.var not in self._written:
            self._guarded.add(slot.var)
            self.starts[slot.var] = Fact(ALWAYS, start.types, start.bits)

    def _from(self, slot: Slot, name: str) -> Val:
        if slot.ref is not None:
            return self.entity(slot.ref)
        fact = self.fact(slot.var)
        stable = name not in self.world.assigned
        return Val(self.tree.name(slot.var), fact.types, fact.bits, stable=stable, var=slot.var if stable else "")

    def _search(self, name: str, slots: Sequence[Slot]) -> Val:
        """A variable that is in one of several scopes, or in none."""
        tree = self.tree
        self.fails = True
        expr, types, bits = tree.run("undefined", tree.constant(name)), 0, 0
        for slot in reversed(slots):
            found = self._from(slot, name)
            types, bits = types | found.types, max(bits, found.bits)
            certain = self.fact(slot.var).state == ALWAYS
            expr = found.expr if certain else tree.choose(tree.is_(tree.name(slot.var), "ABSENT"), expr, found.expr)
        return Val(expr, types or ANY, bits)

    def define(self, node: Node, name: str, value: Val) -> Val:  # the place is set already
        """`defvar`."""
        depth = len(self._scopes) - 1
        if depth == 0:
            self.defined.add(name)
        slot = self._slot(depth, name)
        if slot is None:
            slot = self._scopes[depth].slots[name] = Slot(self.fresh("v"), depth)
            self.starts[slot.var] = UNDEFINED
            self._begins[slot.var] = self._scopes[depth].begin
        fact = self.fact(slot.var)
        if fact.state == ALWAYS:
            self.deliver(value, Want.DROP)
            return self._from(slot, name)
        self._store(slot, name, value, fact)
        return self._from(slot, name)

    def _store(self, slot: Slot, name: str, value: Val, fact: Fact) -> None:
        if slot.depth == 0:
            self._written.add(slot.var)
        if slot.ref is not None:
            # It has been something else on another way here.
            raise Unresolved
        if fact.state == NEVER:
            if isinstance(value.ref, Part) and slot.depth > 0 and name not in self.world.assigned:
                slot.ref = value.ref
                value = replace(value, expr=self.tree.name(value.ref.mapping))
            self.block.append(self.tree.assign(slot.var, value.expr))
            self._facts[slot.var] = Fact(ALWAYS, value.types, value.bits)
            return
        kept = self.kept(value)
        self.block.append(self.tree.if_(self.tree.is_(self.tree.name(slot.var), "ABSENT"), [self.tree.assign(slot.var, kept.expr)], []))
        self._facts[slot.var] = Fact(ALWAYS, fact.types | value.types, max(fact.bits, value.bits))

    def assign(self, node: Node, name: str, value: Val) -> None:  # the place is set already
        """`set`."""
        slots = self._seen(name)
        if slots:
            self._guard(slots[-1])
            slots = self._seen(name)
        tree = self.tree
        certain = bool(slots) and self.fact(slots[-1].var).state == ALWAYS
        lines: list[ast.stmt] = [] if certain else [tree.do(tree.run("undefined", tree.constant(name)))]
        self.fails = self.fails or not certain
        for slot in reversed(slots):
            store: list[ast.stmt] = [tree.assign(slot.var, value.expr)]
            old = self.fact(slot.var)
            lines = store if old.state == ALWAYS else [tree.if_(tree.is_(tree.name(slot.var), "ABSENT"), lines, store)]
            self._changed(slot)
            new = Fact(old.state, value.types, value.bits)
            self._facts[slot.var] = new if len(slots) == 1 else old.join(new)
        self.block += lines

    def _changed(self, slot: Slot) -> None:
        if slot.depth == 0:
            self._written.add(slot.var)
        if self.round is not None and slot.depth < self.round.depth:
            self.round.changed[slot.var] = slot

    def scoped(self, node: Node, bindings: Sequence[tuple[str, Node]], body: Callable[[], Val]) -> Val:
        """`let`."""
        self.at(node)
        begin = self.tree.placeholder()
        self.block.append(begin)
        scope = self.open(begin)
        for name, binding in bindings:
            value = self.known(self.value(binding))
            if name in scope.slots:
                self.define(binding, name, value)
            else:
                self.bind(name, value)
        result = self.known(body())
        self.close()
        return result

    # --- functions -----------------------------------------------------------------------------------------------------------------------

    def function(self, node: Group, name: str, parameters: Sequence[str], body: Node) -> Val:  # both are in what is made
        """`def` inside of something else."""
        place = self._made.get(self.base + node.start)
        if place is None:
            raise Unresolved
        tree = self.tree
        table = tree.attribute(tree.name(RUN), "functions")
        self.block.append(tree.do(tree.run("write", table, tree.constant(name), tree.name(place))))
        self.writes = True
        self.work += METHOD_WORK
        return self.constant(name)

    def call(self, node: Group, name: str, operands: Sequence[Node], want: Want) -> Val:
        """A call: the function's body in a scope with its parameters, here."""
        known = self.world.functions.get(name)
        if known is None or known.form >= self._form or len(known.parameters) != len(operands):
            return self.deliver(self._lending_call(node, name, operands), want)
        if len(self.calls) == NESTED_CALLS or any(called == name for called, _ in self.calls):
            return self.deliver(self._lending_call(node, name, operands), want)
        values = self.known_operands(operands)
        self.steps += 3
        self.at(node)
        before = self.base, self.calls
        begin = self.tree.placeholder()
        self.block.append(begin)
        self.open(begin)
        for parameter, value in zip(known.parameters, values, strict=True):
            self.bind(parameter, value)
        self.calls = (*self.calls, (name, self.base + node.start))
        self.base = known.base
        result = self.known(self.value(known.body, want))
        self.base, self.calls = before
        self.close()
        return result

    def _lending_call(self, node: Group, name: str, operands: Sequence[Node]) -> Val:
        """A call of a function that isn't known before the run: it sees the variables it may use in a scope that is made for it."""
        tree, reach = self.tree, self.world.reach(name)
        self.steps += 3
        self.at(node)
        function = self.kept(Val(self.risky(tree.run("function", tree.constant(name), tree.constant(len(operands))))))
        given = [self.kept(value) for value in self.known_operands(operands)]
        self.at(node)
        lent = {symbol: slot for symbol in sorted(reach.symbols) if (slot := self._lent(symbol)) is not None}
        self.world.budget.take(len(reach.symbols))
        self.work += 2 * METHOD_WORK + CALL_WORK * (len(lent) + len(operands))
        names = tree.tuple([tree.constant(symbol) for symbol in lent])
        values = tree.tuple([self._from(slot, symbol).expr for symbol, slot in lent.items()])
        chain = tree.tuple([tree.tuple([tree.constant(called), tree.constant(start)]) for called, start in self.calls])
        start = tree.constant(self.base + node.start)
        self.block.append(tree.do(tree.run("lend", chain, names, values)))
        result = self.kept(Val(tree.run("call", function.expr, tree.tuple([value.expr for value in given]), start)))
        for symbol, slot in lent.items():
            if symbol in self.world.assigned:
                self.block.append(tree.assign(slot.var, tree.item_of(tree.attribute(tree.name(RUN), "variable"), tree.constant(symbol))))
                self._changed(slot)
                self._facts[slot.var] = Fact(ALWAYS)
        self.block.append(tree.do(tree.run("take_back")))
        self.lends = self.writes = True
        self.forget_figures()
        if reach.controls:
            self.indirect.add(None)
        return result

    def _lent(self, name: str) -> Slot | None:
        """Where a variable is that a function may use; None where the function finds it by itself, or there is none."""
        slots = self._seen(name)
        if not slots or (name not in self.world.assigned and slots[0].depth == 0 and slots[0].var not in self._written):
            return None
        self._guard(slots[-1])
        if self.fact(slots[0].var).state != ALWAYS:
            raise Unresolved
        return slots[0]

    # --- entities ------------------------------------------------------------------------------------------------------------------------

    def entity(self, ref: Ref) -> Val:
        """What is known at compile time, as a value."""
        if isinstance(ref, Part):
            return Val(ref.whole, ref=ref)
        if isinstance(ref, GuestLoop):
            return Val(self.tree.run("thing", self.tree.name(ref.index)), THING, 0, ref=ref)
        of_run = self.tree.attribute(self.tree.name(RUN), "host" if ref == HOST_REF else "guest_list")
        return Val(of_run, THING if ref == HOST_REF else LIST, 0, ref=ref)

    def read(self, node: Node, path: Sequence[str]) -> Val:  # the place is set already
        """A plain or dotted name."""
        base, *members = path
        refs: dict[str, Ref] = {"Host": HOST_REF, "Guests": GUESTS_REF}
        value = self.entity(refs[base]) if base in refs else self.variable(base)
        for name in members:
            value = self._member(value, name)
        return value

    def _member(self, value: Val, name: str) -> Val:
        if isinstance(value.ref, Part):
            return self._figure(value, name) if name in TUNE_FIGURES else self._asked(value, name)
        if value.ref is not None and value.ref != GUESTS_REF:
            found = self.field(value.ref, name)
            if found is not None:
                return found
        if name in TUNE_PARTS:
            return self._part(self.kept(value), name)
        if name in TUNE_FIGURES:
            return self._figure(self.kept(value), name)
        return self._asked(value, name)

    def _asked(self, value: Val, name: str) -> Val:
        return Val(self.risky(self.tree.call("member", self.tree.name(RUN), self.datum(value), self.tree.constant(name))))

    def _part(self, disk: Val, name: str) -> Val:
        """Limits of a disk, made into a value only where they are used as one."""
        tree, mapping = self.tree, self.fresh("q")
        operands = (disk.expr, tree.constant(name))
        # In steps they cost what an object of them does; the time is that of any call.
        self.steps += len(TUNE_FIGURES)
        self.block.append(tree.assign(mapping, self.risky(tree.run("limits", *operands), CALL_WORK - len(TUNE_FIGURES))))
        return self.entity(Part(self.risky(tree.run("part", *operands)), mapping))

    def _figure(self, limits: Val, name: str) -> Val:
        """A limit of a disk: mostly an integer that is at hand."""
        tree, key = self.tree, self.tree.constant(name)
        mapping = self._at_hand(limits)
        known = self._figures.get((mapping, name))
        if known is not None:
            # What isn't an integer has to be paid for each time.
            again = tree.assign(known.var, tree.call("member", tree.name(RUN), limits.expr, key))
            self.block.append(tree.if_(tree.negate(tree.is_type(known.expr, "int")), [again], []))
            return known
        found = self.fresh("t")
        # Both together are faster than a call of get().
        at_hand = tree.choose(tree.compare(key, ast.In(), tree.name(mapping)), tree.item(mapping, key), tree.constant(None))
        self.block.append(tree.assign(found, at_hand))
        value = tree.name(found)
        # Python compares small integers faster than it could ask whether they are wide.
        narrow = tree.between(tree.constant(-1), value, tree.constant(_SMALL))
        good = tree.all([tree.is_type(value, "int"), tree.any([narrow, tree.between(tree.name("LOW"), value, tree.name("HIGH"))])])
        asked = tree.assign(found, self.risky(tree.call("member", tree.name(RUN), limits.expr, key)))
        self.block.append(tree.if_(tree.negate(good), [asked], []))
        read = self._figures[mapping, name] = Val(value, stable=True, var=found)
        return read

    def _at_hand(self, limits: Val) -> str:
        """The mapping of a disk's limits that are integers; the same one however often it is set. An empty one of what isn't limits."""
        tree = self.tree
        if isinstance(limits.ref, Part):
            return limits.ref.mapping
        if limits.var in self._mappings:
            return self._mappings[limits.var]
        mapping = self.fresh("q")
        figures = tree.choose(tree.is_type(limits.expr, "Record"), tree.attribute(limits.expr, "figures"), tree.name("EMPTY"))
        self.block.append(tree.assign(mapping, figures))
        if limits.var:
            self._mappings[limits.var] = mapping
        return mapping

    def forget_figures(self) -> None:
        """From here on, limits of disks may be others."""
        self._figures = {}

    def branch(self, node: Node, want: Want) -> tuple[list[ast.stmt], Val]:
        """The code of a value in a block of its own: what it reads isn't at hand outside of it."""
        before, mappings = self._figures, self._mappings
        self._figures = mine = dict(before)
        self._mappings = dict(mappings)
        result = super().branch(node, want)
        self._figures, self._mappings = (before if self._figures is mine else {}), mappings
        return result

    def field(self, ref: Ref, name: str) -> Val | None:
        """The newest value of a field of an entity; None for a name that is none of its fields."""
        names = self.world.schema.host if ref == HOST_REF else self.world.schema.guest
        if name not in names.declared:
            return self.constant(None) if name in names.known else None
        var = self._field_var(ref, name)
        fact = self.fact(var)
        return Val(self.tree.name(var), fact.types, fact.bits, stable=True, var=var, line=self.tree.line)

    def _field_var(self, ref: Ref, name: str) -> str:
        fields = ref.fields if isinstance(ref, GuestLoop) else self._host
        if name not in fields:
            var = fields[name] = self.fresh("f")
            self.starts[var] = Fact(ALWAYS, ANY | RAW)
            self._indices[var] = self.tree.name(ref.index) if isinstance(ref, GuestLoop) else self.tree.constant(-1)
        return fields[name]

    def opened(self, value: Val) -> ast.expr:
        """A value of a column as one of the language."""
        tree, line = self.tree, self.tree.line
        tree.line = value.line
        expr = tree.choose(tree.is_type(value.expr, "Raw"), tree.run("taken", value.expr, self._indices[value.var]), value.expr)
        tree.line = line
        return expr

    def control(self, ref: Ref, name: str, value: Val, site: int) -> None:
        """A control of the guest whose round it is, or of the host: in a table of the form's own, that counts at the form's end."""
        table = self._controls.setdefault(name, self.fresh("c"))
        pair = self.tree.tuple([value.expr, self.tree.constant(site)])
        index = self.tree.name(ref.index) if isinstance(ref, GuestLoop) else self.tree.constant(-1)
        self.block.append(self.tree.assign_item(table, index, pair))
