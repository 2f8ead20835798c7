# SPDX-License-Identifier: GPL-2.0-or-later
"""Static code of what is read of entities and objects: fields, other members, and the limits of disks."""

from __future__ import annotations

import ast
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Final

from momservice.policy.compiled.emitter import CALL_WORK, Sites, Want
from momservice.policy.compiled.facts import ALWAYS, ANY, GUESTS_REF, HOST_REF, LIST, RAW, THING, Fact, GuestLoop, Part, Ref, Val
from momservice.policy.compiled.tree import RUN
from momservice.policy.compiled.variables import VariableEmitter
from momservice.policy.compiled.world import World
from momservice.policy.forms import TUNE_FIGURES, TUNE_PARTS
from momservice.policy.reader import Node

# Integers below it take Python one digit.
_SMALL: Final = 1 << 30


class EntityEmitter(VariableEmitter, ABC):
    """Adds members of values, those of known entities directly."""

    def __init__(self, sites: Sites, world: World, known: Mapping[str, Fact]) -> None:
        super().__init__(sites, world, known)
        # The indices of entities, by the variables of their fields.
        self._indices: dict[str, ast.expr] = {}
        # The variables of the host's fields.
        self._host: dict[str, str] = {}
        # Single limits of disks that have been read, by mapping and name, as long as nothing may have set them.
        self._figures: dict[tuple[str, str], Val] = {}
        # The variable of the mapping, by the variable of the limits.
        self._mappings: dict[str, str] = {}

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

    # --- fields -------------------------------------------------------------------------------------------------------------------

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

    # --- limits of disks ----------------------------------------------------------------------------------------------------------

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
