# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run does: isolation and undoing, limits, parameters, kept variables, tracing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Decisions, Opaque, Program, evaluate, load, trial_errors, trial_warnings
from momservice.policy import program as loading
from momservice.policy.state import RUN_STEPS
from momservice.policy.values import Datum, inward
from momservice.snapshot import Entity, Snapshot, Value

FIELDS = frozenset({"mem", "floor", "disks"})
NAMES = Names(FIELDS, FIELDS, frozenset({"t", "u"}), frozenset({"name"}))
SCHEMA = Schema(NAMES, NAMES)


def program(text: str | Mapping[str, str]) -> Program:
    loaded = load({"a": text} if isinstance(text, str) else text, SCHEMA)
    assert loaded.program is not None, loaded.diagnostics
    return loaded.program


def world(*mems: Value, parameters: Mapping[str, Value] | None = None) -> Snapshot:
    guests = [Entity(f"g{number}", [{"mem": mem}], {"name": f"vm{number}"}) for number, mem in enumerate(mems)]
    return Snapshot(Entity("host", [{"mem": 1}], {"name": "here"}), guests, parameters or {})


def run(text: str | Mapping[str, str], *mems: Value, parameters: Mapping[str, Value] | None = None) -> Decisions:
    return evaluate(program(text), world(*mems, parameters=parameters))


def controls(decisions: Decisions) -> dict[tuple[str, str], Value]:
    return {(wanted.entity, wanted.name): wanted.value for wanted in decisions.controls}


def failures(decisions: Decisions) -> list[tuple[str, int, str | None]]:
    return [(failure.code, failure.form, failure.entity) for failure in decisions.failures]


def test_a_failed_round_leaves_no_trace_but_its_report() -> None:
    decisions = run(
        """(defvar total 0) (def f () 1)
        (with Guests g {
            (set total (+ total 10))
            (def f () 2)
            (Host.Control "t" total) (Host.SetVar "v" total) (g.Control "u" 1)
            (let ((total 5)) (set total 6))
            (+ g.mem 1)
        })
        total (f) (Host.GetVar "v")""",
        1,
        None,
        3,
    )
    assert decisions.results == [0, "f", [2, None, 4], 20, 2, 20]
    assert controls(decisions) == {("host", "t"): 20, ("g0", "u"): 1, ("g2", "u"): 1}
    assert failures(decisions) == [("type", 2, "g1")]
    assert decisions.failures[0].place.line == 7
    assert decisions.degraded


def test_an_undone_definition_is_the_one_before() -> None:
    decisions = run("(def f () 1) (with Guests g {(def f () 2) (+ g.mem 1)}) (f)", None)
    assert decisions.results == ["f", [None], 1]


def test_a_failed_guest_loses_all_its_controls_and_later_rounds() -> None:
    text = """(with Guests g (g.Control "t" 1)) (with Guests g (+ g.mem 1)) (with Guests g (g.Control "u" 1))
    (defvar n 0) (with Guests g (set n (+ n 1))) n"""
    decisions = run(text, 1, None, 3)
    assert controls(decisions) == {("g0", "t"): 1, ("g0", "u"): 1, ("g2", "t"): 1, ("g2", "u"): 1}
    assert decisions.results[-1] == 2


def test_a_failed_form_is_undone_and_the_next_ones_go_on() -> None:
    decisions = run('1 {(defvar a 1) (Host.Control "t" 1) (Host.SetVar "v" 1) (/ 1 0)} (Host.GetVar "v") (defvar a 2) a')
    assert decisions.results == [1, None, None, 2, 2]
    assert controls(decisions) == {}
    assert failures(decisions) == [("zero-division", 1, None)]


def test_a_form_that_fails_after_very_many_rounds_is_undone_whole() -> None:
    decisions = run("(defvar n 0) {(with Guests g {(set n (+ n 1)) (Host.Control 't' n)}) (/ 1 0)} n", *range(9000))
    assert decisions.results == [0, None, 0]
    assert controls(decisions) == {}


def test_an_error_in_an_inner_loop_ends_the_outer_round() -> None:
    decisions = run("(with Guests g (with Guests h (+ g.mem h.mem)))", 1, None)
    assert decisions.results == [[None, None]]
    assert failures(decisions) == [("type", 0, "g0"), ("type", 0, "g1")]


