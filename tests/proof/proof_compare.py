# SPDX-License-Identifier: GPL-2.0-or-later
"""What two runs decide, in a form that tells apart what `==` doesn't: 1, 1.0 and true, 0.0 and -0.0; and nan is nan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from momservice.policy import Decisions, Program, evaluate
from momservice.policy.compiled.build import LARGEST
from momservice.snapshot import Snapshot

# Why the compiled form may leave a run to the other evaluator. Anything else is a fault of it that nobody would see.
FORESEEN: Final = frozenset({"", "limit", f"it has more than {LARGEST} values", "it nests too deep for Python's own compiler"})


def exact(value: object) -> object:
    """A value with the types of all its parts."""
    if isinstance(value, Mapping):
        return {name: exact(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    return type(value).__name__, repr(value)


def decided(decisions: Decisions) -> dict[str, object]:
    """All of the decisions but what tracing adds (`reads`) and what an evaluator may count in its own way (`steps`)."""
    controls = [(*map(exact, (w.entity, w.name, w.item, w.value)), str(w.place), _calls(w.calls)) for w in decisions.controls]
    failures = [(f.code, f.message, str(f.place), f.form, f.entity, _calls(f.calls)) for f in decisions.failures]
    return {
        "results": exact(decisions.results),
        "controls": controls,
        "variables": exact(decisions.variables),
        "failures": failures,
        "debug": list(decisions.debug),
        "ended": decisions.ended,
    }


def _calls(calls: Sequence[object]) -> list[str]:
    return [str(call) for call in calls]


def told(snapshot: Snapshot) -> object:
    """All that a snapshot says, to see that it stays as it was."""
    parts = [(e.key, exact(list(e.samples)), exact(e.properties), exact(e.variables)) for e in (snapshot.host, *snapshot.guests)]
    return parts, exact(snapshot.parameters)


def assert_same(program: Program, snapshot: Snapshot, other: Snapshot | None = None) -> Decisions:
    """That both evaluators decide the same, again after a run on another world, and leave the snapshot as it was. Gives the decisions."""
    before = told(snapshot)
    traced, plain = evaluate(program, snapshot, trace=True), evaluate(program, snapshot)
    assert plain.abandoned in FORESEEN, f"the compiled form gives up: {plain.abandoned}"
    assert traced.abandoned == plain.abandoned, "the evaluators are told apart by why the compiled form gave up"
    assert decided(plain) == decided(traced), f"{differences(decided(plain), decided(traced))} differ"
    if other is not None:
        elsewhere = evaluate(program, other)
        assert elsewhere.abandoned in FORESEEN, f"the compiled form gives up in another world: {elsewhere.abandoned}"
        assert decided(elsewhere) == decided(evaluate(program, other, trace=True)), "the evaluators differ in another world"
    assert decided(evaluate(program, snapshot)) == decided(plain), "a second run decides differently"
    assert told(snapshot) == before, "the snapshot was changed"
    return plain


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """The parts of the decisions that differ."""
    return ", ".join(part for part in one if one[part] != other[part])
