# SPDX-License-Identifier: GPL-2.0-or-later
"""What loading finds without running anything, and the hints it gives."""

from __future__ import annotations

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, kinds, load
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


@pytest.mark.parametrize("text", ["(defvr a 1)", "(dfe a (b) (+ b 1))", "(wiht Guests a a)", "(lett ((a 1)) a)"])
def test_a_misspelled_form_is_one_finding_whatever_it_binds(text: str) -> None:
    assert [(found.code, found.place.column) for found in findings(f"{text} (debug a) (set a 1)")] == [("name", 2)]
    assert [found.message for found in findings(f"{text} (debug zz)")][1:] == ["unknown variable 'zz'"]


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


# --- warnings of what is certain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Controls, fields and properties of the other kind of entity.
        ("(Host.Control 'balloon_target' 1)", ["wrong-entity 1:15"]),
        ("(Host.GetControl 'balloon_target')", ["wrong-entity 1:18"]),
        ("(with Guests g (g.Control 'ksm_run' 1))", ["wrong-entity 1:27"]),
        ("(with Guests g (g.Stat 'mem_free'))", ["wrong-entity 1:24"]),
        ("(with Guests g (g.Prop 'interval'))", ["wrong-entity 1:24"]),
        ("(with Guests g g.mem_free)", ["wrong-entity 1:16"]),
        ("(def f (x) (x.Control 'ksm_run' 1)) (with Guests g (f g))", ["wrong-entity 1:23"]),
        ("(def f (x) (x.Control 'ksm_run' 1)) (def h (y) (f y)) (with Guests g (h g))", ["wrong-entity 1:23"]),
        ("(defvar h Host) (h.Control 'balloon_target' 1)", ["wrong-entity 1:28"]),
        # Not certain: the name has other values too, or may have.
        ("(def f (x) (x.Control 'ksm_run' 1)) (with Guests g (f g)) (f Host)", []),
        ("(def f (x) (x.Control 'ksm_run' 1))", []),
        ("(with Guests g (if (valid g) (set g Host) (g.Control 'ksm_run' 1)))", []),
        ("(with Guests g {(let ((g Host)) (g.Control 'ksm_run' 1)) 1})", []),
        ("(let ((list Guests)) (with list g (g.Control 'ksm_run' 1)))", []),
        # Definitions that come too late.
        ("(defvar a 1) (defvar a 2)", ["no-effect 1:22"]),
        ("(defvar a 1) (defvar b a) {(defvar b 2)}", ["no-effect 1:36"]),
        ("(defvar a 1) (if a (defvar a 2) (defvar a 3))", ["no-effect 1:28", "no-effect 1:41"]),
        ("(def f (x) {(defvar x 1)})", ["no-effect 1:21"]),
        ("(let ((x 1)) (defvar x 2))", ["no-effect 1:22"]),
        ("(with Guests x (defvar x 2))", ["no-effect 1:24"]),
        # Not certain: what may fail defines nothing; another scope is another variable; the same value again is meant.
        ("(defvar a (Host.StatAvg 'mem_free')) (defvar a 2)", []),
        ("(defvar a (+ 1 1)) (defvar a 2)", []),
        ("(if (valid Host.mem_free) (defvar a 1) 0) (defvar a 2)", []),
        ("(defvar a 1) (def f () (defvar a 2))", []),
        ("(defvar b (if Host.mem_free (defvar a 1) 2)) (defvar a 2)", []),
        ("(defvar a 1) (let ((b 1)) (defvar a 2))", []),
        ("(def f () (defvar a 1)) (defvar a 2)", []),
        ("(defvar a 1) (defvar a 1)", []),
        ("(defvar True 1) (defvar a True) (defvar a True)", []),
        # What is never evaluated.
        ("(if 1 2 3)", ["unreachable 1:9"]),
        ("(if '' 2 3)", ["unreachable 1:8"]),
        ("(or 0 'x' Host 1)", ["unreachable 1:11"]),
        ("(and 1 nil Host)", ["unreachable 1:12"]),
        ("(defvar on 1) (if on 2 3) (or on 0) (or 0 1) (and 1 0)", []),
        # Comparisons of values of different types.
        ("(== 1 '1') (!= nil 0) (== 1 1.0)", ["mixed-types 1:7", "mixed-types 1:20"]),
        ("(defvar mode 'fast') (== mode 1)", ["mixed-types 1:31"]),
        ("(defvar mode 'fast') (set mode 'slow') (== mode 1)", ["parameter 1:27", "mixed-types 1:49"]),
        ("(def f (mode) (== mode 1)) (f 'a') (f 'b')", ["mixed-types 1:24"]),
        ("(with Guests g (== g Host))", ["mixed-types 1:22"]),
        ("(== (not 1) 'true')", ["mixed-types 1:13"]),
        ("(defvar mode nil) (== mode 1) (== mode 'a')", []),
        ("(def f (mode) (== mode 1)) (f 'a') (f 2)", []),
        ("(== Host.mem_free 'a') (== (Host.GetVar 'a') nil) (== (+ 1 2) 'a')", []),
        ("(== (if (valid Host.mem_free) 1 'a') 'b') (== (or 0 'a') 'b')", []),
        # What always fails.
        ("(< 1 'a')", ["always-fails 1:6"]),
        ("(+ 1 nil)", ["always-fails 1:6"]),
        ("(+ 'a' 1)", ["always-fails 1:8"]),
        ("(* 'a' 1)", ["always-fails 1:4"]),
        ("(abs nil)", ["always-fails 1:6"]),
        ("(min 1 2 'a')", ["always-fails 1:10"]),
        ("(/ 1 0.0)", ["always-fails 1:6"]),
        ("(<< 1 256) (>> 1 -1) (<< 1 1.5)", ["always-fails 1:7", "always-fails 1:18", "always-fails 1:28"]),
        ("(defvar a 1) (with a b b)", ["always-fails 1:20"]),
        ("(defvar a 1) (a.Control 'ksm_run' 1)", ["always-fails 1:15"]),
        ("(defvar a 1) (debug a.mem_free)", ["always-fails 1:21"]),
        ("(with Guests g g.name)", ["always-fails 1:16"]),
        ("(+ 1 Host.mem_free) (< 'a' 'b') (/ 0 1) (<< 1 255) (max 'a' 'b') (+ 'a' 'b') (with Guests g (+ g.mem_unused 1))", []),
        ("(def f (x) (+ x 1)) (def f (y) (f 'a'))", ["always-fails 1:17"]),
    ],
)
def test_what_is_certain_is_warned_of_and_nothing_else(text: str, expected: list[str]) -> None:
    loaded = load({"a": text}, Schema(HOST, GUEST))
    assert loaded.program is not None, loaded.diagnostics
    assert [f"{found.code} {found.place.line}:{found.place.column}" for found in loaded.diagnostics] == expected