def test_an_error_deep_in_calls_and_scopes_of_a_round_finds_back() -> None:
    text = """(def f (n) (let ((m n)) (if (== m 0) (+ nil 1) (f (- m 1)))))
    (with Guests g {(defvar k g.mem) (if k (f 5) k)}) (defvar m 'free') m"""
    decisions = run(text, 0, 1, 0)
    assert decisions.results == ["f", [0, None, 0], "free", "free"]


def test_a_loop_over_other_things_isolates_nothing() -> None:
    decisions = run("(defvar l (with Guests g g.mem)) (with l x (/ 1 x)) 5", 1, 0)
    assert decisions.results == [[1, 0], None, 5]
    assert failures(decisions) == [("zero-division", 1, None)]


def test_a_value_after_a_failed_operand_is_not_left_over() -> None:
    assert run("(+ 1 (with Guests g (+ g.mem 1))) (+ 1 2)", None).results == [None, 3]


def test_calls_nest_to_200_and_no_deeper() -> None:
    text = "(def down (n) {(let ((m n)) (if (== m 1) 'end' (down (- m 1))))})"
    assert run(text + "(down 200)").results == ["down", "end"]
    assert failures(run(text + "(down 201)")) == [("too-deep", 1, None)]


def test_form_and_round_have_budgets_of_their_own() -> None:
    spin = "(def spin (n) {(defvar i 0) (def go (k) (if (== k 0) 0 (go (- k 1)))) (if (== n 0) 0 {(go 100) (spin (- n 1))})})"
    assert failures(run(spin + "(spin 5)")) == []
    assert failures(run(spin + "(spin 50) 1")) == [("limit", 1, None)]
    one_greedy = "(with Guests g (if (== g.mem 1) (spin 50) (go 20)))"
    decisions = run(spin + "(spin 1)" + one_greedy, 0, 1, 0)
    assert decisions.results[-1] == [0, None, 0]
    assert failures(decisions) == [("limit", 2, "g1")]


def test_a_form_s_budget_does_not_depend_on_the_number_of_guests() -> None:
    decisions = run("(with Guests g (+ g.mem 1))", *range(12_000))
    assert failures(decisions) == []


def test_the_run_s_budget_ends_it_without_controls() -> None:
    greedy = "(def f%d (n) (if (< n 1) 1 (+ (f%d (- n 1)) (f%d (- n 1))))) (f%d 60)"
    text = "(Host.Control 't' 1) (Host.SetVar 'v' 1)" + " ".join(greedy % (i, i, i, i) for i in range(550)) + " 5"
    decisions = run(text)
    assert (decisions.ended, decisions.controls, decisions.variables) == (True, (), {})
    assert decisions.steps == RUN_STEPS
    assert trial_errors(decisions)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(<< 1 255)", ""),
        ("(<< 1 256)", "value"),
        ("(<< 2 255)", "value"),
        ("(>> 1 -1)", "value"),
        ("(defvar s 'a') (* s 3)", "type"),
        ("(* (<< 1 200) (<< 1 100))", "value"),
        ("(- (- 0 (<< 1 255)) (<< 1 255))", "value"),
        ("(max nil)", "type"),
    ],
)
def test_values_have_limits(text: str, code: str) -> None:
    assert [failure.code for failure in run(text).failures] == ([code] if code else [])


def test_strings_grow_to_64_kib() -> None:
    double = "(defvar s '0123456789abcdef')" + "(set s (+ s s))" * 12
    assert failures(run(double)) == []
    assert failures(run(double + "(set s (+ s 'x'))")) == [("value", 13, None)]


def test_a_policy_sees_only_fields_of_the_schema() -> None:
    snapshot = Snapshot(Entity("host", [{"mem": 1, "secret": 2}], {"name": "n", "hidden": 3}))
    decisions = evaluate(program("(defvar s 'secret') (Host.Stat s) (defvar p 'hidden') (Host.Prop p)"), snapshot)
    assert [failure.code for failure in decisions.failures] == ["unknown-field", "unknown-prop"]


