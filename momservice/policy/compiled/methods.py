# SPDX-License-Identifier: GPL-2.0-or-later
"""Static code of method calls: fields, averages and controls of known entities directly, all else as the evaluator does it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from momservice.policy.compiled.emitter import METHOD_WORK, SETTING_WORK, Sites
from momservice.policy.compiled.facts import FLOAT, GUESTS_REF, HOST_REF, SCALAR, Fact, GuestLoop, Part, Ref, Val
from momservice.policy.compiled.loops import LoopEmitter
from momservice.policy.compiled.world import World
from momservice.policy.forms import METHODS, READING, TUNE_FIGURE_OF, TUNE_SETTERS
from momservice.policy.reader import Atom, Group, Node

# The receiver, and the call.
_CALL = 2


class MethodEmitter(LoopEmitter):
    """Adds the methods."""

    def __init__(self, sites: Sites, world: World, form: int, known: Mapping[str, Fact], made: Mapping[int, str], *, direct: bool) -> None:
        """`direct`: keep controls in tables of the form's own, if it can be."""
        super().__init__(sites, world, form, known, made)
        self.direct = direct
        self._controls: dict[str, str] = {}

    @property
    def mixed(self) -> bool:
        """Whether a control is taken in both ways, so that it matters which was the last."""
        return bool(self._controls) and (None in self.indirect or not self._controls.keys().isdisjoint(self.indirect))

    def method(self, node: Group, head: Atom, operands: Sequence[Node]) -> Val:
        """A call of a method."""
        *path, method = head.name.split(".")
        self.steps += len(path) + _CALL
        self.at(head)
        base = self.read(head, path)
        if base.ref in (None, GUESTS_REF) or isinstance(base.ref, Part) or method not in METHODS:
            base = self._receiver(self.kept(base), method)
        values = self.known_operands(operands)
        site = self.at(node)
        name = operands[0].value if isinstance(operands[0], Atom) else None
        if base.ref is not None and not isinstance(base.ref, Part) and isinstance(name, str) and method in METHODS:
            found = self._direct(base.ref, method, name, values, site)
            if found is not None:
                return found
        self.writes = self.writes or method not in READING
        self.averages += method == "StatAvg"
        if method == "Control":
            self.indirect.add(name if isinstance(name, str) else None)
        return self._called(base, method, values, site)

    def _receiver(self, base: Val, method: str) -> Val:
        tree = self.tree
        asked = self.risky(tree.call("receiver", base.expr, tree.constant(method)))
        if method not in TUNE_SETTERS:
            return self.kept(Val(asked))
        disk = [tree.is_type(base.expr, "Record"), tree.compare(tree.attribute(base.expr, "role"), ast.Eq(), tree.constant("item"))]
        return self.kept(
            Val(tree.choose(tree.all([*disk, tree.attribute(base.expr, "item"), tree.attribute(base.expr, "owner")]), base.expr, asked))
        )

    def _called(self, base: Val, method: str, values: Sequence[Val], site: int) -> Val:
        tree = self.tree
        given = (tree.constant(method), base.expr, tree.tuple([value.expr for value in values]))
        if method in READING:
            return Val(self.risky(tree.run("method", *given), METHOD_WORK))
        if method in TUNE_SETTERS:
            figure = tree.constant(TUNE_FIGURE_OF[method])
            limit = tree.run("limit", base.expr, figure, *(value.expr for value in values), tree.constant(site))
            self.block.append(tree.do(self.risky(limit, SETTING_WORK)))
            self.forget_figures()
            return self.constant(None)
        self.block.append(tree.do(self.risky(tree.run("setting", *given, tree.constant(site)), SETTING_WORK)))
        return self.constant(None)

    def _direct(self, ref: Ref, method: str, name: str, values: Sequence[Val], site: int) -> Val | None:
        names = self.world.schema.host if ref == HOST_REF else self.world.schema.guest
        if method == "Stat" and name in names.known | names.declared:
            return self._newest(ref, name, values)
        if method == "StatAvg" and name in names.declared:
            return self._average(ref, name)
        # Nothing undoes them but the failure of the whole form: controls of a guest whose round fails count for nothing anyway.
        own = ref == HOST_REF if self.round is None else ref is self.round.loop
        if method == "Control" and own and self.direct and not self.world.controls_are_read:
            value = values[1]
            if not value.only(SCALAR):
                value = self.kept(Val(self.risky(self.tree.run("sendable", value.expr))))
            self.work += METHOD_WORK
            self.control(ref, name, value, site)
            return self.constant(None)
        return None

    def _newest(self, ref: Ref, name: str, values: Sequence[Val]) -> Val | None:
        found = self.field(ref, name)
        if found is None or len(values) == 1:
            return found
        default = self.kept(values[1])
        found = self.kept(found)
        expr = self.tree.choose(self.tree.compare(found.expr, ast.Is(), self.tree.constant(None)), default.expr, found.expr)
        return Val(expr, found.types | default.types, max(found.bits, default.bits))

    def _average(self, ref: Ref, name: str) -> Val:
        """The mean of a field: of the running sum, where there is one."""
        tree = self.tree
        self.averages += 1
        if not isinstance(ref, GuestLoop):
            return Val(self.risky(tree.run("host_mean", tree.constant(name))), FLOAT, 0)
        if name not in ref.sums:
            ref.sums[name] = self.fresh("a")
        total = tree.name(ref.sums[name])
        mean = tree.compute(total, ast.Div(), tree.name(ref.sums[name] + "n"))
        slow = self.risky(tree.run("guest_mean", tree.name(ref.index), tree.constant(name)), METHOD_WORK)
        return Val(tree.choose(tree.compare(total, ast.Is(), tree.constant(None)), slow, mean), FLOAT, 0)

    def control(self, ref: Ref, name: str, value: Val, site: int) -> None:
        """A control of the guest whose round it is, or of the host: in a table of the form's own, that counts at the form's end."""
        table = self._controls.setdefault(name, self.fresh("c"))
        pair = self.tree.tuple([value.expr, self.tree.constant(site)])
        index = self.tree.name(ref.index) if isinstance(ref, GuestLoop) else self.tree.constant(-1)
        self.block.append(self.tree.assign_item(table, index, pair))
