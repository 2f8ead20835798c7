# SPDX-License-Identifier: GPL-2.0-or-later
"""The evaluator of the cycle and the one that traces decide the same: on generated policies and worlds, and on all that are at hand.

`MOM_LONG=1 ./dev test tests/proof` runs 100,000 generated examples.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from proof_batches import LONG, batches, for_each
from proof_choices import Choices
from proof_compare import assert_same
from proof_limits import budgets, short_of_steps
from proof_text import Policy
from proof_worlds import SCHEMA, World, plausible

from momservice.config import Config
from momservice.fields import Names, Schema
from momservice.parts import schema
from momservice.policy import Decisions, Program, cases, load
from momservice.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
NAMES = json.loads((ROOT / "tests/data/names.json").read_text(encoding="utf-8"))


def loaded(policy: Policy) -> Program | None:
    return load(policy.texts, SCHEMA).program


def check(policy: Policy, world: World, _choices: Choices) -> None:
    if program := loaded(policy):
        snapshot = world.snapshot
        assert_same(program, snapshot, replace(snapshot, guests=snapshot.guests[1:], parameters={}))


def check_with_few_steps(policy: Policy, world: World, choices: Choices) -> None:
    if program := loaded(short_of_steps(choices, policy)):
        assert_same(program, world.snapshot)


def check_with_small_budgets(policy: Policy, world: World, choices: Choices) -> None:
    with budgets(40 + choices.below(200), 8 + choices.below(80), 50 + 4 * choices.below(250)):
        check(policy, world, choices)


@pytest.mark.parametrize("batch", batches(2500, 70_000))
def test_generated_policies_are_decided_alike(batch: int) -> None:
    for_each(batch, check)


@pytest.mark.parametrize("batch", batches(1000, 15_000))
def test_policies_that_run_out_of_steps_are_decided_alike(batch: int) -> None:
    for_each(10_000 + batch, check_with_few_steps)


@pytest.mark.parametrize("batch", batches(500, 15_000))
def test_policies_under_small_budgets_are_decided_alike(batch: int) -> None:
    for_each(20_000 + batch, check_with_small_budgets)


KNOWN = schema(Config())
ALL_FIELDS = Schema(replace(KNOWN.host, declared=KNOWN.host.known), replace(KNOWN.guest, declared=KNOWN.guest.known))


def texts(folder: str) -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / folder).glob("*.policy")}


POLICIES = {
    "seed": {"50_main_": (ROOT / "tests/data/mom.policy").read_text(encoding="utf-8")},
    "shipped": texts("conf/policy.d"),
    "fragments": {**texts("tests/data/fragments"), "01-parameters": "(set balloonEnabled True) (set ksmEnabled True)"},
}


@pytest.mark.parametrize("name", POLICIES)
def test_real_policies_are_decided_alike_in_worlds_of_all_kinds(name: str) -> None:
    program = load(POLICIES[name], ALL_FIELDS).program
    assert program is not None
    seen = {"controls": 0, "dropped": 0, "forms": 0}

    def check_real(_policy: Policy, _world: World, choices: Choices) -> None:
        decisions = assert_same(program, plausible(choices).snapshot)
        seen["controls"] += bool(decisions.controls)
        seen["dropped"] += any(failure.entity is not None for failure in decisions.failures)
        seen["forms"] += any(failure.entity is None for failure in decisions.failures)

    for_each(0, check_real, examples=5000 if LONG else 400)
    # What is compared is worth it only if the policy does its work in most of these worlds, and fails in some.
    assert seen["controls"] > 200
    assert name == "shipped" or min(seen.values()) > 20


def test_the_conformance_cases_are_decided_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def both(program: Program, snapshot: Snapshot) -> Decisions:
        nonlocal compared
        compared += 1
        return assert_same(program, snapshot)

    monkeypatch.setattr(cases, "evaluate", both)
    host, guest = (Names(frozenset(), *(frozenset(NAMES[kind][what]) for what in ("fields", "controls", "properties"))) for kind in NAMES)
    results = list(cases.run_file(ROOT / "tests/conformance/language-cases.json", Schema(host, guest)))
    assert len(results) == 443
    assert compared > 300