def test_a_value_that_is_none_of_the_language_s_is_an_error_not_an_object() -> None:
    snapshot = Snapshot(Entity("host", [{"mem": object(), "disks": [[1], "a"]}]))  # type: ignore[dict-item]  # what mustn't be there
    decisions = evaluate(program("Host.mem Host.disks"), snapshot)
    assert decisions.results == [None, [[1], "a"]]
    assert failures(decisions) == [("value", 0, None)]


def test_entities_show_as_opaque_and_are_never_stored() -> None:
    decisions = run("Host Guests (Host.SetVar 'v' Host) (Host.Control 't' Guests)", 1)
    assert decisions.results == [Opaque("host"), [Opaque("guest")], None, None]
    assert [failure.code for failure in decisions.failures] == ["type", "type"]


# --- parameters --------------------------------------------------------------------------------------------------------------------------

PARAMETRIC = {
    "10_a": "(defvar False 0) (defvar True 1) (defvar on False) (defvar gain 0.5) (defvar name 'x') (defvar any nil) (defvar size 3)",
    "20_b": "(defvar sum (+ size 1)) (defvar copy size) (let ((inner 1)) inner) {(defvar block 1)} (defvar size 9) size on",
}


def test_parameters_are_globals_with_a_constant_default() -> None:
    defaults = {"False": 0, "True": 1, "on": 0, "gain": 0.5, "name": "x", "any": None, "size": 3, "copy": 3}
    assert dict(program(PARAMETRIC).parameters) == defaults


def test_a_parameter_s_value_takes_the_place_of_its_default() -> None:
    decisions = run(PARAMETRIC, parameters={"size": 7, "on": True})
    assert decisions.results[-2:] == [7, 1]
    assert decisions.results[7] == 8


def test_a_set_in_a_fragment_wins_over_a_parameter() -> None:
    assert run("(defvar a 1) (set a 2) a", parameters={"a": 5}).results == [5, 2, 2]


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [("size", True, 1), ("gain", 2, 2.0), ("gain", False, 0.0), ("name", "y", "y"), ("any", "text", "text"), ("any", [1], [1])],
)
def test_a_parameter_takes_its_type(name: str, value: Value, taken: Value) -> None:
    coerced = program(PARAMETRIC).coerce_parameter(name, value)
    assert (coerced, type(coerced)) == (taken, type(taken))


@pytest.mark.parametrize(("name", "value"), [("size", 1.0), ("size", "1"), ("size", None), ("gain", "1"), ("name", 1), ("size", 1 << 256)])
def test_a_parameter_refuses_another_type(name: str, value: Value) -> None:
    with pytest.raises(ValueError, match=rf"^parameter '{name}' .+$"):
        program(PARAMETRIC).coerce_parameter(name, value)
    with pytest.raises(KeyError):
        program(PARAMETRIC).coerce_parameter("nope", value)


def test_parameters_that_no_longer_fit_the_policy_leave_the_default() -> None:
    assert run("(defvar a 1) a", parameters={"a": "text", "gone": 1}).results == [1, 1]


# --- purity ------------------------------------------------------------------------------------------------------------------------------


def test_the_same_snapshot_gives_the_same_decisions_and_stays_as_it_was() -> None:
    text = """(with Guests g {(g.SetVar "n" (+ 1 (if (valid (g.GetVar "n")) (g.GetVar "n") 0))) (g.Control "t" (/ 6 g.mem))})
    (defvar a 1) (def f () 2) (debug a "x")"""
    loaded = program(text)
    guests = [Entity("g0", [{"mem": 2}], variables={"n": 1}), Entity("g1", [{"mem": 0}], variables={"n": 5})]
    snapshot = Snapshot(guests=guests)
    before = copy.deepcopy([dict(guest.variables) for guest in guests])
    first, second = evaluate(loaded, snapshot), evaluate(loaded, snapshot)
    assert first == second
    assert [dict(guest.variables) for guest in guests] == before
    assert first.variables == {"g0": {"n": 2}, "g1": {"n": 5}}
    assert first.debug == ["1 x"]