def test_a_definition_comes_too_late_in_a_later_fragment_only() -> None:
    found = load({"20": "(defvar a 2)", "10": "(defvar a 1)", "05": "(def f () a)"}, Schema(HOST, GUEST)).diagnostics
    assert [(each.code, str(each.place)) for each in found] == [("no-effect", "20:1:9")]


def test_a_name_that_may_be_bound_in_what_can_t_be_read_is_not_certain() -> None:
    texts = [
        "(with Guests g (g.Control 'ksm_run' 1))",
        "(def f (g) 1)",
        "(defvar mode 'a') (== mode 1)",
        "(f 12b) (set mode 1) (set g Host)",
    ]
    assert {found.code for found in findings(" ".join(texts))} == {"parse", "parameter"}
    # A function whose calls can't all be read may be called with anything.
    assert {found.code for found in findings("(def f (x) (x.Control 'ksm_run' 1)) (with Guests g (f g)) (f 12b)")} == {"parse"}


def test_a_hundred_thousand_forms_are_checked_by_work_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = []
    for forms in (1000, 100_000):
        calls = 0

        def counted(*arguments: object, original: object = kinds._parts) -> object:
            nonlocal calls
            calls += 1
            return original(*arguments)  # type: ignore[operator]  # the function that is counted

        with monkeypatch.context() as patched:
            patched.setattr(kinds, "_parts", counted)
            text = "(def f (a) (+ a 1))" * (forms // 2) + "(f 1)" * (forms // 2)
            assert load({"a": text}, Schema(HOST, GUEST), 1 << 24).program is not None
        worked.append(calls)
    assert worked[1] <= 100 * worked[0]
