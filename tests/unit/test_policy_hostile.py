# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies meant to break the service: each must end in a diagnostic or a failure, never in an exception or an endless run."""

from __future__ import annotations

import sys

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Decisions, evaluate, load
from momservice.policy.state import State
from momservice.snapshot import Entity, Sample, Snapshot

FIELDS = frozenset({"mem", "disks"})
NAMES = Names(FIELDS, FIELDS, frozenset(), frozenset())
LARGE = 10_000_000


def load_codes(text: str, limit_bytes: int = 64 * LARGE) -> list[str]:
    return [found.code for found in load({"a": text}, Schema(NAMES, NAMES), limit_bytes).diagnostics]


def run(text: str, guests: int = 50, *, trace: bool = False) -> Decisions:
    loaded = load({"a": text}, Schema(NAMES, NAMES))
    assert loaded.program is not None, loaded.diagnostics
    world = Snapshot(guests=[Entity(f"g{number}", [{"mem": number}]) for number in range(guests)])
    return evaluate(loaded.program, world, trace=trace)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("1" * LARGE, ["value"]),
        ("-" + "1" * LARGE, ["value"]),
        ("0x" + "f" * LARGE, ["value"]),
        ("0o" + "7" * LARGE, ["value"]),
        ("1." + "1" * LARGE, []),
        ("1e" + "1" * LARGE, []),
        ("1." + "1" * LARGE + "_", ["parse"]),
        ("1.0e" + "1" * LARGE + "_", ["parse"]),
        ("'" + "a" * LARGE, ["parse"]),
        ("'" + "\\a" * (LARGE // 10), ["parse"]),
        ("'" + "a" * LARGE + "'", ["value"]),
        ("a" * LARGE, ["name"]),
        ("a" + ".a" * (LARGE // 2), ["name"]),
        ("#" * LARGE, []),
        (" " * LARGE, []),
        ("(" * LARGE, ["too-deep"]),
    ],
    ids=lambda value: value[:6] if isinstance(value, str) else None,
)
def test_ten_million_characters_cost_no_more_than_their_number(text: str, codes: list[str]) -> None:
    assert load_codes(text) == codes


def test_text_beyond_the_limit_is_not_read() -> None:
    assert load_codes("(" * LARGE, 1024 * 1024) == ["limit"]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("(+ 1 ", ")"), ("{", "}"), ("(if 1 ", " 2)"), ("(and 1 ", ")"), ("(with Guests g ", ")"), ("(max ", ")"), ("(f ", ")")],
)
def test_the_deepest_nesting_compiles_and_runs_far_from_python_s_limit(opening: str, closing: str) -> None:
    text = "(def f (a) a)" + opening * 200 + "1" + closing * 200
    limit = sys.getrecursionlimit()
    frames = 0
    frame = sys._getframe()
    while frame is not None:
        frames, frame = frames + 1, frame.f_back  # type: ignore[assignment]  # None ends the loop
    sys.setrecursionlimit(frames + 500)
    try:
        loaded = load({"a": text}, Schema(NAMES, NAMES))
        assert loaded.program is not None
        assert evaluate(loaded.program, Snapshot(guests=[Entity("g", [{}])])).results[-1] is not None
    finally:
        sys.setrecursionlimit(limit)


def test_calls_times_nesting_stay_far_from_python_s_limit() -> None:
    body = "(+ 0 " * 190 + "(if (== n 1) 0 (f (- n 1)))" + ")" * 190
    decisions = run(f"(def f (n) {body}) (f 20) (f 300)")
    assert decisions.results == ["f", 0, None]
    assert [failure.code for failure in decisions.failures] in (["limit"], ["too-deep"])


@pytest.mark.parametrize(
    "text",
    [
        "(def f (n) (if (< n 1) 1 (+ (f (- n 1)) (f (- n 1))))) (f 100)",
        "(def f () (f)) (f)",
        "(def f () {(with Guests a (f))}) (f)",
        "(def f () {(defvar l Guests) (with l a (with l b (with l c (with l d 1))))}) (f)",
        "(defvar s 'aaaaaaaaaaaaaaaa') (def f (n) (if (== n 0) s {(set s (+ s s)) (f (- n 1))})) (f 100)",
        "(defvar l Guests) (def f (n) (if (== n 0) l {(set l (+ l l)) (f (- n 1))})) (f 100)",
        "(defvar l Guests) (def f (n) (if (== n 0) l {(set l (with Guests g l)) (f (- n 1))})) (f 100)",
        "(defvar l nil) (def f (n) (if (== n 0) l {(let ((w (with Guests g l))) (set l w)) (f (- n 1))})) (f 100)",
    ],
)
def test_growth_without_end_fails(text: str) -> None:
    decisions = run(text)
    assert {failure.code for failure in decisions.failures} <= {"limit", "too-deep", "value"}
    assert decisions.failures


