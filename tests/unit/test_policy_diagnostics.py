# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables that the language reference is made of: codes, forms, limits; each example does what the table says."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from momservice.bus.names import TEXT_BYTES
from momservice.fields import Names, Schema
from momservice.policy import Loaded, evaluate, load
from momservice.policy.diagnostics import CODES, Code
from momservice.policy.forms import FORMS, METHODS, RESERVED, TUNE_SETTERS, Form
from momservice.policy.limits import LIMITS
from momservice.policy.program import INCURABLE
from momservice.snapshot import HOST, Entity, Snapshot, Value

TESTS = Path(__file__).parent.parent
POLICY = TESTS.parent / "momservice" / "policy"
# What makes a finding, and which of its arguments is the code.
MAKERS = {"PolicyError": 0, "Failure": 0, "Diagnostic": 1, "Fault": 2, "error": 0, "warning": 0, "_warn": 0}
TOO_LONG = "#" * (TEXT_BYTES + 1)
CODES_AT_LOAD = [code for code in CODES.values() if code.load]
CODES_IN_RUN = [code for code in CODES.values() if code.run]

DISK: dict[str, Value] = {"name": "vda", "path": "/disk", "guaranteed": {}, "maximum": {}, "current": {}}
WORLD = Snapshot(
    Entity(HOST, ({"mem_free": 4000}, {"mem_free": 6000}), {"interval": 5}),
    [
        Entity("00000000-0000-0000-0000-000000000001", ({"io_tune": [DISK]},), {"name": "one"}),
        Entity("00000000-0000-0000-0000-000000000002", ({"io_tune": []},), {"name": "two"}),
    ],
)


def names(kind: str, *declared: str) -> Names:
    """All names of one kind of entity, of which only the fields given are collected."""
    known = json.loads((TESTS / "data" / "names.json").read_text())[kind]
    return Names(frozenset(declared), frozenset(known["fields"]), frozenset(known["controls"]), frozenset(known["properties"]))


SCHEMA = Schema(names("host", "mem_free", "swap_usage"), names("guest", "io_tune"))


def loaded(text: str) -> Loaded:
    return load({"a": text}, SCHEMA)


@pytest.mark.parametrize("code", CODES_AT_LOAD, ids=lambda code: code.name)
def test_the_example_of_a_code_is_reported_with_it_at_load(code: Code) -> None:
    found = loaded(code.at_load or TOO_LONG).diagnostics
    assert [(each.code, each.severity) for each in found] == [(code.name, code.severity)]


@pytest.mark.parametrize("code", CODES_IN_RUN, ids=lambda code: code.name)
def test_the_example_of_a_code_is_reported_with_it_in_a_run(code: Code) -> None:
    result = loaded(code.in_run)
    assert result.program is not None, result.diagnostics
    failures = evaluate(result.program, Snapshot(WORLD.host if code.name != "no-data" else Entity(HOST), WORLD.guests)).failures
    assert {failure.code for failure in failures} == {code.name}


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_a_code_says_what_it_means_and_what_to_do(code: Code) -> None:
    assert code.load or code.run
    assert code.severity == "error" or not code.run
    for sentence in (code.meaning, code.advice):
        assert sentence.lstrip("'")[0].isupper()
        assert sentence.endswith(".")


def made() -> Iterator[tuple[str, str]]:
    """File and code of every finding that the code makes with a code of its own, or "" where the code isn't a literal."""
    for file in sorted(POLICY.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and (maker := getattr(call.func, "id", getattr(call.func, "attr", ""))) in MAKERS:
                index = MAKERS[maker]
                given = call.args[index] if len(call.args) > index else ast.Constant("parse")
                yield file.name, given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ast.unparse(given)


def test_no_finding_has_a_code_outside_of_the_table() -> None:
    # Those that hand on the code of another finding.
    handed_on = {"code", "error.code", "fault.code"}
    found = list(made())
    assert len(found) > 50
    assert [(file, code) for file, code in found if code not in CODES and code not in handed_on] == []
    assert {code for _, code in found} >= {*CODES}


def test_a_trial_run_refuses_a_policy_for_codes_of_the_table() -> None:
    assert CODES.keys() > INCURABLE


# --- forms and methods -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [*{form.name: form for form in FORMS.values()}.values(), *METHODS.values(), *TUNE_SETTERS.values()], ids=lambda form: form.name
)
def test_the_example_of_a_form_gives_what_the_table_says(form: Form) -> None:
    result = loaded(form.example)
    assert result.program is not None, result.diagnostics
    decisions = evaluate(result.program, WORLD)
    assert (decisions.failures, decisions.results[-1]) == ([], form.gives)
    assert type(decisions.results[-1]) is type(form.gives)
    assert form.name in form.example or form.name in RESERVED
    assert form.least == 0 or form.doc.partition(":")[0]


# --- limits ------------------------------------------------------------------------------------------------------------------------------


def test_limits_are_those_that_are_documented() -> None:
    documented = {"text": 1024 * 1024, "text from the bus": 256 * 1024, "nesting": 200, "calls": 200, "form": 10_000, "round": 10_000}
    documented |= {"run": 1_000_000, "run by its bounds": 8_000_000, "run beside its bounds": 450_000}
    documented |= {"integer": 256, "shift": 255, "string": 64 * 1024}
    assert {limit.name: limit.value for limit in LIMITS if limit.name in documented} == documented
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)


def test_a_limit_names_the_code_that_is_reported_beyond_it() -> None:
    assert {limit.code for limit in LIMITS} - {""} == {"limit", "too-deep", "value"} <= CODES.keys()
