# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes failing examples small: leaves out forms, parts of forms, guests, samples and fields for as long as the example fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from proof_text import BLOCK, Policy, Tree
from proof_worlds import World

from momservice.snapshot import Entity, Snapshot, Value

Case = tuple[Policy, World]
_TRIES = 4000


def reduced(policy: Policy, world: World, fails: Callable[[Policy, World], bool]) -> Case:
    """A case that fails too and of which nothing more can be left out; or as small as so many tries make it."""
    case, tries = (policy, world), 0
    again = True
    while again:
        again = False
        for smaller in _smaller(*case):
            tries += 1
            if tries > _TRIES:
                return case
            if fails(*smaller):
                case, again = smaller, True
                break
    return case


def _smaller(policy: Policy, world: World) -> Iterator[Case]:
    for name in policy.fragments:
        yield replace(policy, fragments={other: forms for other, forms in policy.fragments.items() if other != name}), world
    for name, forms in policy.fragments.items():
        for fewer in _fewer(list(forms)):
            yield replace(policy, fragments={**policy.fragments, name: fewer}), world
    for snapshot in _smaller_snapshots(world.snapshot):
        yield policy, World(snapshot)


def _fewer(forms: list[Tree]) -> Iterator[list[Tree]]:
    """Lists of forms in which one is left out or simpler."""
    for index in range(len(forms)):
        yield forms[:index] + forms[index + 1 :]
    for index, form in enumerate(forms):
        for simpler in _simpler(form):
            yield [*forms[:index], simpler, *forms[index + 1 :]]


def _simpler(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, str):
        return
    yield from tree[1:]
    yield from ("nil", "1")
    if list(tree[:1]) == [BLOCK] or len(tree) > 3:
        yield from ([*tree[:index], *tree[index + 1 :]] for index in range(1, len(tree)))
    for index, inner in enumerate(tree):
        for simpler in _simpler(inner):
            yield [*tree[:index], simpler, *tree[index + 1 :]]


def _smaller_snapshots(snapshot: Snapshot) -> Iterator[Snapshot]:
    guests = list(snapshot.guests)
    for index, guest in enumerate(guests):
        yield replace(snapshot, guests=guests[:index] + guests[index + 1 :])
        for smaller in _smaller_entities(guest):
            yield replace(snapshot, guests=[*guests[:index], smaller, *guests[index + 1 :]])
    for smaller in _smaller_entities(snapshot.host):
        yield replace(snapshot, host=smaller)
    for fewer in _without_one(snapshot.parameters):
        yield replace(snapshot, parameters=fewer)


def _smaller_entities(entity: Entity) -> Iterator[Entity]:
    samples = list(entity.samples)
    for index in range(len(samples)):
        yield replace(entity, samples=samples[:index] + samples[index + 1 :])
    for name in sorted({name for sample in samples for name in sample}):
        yield replace(entity, samples=[{other: value for other, value in sample.items() if other != name} for sample in samples])
    for fewer in _without_one(entity.variables):
        yield replace(entity, variables=fewer)


def _without_one(items: Mapping[str, Value]) -> Iterator[Mapping[str, Value]]:
    for name in items:
        yield {other: value for other, value in items.items() if other != name}


def size(case: Case) -> int:
    """How long the policy is, to see that reducing does something."""
    texts: Sequence[str] = list(case[0].texts.values())
    return sum(map(len, texts))