def test_lists_that_share_their_insides_compare_within_the_budget() -> None:
    double = "(set a (with pair x a)) (set b (with pair x b))"
    text = "(defvar pair (with Guests g 1)) (defvar a pair) (defvar b (with pair x 1))" + double * 40 + "(== a b)"
    decisions = run(text, guests=2)
    assert decisions.failures
    assert {failure.code for failure in decisions.failures} <= {"limit", "value"}


def test_kept_variables_are_limited_in_number() -> None:
    decisions = run("".join(f"(Host.SetVar 'v{number}' 1)" for number in range(1001)))
    assert len(decisions.variables["host"]) == 1000
    assert [failure.code for failure in decisions.failures] == ["limit"]


SIZE = 400


def steps_of(expression: str, size: int) -> int:
    names = Names(FIELDS, FIELDS, frozenset(), frozenset({"list"}))
    loaded = load({"a": f"(with Guests g {{{expression} 0}})"}, Schema(names, names))
    assert loaded.program is not None, loaded.diagnostics
    many = list(range(size))
    samples: list[Sample] = [{}] * size + [{"mem": 1, "disks": many}]
    guest = Entity("g", samples, {"list": many}, {"list": many, "text": "x" * 16 * size, "more": "x" * 16 * size})
    # Counted exactly: the compiled form tells a bound.
    decisions = evaluate(loaded.program, Snapshot(guests=[guest]), trace=True)
    assert not decisions.failures
    return decisions.steps


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("1", 0),
        ("g.disks", 1),
        ("(g.Stat 'disks')", 1),
        ("(g.StatAvg 'mem')", 1 / 4),
        ("(g.Prop 'list')", 1),
        ("(g.GetVar 'list')", 1),
        ("(g.GetVar 'text')", 1),
        # Read, set, and an eighth of each of the four that are kept then.
        ("(g.SetVar 'v' (g.GetVar 'list'))", 2 + 4 / 4),
        ("(g.Control 'c' (g.GetVar 'list'))", 2),
        ("(g.Control 'c' (g.GetVar 'list')) (g.GetControl 'c')", 3),
        ("(== (g.GetVar 'list') (g.Prop 'list'))", 4),
        ("(+ (g.GetVar 'text') 'x')", 2),
        ("(+ (g.GetVar 'list') (g.Prop 'list'))", 4),
        ("(< (g.GetVar 'text') (g.GetVar 'more'))", 4),
        ("(max (g.GetVar 'text') (g.GetVar 'more') 'x')", 4),
        ("(null (g.GetVar 'list'))", 2),
        ("(with Guests h (g.GetVar 'list'))", 2),
    ],
)
def test_every_operation_is_charged_for_the_size_of_what_it_walks(expression: str, times: float) -> None:
    assert steps_of(expression, SIZE) - steps_of(expression, 0) == times * SIZE


def test_a_kept_list_cannot_be_read_for_nothing() -> None:
    loaded = load({"a": "{(Host.GetVar 'l') 0}" * 49_000}, Schema(NAMES, NAMES))
    assert loaded.program is not None
    decisions = evaluate(loaded.program, Snapshot(Entity("host", variables={"l": list(range(3072))})))
    assert decisions.ended
    assert len(decisions.results) < 1700


# The compiled form keeps a journal of such rounds where it can't know before the run what the list holds.
@pytest.mark.parametrize(("items", "trace"), [("Guests", True), ("l", False)])
def test_a_long_journal_is_not_gone_through_after_every_round(items: str, trace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_through = 0
    shorten = State._shorten

    def counting(state: State) -> None:
        nonlocal gone_through
        gone_through += len(state.journal)
        shorten(state)

    monkeypatch.setattr(State, "_shorten", counting)
    writes = "".join(f"(g.Control 'c{number}' 1)" for number in range(200))
    decisions = run(f"(defvar l Guests) (with {items} g {{{writes}}})", guests=300, trace=trace)
    assert decisions.abandoned == ""
    assert len(decisions.controls) == 60_000
    assert 0 < gone_through < 4 * 60_000


ODD = ["\x00", "\ud800", "\u2028", "\ufeff1", "'\\", "\\", "(\x0b", "\U0010ffff", "-", "-.", ".5.", "0x", "0o", "a.", "((((]"]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_diagnosed(text: str) -> None:
    loaded = load({"a": text, "b\n": text}, Schema(NAMES, NAMES))
    assert (loaded.program is None) == (text != "\u2028")


def test_a_thousand_mistakes_make_a_hundred_findings() -> None:
    assert len(load_codes("nope " * 100_000)) == 100
