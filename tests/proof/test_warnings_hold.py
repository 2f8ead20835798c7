# SPDX-License-Identifier: GPL-2.0-or-later
"""What loading warns of as certain holds in every run: on generated policies and worlds, watched step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from proof_batches import batches, for_each
from proof_choices import Choices
from proof_text import Policy
from proof_worlds import SCHEMA, World

from momservice.policy import Diagnostic, Program, evaluate, load
from momservice.policy.machine import Machine
from momservice.policy.reader import Atom, Group, Source, read
from momservice.policy.values import PolicyError
from momservice.snapshot import Snapshot

CERTAIN = {"no-effect", "unreachable", "mixed-types", "always-fails", "wrong-entity"}
READ_MEMBER = {"take_member", "find_receiver"}
# What happened at a place: by the operation's name, the values that it left, or "absent" for what it defined anew; None where it failed.
Seen = dict[str, dict[str, list[object]]]


def watched(program: Program, seen: Seen) -> Program:
    """The program, noting in `seen` by place what its operations do."""

    def watch(operation: Callable[..., int | None], place: str) -> Callable[..., int | None]:
        notes = seen[place][operation.__name__] if operation.__name__ != "halt" else []

        def note(machine: Machine, operand: Any) -> int | None:
            scope = machine.scopes[-1] if machine.scopes else machine.variable
            new = operation.__name__ == "define_variable" and operand not in scope
            try:
                address = operation(machine, operand)
            except PolicyError:
                notes.append(None)
                raise
            notes.append("absent" if new else machine.stack[-1] if machine.stack else 0)
            return address

        return note

    code = program.code
    operations = [
        (watch(operation, str(code.place(start))), operand)
        for (operation, operand), start in zip(code.operations, code.starts, strict=True)
    ]
    return replace(program, code=replace(code, operations=operations))


def parents(texts: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """By place of each value in a list the place of the list, and its head."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in texts.items():
        source = Source(name, text)
        waiting = [node for node in read(source).forms if isinstance(node, Group)]
        while waiting:
            group = waiting.pop()
            head = group.items[0].name if group.items and isinstance(group.items[0], Atom) else ""
            found.update({str(source.place(item.start)): (str(source.place(group.start)), head) for item in group.items})
            waiting.extend(item for item in group.items if isinstance(item, Group))
    return found


def wrong(warning: Diagnostic, parent: tuple[str, str], seen: Seen) -> bool:
    """Whether a run has shown that a warning doesn't hold."""
    here, above = seen.get(str(warning.place), {}), seen.get(parent[0], {})
    if warning.code == "unreachable":
        return any(here.values())
    if warning.code == "no-effect":
        return "absent" in above.get("define_variable", [])
    if warning.code == "mixed-types":
        return any(value is not None and value != (parent[1] in ("!=", "neq")) for value in above.get("apply_binary", []))
    if any(name in here for name in READ_MEMBER):
        return any(value is not None for name in READ_MEMBER for value in here.get(name, [])[:1])
    if warning.code == "wrong-entity" and parent[1].endswith("Control"):
        return False
    applied = ("apply_binary", "apply_variadic", "begin_loop", "call_method")
    return any(value is not None for name in applied for value in above.get(name, []))


def false_warnings(texts: Mapping[str, str], snapshot: Snapshot) -> Iterator[Diagnostic]:
    loaded = load(texts, SCHEMA)
    warnings = [warning for warning in loaded.diagnostics if warning.code in CERTAIN]
    if loaded.program is None or not warnings:
        return
    seen: Seen = defaultdict(lambda: defaultdict(list))
    evaluate(watched(loaded.program, seen), snapshot, trace=True)
    lists = parents(texts)
    for warning in warnings:
        TOLD[warning.code] += any(
            any(notes.values()) for place in (str(warning.place), lists[str(warning.place)][0]) if (notes := seen.get(place))
        )
        if wrong(warning, lists[str(warning.place)], seen):
            yield warning


# How many warnings were of something that a run did come to.
TOLD: Counter[str] = Counter()


def check(policy: Policy, world: World, _choices: Choices) -> None:
    proved_wrong = [str(warning) for warning in false_warnings(policy.texts, world.snapshot)]
    assert not proved_wrong, f"wrong warnings: {proved_wrong}"


@pytest.mark.parametrize("batch", batches(1000, 20_000))
def test_no_run_of_a_generated_policy_proves_a_warning_wrong(batch: int) -> None:
    for_each(20_000 + batch, check)
    assert TOLD.keys() >= {"unreachable", "always-fails", "no-effect", "mixed-types"}
