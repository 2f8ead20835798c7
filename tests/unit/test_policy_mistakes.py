# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that loading tells points at the right place, however many mistakes there are."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, excerpt, load
from momservice.policy.diagnostics import CODES

DATA = Path(__file__).parent.parent / "data"
KNOWN = json.loads((DATA / "names.json").read_text())


def names(kind: str, *declared: str) -> Names:
    known = KNOWN[kind]
    return Names(frozenset(declared), frozenset(known["fields"]), frozenset(known["controls"]), frozenset(known["properties"]))


SCHEMA = Schema(names("host", "mem_free", "mem_available", "ksm_run"), names("guest", "balloon_cur", "balloon_max", "mem_unused"))
# Line, column, severity, code, the text that is pointed at, and what the message or the hint says.
MISTAKES = [
    (4, 15, "error", "parse", "1_000", "not a number"),
    (5, 9, "error", "form", "Guests", "reserved"),
    (6, 15, "error", "form", "x)", "occurs twice"),
    (10, 3, "error", "arity", "if", "3 arguments, not 2"),
    (11, 56, "error", "name", "pressure_treshold", "did you mean 'pressure_threshold'?"),
    (17, 21, "error", "arity", "shrink", "2 arguments, not 1"),
    (18, 15, "warning", "unknown-control", '"ksm_rum"', "did you mean 'ksm_run'?"),
    (19, 29, "warning", "wrong-entity", '"ksm_run"', "a control of the host"),
    (20, 8, "error", "name", "Host.mem_fre", "did you mean 'mem_free'?"),
    (22, 26, "error", "parse", ",", "separated by space"),
    (24, 15, "error", "value", "0xFFFF", "256 bits"),
    (25, 28, "error", "unknown-field", '"mem_unusd"', "did you mean 'mem_unused'?"),
    (26, 9, "warning", "no-effect", "pressure_threshold", "already defined"),
    (27, 6, "warning", "parameter", "pressure_threshold", "wins over the parameter"),
    (28, 28, "warning", "mixed-types", '"high"', "always false"),
    (29, 24, "warning", "unreachable", '(debug "never")', "always true"),
    (30, 4, "warning", "always-fails", '"10"', "takes a number"),
    (31, 8, "error", "form", "Host.Stat", "not called"),
    (32, 2, "error", "name", "shirnk", "did you mean 'shrink'?"),
    (33, 19, "error", "unknown-prop", '"name"', "unknown property"),
    (33, 31, "error", "parse", ")", "closes nothing"),
    (34, 32, "error", "parse", "]", "'(' in line 34, column 1 is still open"),
    (35, 1, "error", "parse", "(let", "never closed"),
    (36, 6, "error", "name", "Host.ksm_run", "dotted name"),
]


def test_two_dozen_mistakes_are_told_in_one_pass_each_at_its_place() -> None:
    text = (DATA / "mistakes.policy").read_text()
    found = load({"a": text}, SCHEMA).diagnostics
    assert [(each.place.line, each.place.column, each.severity, each.code) for each in found] == [mistake[:4] for mistake in MISTAKES]
    for each, (line, column, _, _, pointed, said) in zip(found, MISTAKES, strict=True):
        assert text.split("\n")[line - 1][column - 1 :].startswith(pointed)
        assert said in f"{each.message} {each.hint}"


# For each code that a short text can have: a policy, and what of it is pointed at (its first occurrence after "@").
POINTED = [
    ("parse", "(debug @12b)", "12b"),
    ("parse", "(debug @?)", "?"),
    ("parse", "(debug @a..b)", "a..b"),
    ("parse", "@'open", "'open"),
    ("parse", "(+ 1 2@]", "]"),
    ("parse", "@(+ 1 2", "("),
    ("too-deep", "(" * 200 + "@(" + ")" * 201, "("),
    ("value", f"(debug @{2**256})", "1157"),
    ("form", "@()", "()"),
    ("form", "(@1 2)", "1"),
    ("form", "(defvar @abs 1)", "abs"),
    ("form", "(defvar @a.b 1)", "a.b"),
    ("form", "(defvar @'a' 1)", "'a'"),
    ("form", "(set @+ 1)", "+"),
    ("form", "(let @x 1)", "x"),
    ("form", "(let (@(x)) x)", "(x)"),
    ("form", "(let ((a 1) (@a 2)) a)", "a 2"),
    ("form", "(def f @a 1)", "a 1"),
    ("form", "(def f (a b @a) a)", "a)"),
    ("form", "(def @f.g () 1)", "f.g"),
    ("form", "(with @(f) g 1) (def f () Guests)", "(f)"),
    ("form", "(with Guests @nil 1)", "nil"),
    ("form", "(debug @+)", "+"),
    ("form", "(debug @Host.Stat)", "Host.Stat"),
    ("name", "(debug @nowhere)", "nowhere"),
    ("name", "(debug @abs)", "abs"),
    ("name", "(@nowhere 1)", "nowhere"),
    ("name", "(defvar a 1) (@a 1)", "a 1"),
    ("name", "(debug @Host.nowhere)", "Host"),
    ("name", "(debug @Host.mem_free.nowhere)", "Host"),
    ("name", "(debug @Guests.first)", "Guests"),
    ("name", "(@Host.Nowhere)", "Host"),
    ("name", "(set @Host.mem_free 1)", "Host"),
    ("name", "(set @nowhere 1)", "nowhere"),
    ("arity", "(@if 1 2)", "if"),
    ("arity", "(if Guests 2 3 @4 5)", "4"),
    ("arity", "(def f (a) a) (@f)", "f)"),
    ("arity", "(def f (a) a) (f 1 @2)", "2"),
    ("arity", "(@Host.Stat)", "Host"),
    ("arity", "(Host.Stat 'mem_free' 0 @(+ 1 2))", "(+"),
    ("unknown-field", "(Host.Stat @'nowhere')", "'nowhere'"),
    ("unknown-prop", "(Host.Prop @'nowhere')", "'nowhere'"),
    ("not-collected", "(debug @Host.swap_total)", "Host"),
    ("not-collected", "(Host.Stat @'swap_total')", "'swap_total'"),
    ("unknown-control", "(Host.Control @'nowhere' 1)", "'nowhere'"),
    ("wrong-entity", "(Host.Control @'balloon_target' 1)", "'balloon_target'"),
    ("wrong-entity", "(with Guests g (debug @g.ksm_run))", "g.ksm_run"),
    ("parameter", "(defvar a 1) (set @a 2)", "a 2"),
    ("no-effect", "(defvar a 1) (defvar @a 2)", "a 2"),
    ("unreachable", "(if nil @(f) 2) (def f () 1)", "(f)"),
    ("unreachable", "(or 0 5 @6)", "6"),
    ("mixed-types", "(== 1 @'1')", "'1'"),
    ("always-fails", "(/ 1 @0)", "0"),
]