def test_tracing_changes_nothing_but_the_reads() -> None:
    text = "(defvar low Host.mem) (with Guests g (g.Control 't' (+ (g.StatAvg 'mem') low))) (Host.Control 'u' 1)"
    plain, traced = (evaluate(program(text), world(1, 2), trace=trace) for trace in (False, True))
    # The compiled form tells the most that it may take.
    assert plain.steps >= traced.steps
    untraced = traced._replace(controls=[wanted._replace(reads=()) for wanted in traced.controls], steps=plain.steps)
    assert plain == untraced
    assert [[(read.entity, read.kind, read.name, read.value) for read in wanted.reads] for wanted in traced.controls] == [
        [],
        [("g0", "average", "mem", 1.0), ("host", "stat", "mem", 1)],
        [("g1", "average", "mem", 2.0), ("host", "stat", "mem", 1)],
    ]


def test_a_control_knows_its_place() -> None:
    decisions = run({"10_a": "1", "20_b": "2\n  (Host.Control 't' 1)"})
    assert str(decisions.controls[0].place) == "20_b:2:3"


def test_a_trial_tells_what_figures_can_cure() -> None:
    decisions = run("(+ nil 1) (defvar f nil) (def g () later) (g) (let ((later 1)) (Host.StatAvg 'floor')) (/ 1 0)")
    assert [failure.code for failure in trial_errors(decisions)] == ["name"]
    assert [failure.code for failure in trial_warnings(decisions)] == ["type", "no-data", "zero-division"]


# --- objects and calls -------------------------------------------------------------------------------------------------------------------

DISK: Value = {"name": "vda", "maximum": {"total_bytes_sec": 5}, "current": {"total_bytes_sec": 7}}
WITH_DISKS = Names(frozenset({"io_tune", "x"}), frozenset({"io_tune", "x"}), frozenset(), frozenset())


def run_disks(text: str, *disks: Value) -> Decisions:
    """A run on one guest with disks."""
    loaded = load({"p": text}, Schema(guest=WITH_DISKS))
    assert loaded.program is not None, loaded.diagnostics
    return evaluate(loaded.program, Snapshot(guests=[Entity("g", [{"io_tune": list(disks)}])]))


def test_objects_in_fields_have_members_and_setters() -> None:
    decisions = run_disks("(with Guests g (with g.io_tune disk (disk.setTotalBytesSec disk.maximum.total_bytes_sec)))", DISK)
    assert [(w.entity, w.name, w.item, w.value) for w in decisions.controls] == [("g", "total_bytes_sec", "vda", 5)]
    assert decisions.results == [[[None]]]


def test_what_a_setter_set_is_current_until_the_round_is_undone() -> None:
    text = "(with Guests g (with g.io_tune disk {(disk.setTotalBytesSec 3) (defvar t disk.current.total_bytes_sec) %s}))"
    assert run_disks(text % "t", DISK).results == [[[3]]]
    failed = run_disks(text % "(/ t 0)" + "(with Guests g 1)", DISK)
    assert (failed.controls, failed.results) == ([], [[None], [None]])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(with g.io_tune d (d.maximum.setTotalBytesSec 1))", "name"),
        ("(with g.io_tune d (d.Stat 'x'))", "name"),
        ("(with g.io_tune d d.x)", "name"),
        ("(with g.io_tune d (g.SetVar 'v' d))", "type"),
        ("(with g.io_tune d (+ d 1))", "type"),
        ("(with g.io_tune d d.path)", ""),
    ],
)
def test_objects_are_a_closed_world(text: str, code: str) -> None:
    assert [failure.code for failure in run_disks(f"(with Guests g {text})", DISK).failures] == ([code] if code else [])


def test_an_object_without_a_name_can_t_be_set() -> None:
    assert failures(run_disks("(with Guests g (with g.io_tune d (d.setReadIopsSec 1)))", {"maximum": 3})) == [("name", 0, "g")]


def test_a_failure_tells_the_calls_that_led_to_it() -> None:
    decisions = run("(def f (g) (+ g.mem 1))\n(def h (g) (f g))\n(with Guests g (h g))", None)
    assert str(decisions.failures[0]) == "a:1:12: '+' takes no nil and integer, in f called at a:2:12, in h called at a:3:16"


def test_of_a_long_chain_of_calls_the_innermost_are_told() -> None:
    failure = run("(def f (n) (if (== n 0) (/ 1 n) (f (- n 1))))(f 50)").failures[0]
    assert (len(failure.calls), {call.place.column for call in failure.calls}) == (10, {33})


