# SPDX-License-Identifier: GPL-2.0-or-later
"""The limits of a run, each at the limit and beyond it, by both evaluators; and what the greediest policies take of steps and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Decisions, evaluate, load, machine
from momservice.policy.compiled import run as compiled_run
from momservice.policy.members import KEPT, KEPT_SIZE, NAME
from momservice.policy.state import CALL_DEPTH, DEBUG_LINES, FORM_STEPS, ROUND_STEPS, RUN_COUNTED, RUN_STEPS, RUN_WORK
from momservice.policy.values import LIST_DEPTH, LIST_VALUES, STRING_BYTES, PolicyError, inward
from momservice.snapshot import HOST, Entity, Snapshot, Value

FIELDS: Final = frozenset({"mem", "list"})
NAMES: Final = Names(FIELDS, FIELDS, frozenset({"t"}), frozenset({"big"}))
SCHEMA: Final = Schema(NAMES, NAMES)
TOP: Final = 1 << 255
LARGEST: Final = 2 * TOP - 1
MIB: Final = 1 << 20


@pytest.fixture(params=[False, True], ids=["plain", "traced"])
def trace(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def run(text: str, trace: bool, guests: int = 3, *, host: Mapping[str, Value] | None = None, big: Value = None) -> Decisions:
    loaded = load({"a": text}, SCHEMA)
    assert loaded.program is not None, loaded.diagnostics
    members = [Entity(f"g{number:04}", [{"mem": number}]) for number in range(guests)]
    return evaluate(loaded.program, Snapshot(Entity(HOST, [host or {}], {"big": big}), members), trace=trace)


def told(decisions: Decisions) -> list[tuple[str, int, str | None]]:
    return [(failure.code, failure.form, failure.entity) for failure in decisions.failures]


# --- steps -------------------------------------------------------------------------------------------------------------------------------


def filler(steps: int) -> str:
    """Values of a block that take so many steps: a literal and the dropping of it take two, with a `not` three."""
    return "0 " * ((steps - 3 * (steps % 2)) // 2) + "(not 0) " * (steps % 2)


def test_a_form_takes_its_steps_and_not_one_more(trace: bool) -> None:
    # The last value isn't dropped, but the end of the form is a step too.
    assert told(run(f"{{{filler(FORM_STEPS)}}} 1", trace)) == []
    beyond = run(f"{{{filler(FORM_STEPS + 1)}}} 1", trace)
    assert (told(beyond), beyond.results) == ([("limit", 0, None)], [None, 1])
    assert beyond.failures[0].message == f"more than {FORM_STEPS} steps in one form"


def test_a_round_takes_its_steps_and_not_one_more(trace: bool) -> None:
    # To begin and to end a round takes a step each; the last value isn't dropped.
    within, beyond = (run(f"(with Guests g {{{filler(ROUND_STEPS - 1 + more)}}}) 1", trace) for more in (0, 1))
    assert told(within) == []
    assert told(beyond) == [("limit", 0, guest) for guest in ("g0000", "g0001", "g0002")]
    assert beyond.results == [[None, None, None], 1]


def test_a_loop_over_many_guests_takes_no_more_of_its_form_than_one_over_few(trace: bool) -> None:
    text = f"{{{filler(FORM_STEPS - 40)} (with Guests g g.mem)}}"
    assert [told(run(text, trace, guests)) for guests in (1, 3000)] == [[], []]


SPEND: Final = "(def spend (n) (if (< n 1) 0 (spend (- n 1))))"


def spending(steps: int) -> str:
    """A form that takes so many steps, in less text: a call of `spend` takes 11, and 10 for each of its own, with its dropping."""
    calls, left = divmod(steps, 1511)
    return f"{{{'(spend 150)' * calls}{filler(left)}}}"


def test_the_run_takes_its_steps_and_not_one_more(trace: bool) -> None:
    # Two steps go to the definition and the end of its form.
    forms, last = divmod(RUN_STEPS - 2, FORM_STEPS)
    text = "(Host.Control 't' 1) (Host.SetVar 'v' 1)"
    # The two forms before: entity, method, name, value, call, end.
    cost = run(text, True).steps
    within, beyond = (run(text + SPEND + spending(FORM_STEPS) * forms + spending(last - cost + more), trace) for more in (0, 1))
    assert (within.ended, told(within), [w.value for w in within.controls]) == (False, [], [1])
    assert within.variables == {HOST: {"v": 1}}
    assert (beyond.ended, told(beyond)) == (True, [("limit", forms + 3, None)])
    assert (beyond.controls, beyond.variables, len(beyond.results)) == ((), {}, forms + 3)


# --- what the compiled form may take --------------------------------------------------------------------------------------------------

KNOWN: Final = "(defvar t 0) (with Guests g {(set t (+ t g.mem)) (g.Control 't' t)}) t"
UNKNOWN: Final = "(def f (n) (if (< n 1) 0 (+ 1 (f (- n 1))))) (with Guests g (g.Control 't' (f 5))) (f 7)"


def abandons(text: str, budget: str, steps: int, patch: pytest.MonkeyPatch) -> bool:
    """Whether the compiled form leaves a run to the other evaluator with another budget. What is decided is the same."""
    usual = run(text, False)
    patch.setattr(compiled_run, budget, steps)
    plain, traced = (run(text, traced) for traced in (False, True))
    assert (plain.abandoned, traced.abandoned) in {("", ""), ("limit", "limit")}
    for decisions in (plain, traced):
        controls = [wanted._replace(reads=()) for wanted in decisions.controls]
        assert (controls, decisions.results, decisions.failures) == ([*usual.controls], usual.results, [])
    return plain.abandoned == "limit"


def test_a_run_that_may_take_too_much_is_counted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = run(KNOWN, False).steps
    assert not abandons(KNOWN, "RUN_WORK", steps, monkeypatch)
    assert abandons(KNOWN, "RUN_WORK", steps - 1, monkeypatch)


def test_a_run_whose_calls_take_too_much_is_counted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not abandons(KNOWN, "RUN_COUNTED", 0, monkeypatch)
    least = next(steps for steps in range(RUN_COUNTED) if not abandons(UNKNOWN, "RUN_COUNTED", steps, monkeypatch))
    # Bodies that are called 26 times take more than a step each.
    assert least > 26


def test_a_run_that_the_compiled_form_can_finish_doesn_t_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RUN_STEPS", 20)
    assert [run(KNOWN, traced).ended for traced in (False, True)] == [False, False]
    monkeypatch.setattr(compiled_run, "RUN_WORK", 20)
    assert [run(KNOWN, traced).ended for traced in (False, True)] == [True, True]


# --- calls -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["(def f (n) (if (< n 2) n (f (- n 1)))) (f %d)", "(def f (n) (let ((m n)) (if (< m 2) m {(f (- m 1))}))) (f %d)"]
)
def test_calls_go_so_deep_and_no_deeper(text: str, trace: bool) -> None:
    assert run(text % CALL_DEPTH, trace).results == ["f", 1]
    beyond = run(text % (CALL_DEPTH + 1), trace)
    assert (told(beyond), beyond.results, len(beyond.failures[0].calls)) == ([("too-deep", 1, None)], ["f", None], 10)


def test_calls_that_go_too_deep_in_a_round_drop_its_guest(trace: bool) -> None:
    decisions = run(f"(def f (n) (if (< n 2) n (f (- n 1)))) (with Guests g (f (if (== g.mem 1) {CALL_DEPTH + 1} 140)))", trace)
    assert (told(decisions), decisions.results[1]) == ([("too-deep", 1, "g0001")], [1, None, 1])


# --- integers and shifts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (f"(+ {LARGEST - 1} 1)", LARGEST),
        (f"(+ {LARGEST} 1)", None),
        (f"(+ {LARGEST} 1.0)", float(LARGEST) + 1.0),
        (f"(- -{LARGEST - 1} 1)", -LARGEST),
        (f"(- -{LARGEST} 1)", None),
        (f"(* {1 << 128} {1 << 127})", TOP),
        (f"(* {1 << 128} {1 << 128})", None),
        (f"(* {1 << 128} -{1 << 128})", None),
        (f"(abs -{LARGEST})", LARGEST),
        (f"(max {LARGEST} 1)", LARGEST),
        ("(<< 1 255)", TOP),
        ("(<< 1 256)", None),
        ("(<< 2 255)", None),
        ("(<< 0 255)", 0),
        ("(<< 0 256)", None),
        ("(<< -1 255)", -TOP),
        (f"(>> {LARGEST} 255)", 1),
        (f"(>> {LARGEST} 256)", None),
        ("(>> 1 -1)", None),
        ("(>> -1 255)", -1),
    ],
)
def test_integers_have_256_bits_and_shifts_go_to_255(text: str, result: Value, trace: bool) -> None:
    # Through a function as well, where nothing is known of the operands before the run.
    form, *operands = text.strip("()").split(" ", 2)
    dynamic = f"(def op (a b) ({form} a{' b' * (len(operands) - 1)})) (op {operands[0]} {operands[-1]})"
    for decisions in (run(text, trace), run(dynamic, trace)):
        assert (decisions.results[-1], type(decisions.results[-1])) == (result, type(result))
        assert [failure.code for failure in decisions.failures] == ([] if result is not None else ["value"])


def test_integers_that_grow_in_a_loop_end_at_256_bits(trace: bool) -> None:
    grow = "(defvar n 3) (def f (k) (if (< k 1) n {(set n (* n n)) (f (- k 1))})) (f 7) (f 1)"
    decisions = run(grow, trace)
    assert decisions.results[2:] == [3**128, None]
    assert told(decisions) == [("value", 3, None)]


def test_an_integer_of_the_snapshot_has_the_same_limit(trace: bool) -> None:
    assert run("Host.mem", trace, host={"mem": LARGEST}).results == [LARGEST]
    beyond = run("Host.mem (with Guests g g.mem)", trace, host={"mem": LARGEST + 1})
    assert (told(beyond), beyond.results) == ([("value", 0, None)], [None, [0, 1, 2]])


# --- strings and lists -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "units"), [("x", STRING_BYTES), ("é", STRING_BYTES // 2), ("\U0001f600", STRING_BYTES // 4)])
def test_strings_have_64_kib_in_utf_8(unit: str, units: int, trace: bool) -> None:
    half = unit * (units // 2)
    text = f"(defvar s '{half}') (defvar t (+ s s)) (+ t 'x')"
    decisions = run(text, trace)
    assert decisions.results[1] == unit * units
    assert told(decisions) == [("value", 2, None)]


def test_lists_hold_so_many_values_and_no_more() -> None:
    # A list weighs what the lists in it hold, too. What forms take in they pay for, and have steps for much less.
    inner = [0] * (LIST_VALUES // 500 - 1)
    assert inward([inner] * 500)
    with pytest.raises(PolicyError, match="a list of more than 1000000 values"):
        inward([inner] * 501)


class Walked(list[Value]):
    """A list that counts its walks."""

    walks = 0

    def __iter__(self) -> Iterator[Value]:
        self.walks += 1
        return super().__iter__()


@pytest.mark.parametrize("nested", [False, True])
def test_a_list_that_a_round_has_no_steps_for_is_not_walked(nested: bool, trace: bool) -> None:
    inner = Walked([1] * (ROUND_STEPS + 1))
    within = Walked([1] * (ROUND_STEPS // 2))
    guests = [Entity(f"g{n}", [{"list": [1, value] if nested else value}]) for n, value in enumerate((inner, within, inner))]
    loaded = load({"a": "(with Guests g g.list)"}, SCHEMA)
    assert loaded.program is not None
    decisions = evaluate(loaded.program, Snapshot(guests=guests), trace=trace)
    assert told(decisions) == [("limit", 0, "g0"), ("limit", 0, "g2")]
    assert inner.walks == 0 < within.walks


def test_lists_lie_in_each_other_so_deep_and_no_deeper(trace: bool) -> None:
    text = "(defvar l (with Guests g 1)) " + "(set l (with Guests g l))" * (LIST_DEPTH - 1)
    assert told(run(text, trace, 1)) == []
    assert told(run(text + "(set l (with Guests g l))", trace, 1)) == [("value", LIST_DEPTH, None)]


# --- what is kept ------------------------------------------------------------------------------------------------------------------


def test_an_entity_keeps_so_many_variables_and_no_more(trace: bool) -> None:
    keep = "".join(f"(Host.SetVar 'v{number}' 1)" for number in range(KEPT))
    assert told(run(keep, trace)) == []
    beyond = run(keep + "(Host.SetVar 'v0' 2) (Host.SetVar 'more' 1) (Host.SetVar 'v1' 3)", trace)
    assert told(beyond) == [("limit", KEPT + 1, None)]
    assert len(beyond.variables[HOST]) == KEPT
    assert (beyond.variables[HOST]["v0"], beyond.variables[HOST]["v1"]) == (2, 3)


def test_so_many_lines_are_debugged_and_no_more(trace: bool) -> None:
    decisions = run("(with Guests g (debug g.mem))" * 3, trace, DEBUG_LINES // 2)
    assert decisions.debug == [str(number) for number in range(DEBUG_LINES // 2)] * 2
    assert told(decisions) == []


# --- greed -------------------------------------------------------------------------------------------------------------------------

RECURSION: Final = "(def f (n) (if (< n 1) 1 (+ (f (- n 1)) (f (- n 1))))) "
STRINGS: Final = "(defvar s '0123456789abcdef') (def g (n) (if (< n 1) 1 {(set s (+ s s)) (g (- n 1))})) "
LISTS: Final = "(defvar l Guests) (def h (n) (if (< n 1) 1 {(set l (+ l l)) (h (- n 1))})) "
GREEDY: Final[Mapping[str, tuple[str, str]]] = {
    "exponential recursion": (RECURSION + "(f 100) 5", "limit"),
    "exponential recursion in rounds": (RECURSION + "(with Guests a (f 100)) 5", "limit"),
    "endless recursion": ("(def e () (e)) (e) (with Guests a (e)) 5", "too-deep"),
    "loops over all guests in each other": ("(with Guests a (with Guests b (with Guests c 1))) 5", "limit"),
    "loops over kept lists of all guests": ("(defvar l Guests) (with l a (with l b (with l c 1))) 5", "limit"),
    "strings that double": (STRINGS + "(g 100) 5", "limit"),
    "strings that double in rounds": (STRINGS + "(with Guests a (g 100)) 5", "limit"),
    "lists that double": (LISTS + "(h 100) 5", "limit"),
    "lists that double in rounds": (LISTS + "(with Guests a (h 100)) 5", "limit"),
    "controls without number": ("(with Guests a {" + "".join(f"(a.Control 'c{n}' 1)" for n in range(300)) + "}) 5", ""),
    "variables without number": ("(with Guests a {" + "".join(f"(a.SetVar 'v{n}' 1)" for n in range(300)) + "}) 5", ""),
    "writes that are undone": ("(with Guests a {" + "(Host.Control 't' 1)" * 300 + "(/ 1 (- a.mem a.mem))}) 5", "zero-division"),
}


@pytest.mark.parametrize("kind", GREEDY)
def test_greed_ends_within_its_budget_of_steps(kind: str, trace: bool) -> None:
    text, code = GREEDY[kind]
    decisions = run(text, trace, 5000 if "loops" in kind else 500)
    # The compiled form tells the most that it may take of what it pays in advance.
    assert 0 < decisions.steps <= (RUN_STEPS if trace or decisions.abandoned else RUN_WORK)
    assert decisions.abandoned in {"", "limit"}
    assert {failure.code for failure in decisions.failures} <= {code, "limit", "too-deep"}
    assert code in {"", *(failure.code for failure in decisions.failures)}
    assert decisions.ended or decisions.results[-1] == 5


@pytest.mark.parametrize("kind", GREEDY)
def test_greed_takes_little_memory(kind: str) -> None:
    # Fewer guests than above: what is taken for each shows as well, and tracing memory is slow.
    text, _ = GREEDY[kind]
    loaded = load({"a": text}, SCHEMA).program
    assert loaded is not None
    snapshot = Snapshot(guests=[Entity(f"g{number:04}", [{"mem": number}]) for number in range(200)])
    evaluate(loaded, snapshot)
    tracemalloc.start()
    try:
        decisions = evaluate(loaded, snapshot)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decisions.results or decisions.ended
    assert peak < 40 * MIB


@pytest.mark.parametrize("more", [0, 1])
def test_kept_texts_are_bounded_together(more: int, trace: bool) -> None:
    half = "x" * (KEPT_SIZE * 8)
    last = "y" * 16 * (1 + more)
    text = (
        f"(Host.SetVar 'a' '{half}') (Host.SetVar 'b' '{half[16:]}') (Host.SetVar 'n' 1) (Host.SetVar 'c' '{last}') (Host.SetVar 'a' 's')"
    )
    decisions = run(text, trace)
    assert told(decisions) == ([("limit", 3, None)] if more else [])
    assert len(decisions.variables[HOST]) == 4 - more


@pytest.mark.parametrize("more", [0, 1])
def test_names_of_kept_variables_are_bounded(more: int, trace: bool) -> None:
    decisions = run(f"(Host.SetVar '{'n' * (NAME + more)}' 1)", trace)
    assert told(decisions) == ([("limit", 0, None)] if more else [])
