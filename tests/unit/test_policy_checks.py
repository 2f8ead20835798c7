# SPDX-License-Identifier: GPL-2.0-or-later
"""What loading finds without running anything, and the hints it gives."""

from __future__ import annotations

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, load
from momservice.policy.compiler import Compiler
from momservice.policy.forms import FORMS, METHODS, RESERVED, TUNE_SETTERS
from momservice.policy.members import METHOD_CODE
from momservice.policy.operations import BINARY, VARIADIC

HOST = Names(frozenset({"mem_free"}), frozenset({"mem_free", "ksm_run"}), frozenset({"ksm_run"}), frozenset({"interval"}))
GUEST = Names(frozenset({"mem_unused"}), frozenset({"mem_unused", "rss"}), frozenset({"balloon_target"}), frozenset({"name"}))


def findings(text: str) -> list[Diagnostic]:
    return list(load({"a": text}, Schema(HOST, GUEST)).diagnostics)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(defvar x 1) (+ x y)", "name"),
        ("(launch 1)", "name"),
        ("Host.nope", "name"),
        ("Host.mem_unused", "name"),
        ("(with Guests g g.nope)", "name"),
        ("(Host.Nope)", "name"),
        ("Guests.first", "name"),
        ("(Host.Stat 'nope')", "unknown-field"),
        ("(with Guests g (g.StatAvg 'nope'))", "unknown-field"),
        ("(Host.Prop 'nope')", "unknown-prop"),
        ("Host.Stat", "form"),
        ("(if 1 2)", "arity"),
        ("(def f (a) a) (f)", "arity"),
        ("(Host.Control 'ksm_run')", "arity"),
        ("(def f (a a) a)", "form"),
        ("(let ((a 1) (a 2)) a)", "form"),
        ("(with (f) g 1)", "form"),
        ("(set Host 1)", "form"),
    ],
)
def test_an_error_is_found_at_load(text: str, code: str) -> None:
    assert code in [found.code for found in findings(text) if found.severity == "error"]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_form_binds_a_reserved_name(name: str) -> None:
    for text in (f"(defvar {name} 1)", f"(def {name} () 1)", f"(def f ({name}) 1)", f"(let (({name} 1)) 1)", f"(with Guests {name} 1)"):
        assert [found.code for found in findings(text)] == ["form"], text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Host.ksm_run", "not-collected"),
        ("(with Guests g g.rss)", "not-collected"),
        ("(Host.Control 'ksm_rum' 1)", "unknown-control"),
        ("(defvar on 1) (set on 0)", "parameter"),
    ],
)
def test_a_warning_lets_the_policy_load(text: str, code: str) -> None:
    loaded = load({"a": text}, Schema(HOST, GUEST))
    assert loaded.program is not None
    assert [(found.severity, found.code) for found in loaded.diagnostics] == [("warning", code)]


def test_setting_a_local_of_a_parameter_s_name_is_no_warning() -> None:
    assert findings("(defvar on 1) (def f (on) (set on 0)) (let ((on 1)) (set on 2))") == []


def test_hints_give_the_nearest_name() -> None:
    assert findings("(defvar threshold 1) treshold")[0].hint == "did you mean 'threshold'?"
    assert findings("Host.mem_fre")[0].hint == "did you mean 'mem_free'?"
    assert findings("(defvaar a 1)")[0].hint == "did you mean 'defvar'?"


def test_a_name_that_any_fragment_binds_is_known() -> None:
    texts = {"10_a": "(def f () later)", "20_b": "(let ((later 1)) (f))"}
    assert load(texts, Schema(HOST, GUEST)).program is not None


def test_members_of_disks_are_known_names() -> None:
    text = "(def f (tune) (tune.setTotalBytesSec tune.maximum.total_bytes_sec))"
    assert findings(text) == []


def test_a_finding_is_one_line_of_bounded_length() -> None:
    for found in findings("(x" + "y" * 100_000 + ") a" + "b" * 100_000):
        assert len(str(found)) < 300
        assert "\n" not in str(found)


def test_every_form_and_method_has_code() -> None:
    compiled = set(Compiler.SPECIAL) | set(BINARY) | set(VARIADIC)
    assert compiled == {form.name for form in FORMS.values()}
    assert set(METHOD_CODE) == {*METHODS, *TUNE_SETTERS}