def test_controls_come_in_the_order_of_the_snapshot_and_of_names() -> None:
    decisions = run("(with Guests g {(g.Control 'b' 1) (g.Control 'a' 1)}) (Host.Control 'c' 1)", 1, 2)
    assert [(w.entity, w.name) for w in decisions.controls] == [("host", "c"), ("g0", "a"), ("g0", "b"), ("g1", "a"), ("g1", "b")]


def inputs(text: str, *mems: Value) -> list[list[tuple[str, str]]]:
    """Of each control, the entity and name of the inputs that led to it."""
    traced = evaluate(program(text), world(*mems), trace=True)
    assert traced.failures == []
    return [[(read.entity, read.name) for read in wanted.reads] for wanted in traced.controls]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(defvar a Host.mem) (defvar b 1) (Host.Control 't' (+ a b))", [("host", "mem")]),
        ("(defvar a Host.mem) (defvar b a) (Host.Control 't' b)", [("host", "mem")]),
        ("(defvar a Host.mem) (let ((a 1)) (Host.Control 't' a))", []),
        ("(defvar a Host.mem) (let ((a 1)) a) (Host.Control 't' a)", [("host", "mem")]),
        ("(defvar a 1) (set a Host.mem) (Host.Control 't' a)", [("host", "mem")]),
        ("(def f (x) (+ x 1)) (defvar a (f Host.mem)) (Host.Control 't' a)", [("host", "mem")]),
    ],
)
def test_inputs_are_followed_through_variables(text: str, expected: list[tuple[str, str]]) -> None:
    assert inputs(text) == [expected]


def test_what_a_failed_round_set_explains_nothing() -> None:
    text = "(defvar a 1) (with Guests g {(set a g.mem) (/ 1 (- g.mem 1))}) (Host.Control 't' a)"
    traced = evaluate(program(text), world(1), trace=True)
    assert [wanted.reads for wanted in traced.controls] == [()]


@pytest.mark.parametrize(
    ("history", "average"),
    [
        ([1, 2.5, True, None], 1.5),
        ([0.5, False], 0.25),
        ([(1 << 256) - 1, -1.0], float(1 << 255)),
        ([1 << 256, 0.5], "value"),
        ([0.5, -(1 << 256), True], "value"),
        ([1, 0.5, "x"], "type"),
        ([1 << 256, "x"], "type"),
        ([[1, 1 << 256]] * 3, "type"),
        ([{"name": "vda"}, 1], "type"),
    ],
)
@pytest.mark.parametrize("trace", [False, True])
def test_averages_of_numbers_of_any_type_and_of_nothing_else(
    history: Sequence[Value], average: float | str, trace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Value] = []

    def spy(value: Value) -> Datum:
        taken.append(value)
        return inward(value)

    monkeypatch.setattr("momservice.policy.state.inward", spy)
    guest = Entity("g0", [{"mem": value} for value in history])
    decisions = evaluate(program("(with Guests g (g.StatAvg 'mem'))"), Snapshot(guests=[guest]), trace=trace)
    told = decisions.failures[0].code if decisions.failures else decisions.results[0]
    assert told == (average if isinstance(average, str) else [average])
    # To take in thousands of histories value by value would last longer than a run may.
    assert bool(taken) == (average == "value")


def test_threads_that_evaluate_beside_each_other_leave_the_collector_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sees it off, just before another puts it on, and then puts it off itself, would leave it off for ever."""
    inside, leave = threading.Event(), threading.Event()

    class Collector:
        on = True

        def isenabled(self) -> bool:
            found = self.on
            if not found:
                leave.set()
                other.join(60)
            return found

        def disable(self) -> None:
            self.on = False

        def enable(self) -> None:
            self.on = True

    def evaluates() -> None:
        with loading._without_collector:
            inside.set()
            leave.wait(60)

    collector, other = Collector(), threading.Thread(target=evaluates)
    monkeypatch.setattr(loading, "gc", collector)
    other.start()
    assert inside.wait(60)
    with loading._without_collector:
        assert not collector.on
    leave.set()
    other.join(60)
    assert collector.on