@pytest.mark.parametrize(
    "before", ["", "\n\t", "#\r\n\t\u00a0 ", "'大きい' 'e\u0301' ", "1 " * 200], ids=["first", "tab", "space", "wide", "far"]
)
@pytest.mark.parametrize(("code", "marked", "pointed"), POINTED, ids=[f"{code} {marked[:30]}" for code, marked, _ in POINTED])
def test_the_caret_stands_below_what_is_wrong(code: str, marked: str, pointed: str, before: str) -> None:
    text = before + marked.replace("@", "", 1)
    found = load({"a": text}, SCHEMA).diagnostics
    assert [each.code for each in found] == [code]
    place = found[0].place
    offset = sum(len(line) + 1 for line in text.split("\n")[: place.line - 1]) + place.column - 1
    assert offset == len(before) + marked.index("@")
    assert below_caret(found[0], text).startswith(pointed[:1])
    assert text[offset:].startswith(pointed)


def below_caret(found: Diagnostic, text: str) -> str:
    """What the caret of an excerpt stands below, column by column as a terminal shows it."""
    line, caret = excerpt(found, text).split("\n")
    columns: list[str] = []
    for index, character in enumerate(line):
        width = 0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        columns.extend([line[index:]] * width)
    assert len(columns) <= 100
    return columns[len(caret) - 1]


def test_every_code_of_loading_is_pointed_at() -> None:
    # The text as a whole is what is too long.
    assert {code.name for code in CODES.values() if code.load} - {code for code, _, _ in POINTED} == {"limit"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("(defvar threshold 1) (debug treshold)", "did you mean 'threshold'?"),
        ("(defvar threshold 1) (set threshhold 2)", "did you mean 'threshold'?"),
        ("(def shrink () 1) (shirnk)", "did you mean 'shrink'?"),
        ("(defvaar a 1)", "did you mean 'defvar'?"),
        ("(fi Guests 1 2)", "did you mean 'if'?"),
        ("Host.mem_fre", "did you mean 'mem_free'?"),
        ("(Host.Stats 'mem_free')", "did you mean 'Stat'?"),
        ("(Host.StatAvg 'mem_avaliable')", "did you mean 'mem_available'?"),
        ("(Host.Prop 'intervall')", "did you mean 'interval'?"),
        ("(Host.Control 'ksm_runs' 1)", "did you mean 'ksm_run'?"),
        ("(with Guests g (g.Control 'baloon_target' 1))", "did you mean 'balloon_target'?"),
        ("(with Guests g (with g.io_tune d (d.setTotalBytesSecs 1)))", "did you mean 'setTotalBytesSec'?"),
        ("(with Guests g (with g.io_tune d (debug d.maximun)))", "did you mean 'maximum'?"),
        ("(debug Hots)", "did you mean 'Host'?"),
        ("(debug completely_different)", ""),
    ],
)
def test_a_hint_gives_the_nearest_name(text: str, hint: str) -> None:
    found = [each for each in load({"a": text}, SCHEMA).diagnostics if each.code != "not-collected"]
    assert [each.hint for each in found] == [hint]


def test_an_excerpt_of_wide_text_is_no_wider_than_a_terminal() -> None:
    text = "'" + "大" * 200 + "' ? '" + "大" * 200 + "'"
    found = load({"a": text}, SCHEMA).diagnostics[0]
    assert below_caret(found, text).startswith("?")
