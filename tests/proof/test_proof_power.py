# SPDX-License-Identifier: GPL-2.0-or-later
"""What the differential tests are worth: evaluators that are wrong in one thing each, all of which few generated examples must find.

Broken is the tracing evaluator, and only while it traces: the other one may run whole policies on it. Beside it the compiled form fails
where it must not: the other evaluator takes its place then, so that nothing is decided differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import pytest
from proof_batches import LONG, for_each
from proof_choices import Choices
from proof_compare import assert_same
from proof_limits import short_of_steps
from proof_reduce import size
from proof_text import Policy
from proof_worlds import SCHEMA, World

from momservice.decisions import Place
from momservice.policy import Decisions, instructions, load
from momservice.policy import machine as machine_module
from momservice.policy.compiled.run import Run
from momservice.policy.compiled.static import StaticCode
from momservice.policy.machine import Machine
from momservice.policy.state import FORM_STEPS
from momservice.policy.values import List, PolicyError, Thing, truth

Patch: TypeAlias = pytest.MonkeyPatch
Table: TypeAlias = dict[Any, Any]


def wrap(patch: Patch, owner: object, name: str, wrong: Callable[..., Any]) -> None:
    """`wrong(right, machine, *arguments)` takes the place of a method or instruction of a machine that traces."""
    right = getattr(owner, name)

    def either(machine: Machine, *arguments: Any) -> Any:
        return right(machine, *arguments) if machine.reads is None else wrong(right, machine, *arguments)

    patch.setattr(owner, name, either)


def keep_table(patch: Patch, kept: Callable[[Machine, Table], bool]) -> None:
    """Undoing forgets some tables."""

    def undo(right: Callable[..., None], machine: Machine, mark: int) -> None:
        machine.journal[mark:] = [change for change in machine.journal[mark:] if not kept(machine, change[0])]
        right(machine, mark)

    wrap(patch, Machine, "undo", undo)


def functions_stay(patch: Patch) -> None:
    keep_table(patch, lambda machine, table: table is machine.functions)


def controls_stay(patch: Patch) -> None:
    keep_table(patch, lambda machine, table: any(table is of_entity for of_entity in machine._controls.values()))


def kept_variables_stay(patch: Patch) -> None:
    keep_table(patch, lambda machine, table: any(table is of_entity for of_entity in machine._variables.values()))


def globals_stay(patch: Patch) -> None:
    keep_table(patch, lambda machine, table: table is machine.variable and not machine.scopes[:1])


def variables_stay(patch: Patch) -> None:
    keep_table(patch, lambda machine, table: table is machine.variable and machine._round is not None)


def dropped_guests_come_again(patch: Patch) -> None:
    def next_round(right: Callable[..., Any], machine: Machine, *operand: Any) -> Any:
        machine._dropped.clear()
        return right(machine, *operand)

    wrap(patch, Machine, "next_round", next_round)


def dropped_guests_keep_controls(patch: Patch) -> None:
    def wanted(right: Callable[..., Any], machine: Machine) -> Any:
        machine._dropped.clear()
        return right(machine)

    wrap(patch, Machine, "_wanted", wanted)


def later_guests_are_dropped_too(patch: Patch) -> None:
    def recover(right: Callable[..., Any], machine: Machine, error: PolicyError) -> Any:
        machine._dropped.update(guest.key for guest in machine.guests.items[-1:] if isinstance(guest, Thing))
        return right(machine, error)

    wrap(patch, Machine, "_recover", recover)


def locals_survive_their_round(patch: Patch) -> None:
    def end_of_round(right: Callable[..., Any], machine: Machine) -> None:
        kept = {name: machine.variable[name] for name in machine.scopes[-1]}
        right(machine)
        machine.variable.update(kept)

    wrap(patch, Machine, "end_of_round", end_of_round)


def scopes_of_failed_rounds_stay_hidden(patch: Patch) -> None:
    def recover(right: Callable[..., Any], machine: Machine, error: PolicyError) -> Any:
        hidden = dict(machine.scopes[-1]) if machine.scopes else {}
        address = right(machine, error)
        machine.variable.update({name: 0 for name in hidden if name in machine.variable})
        return address

    wrap(patch, Machine, "_recover", recover)


def defvar_overwrites(patch: Patch) -> None:
    wrap(patch, Machine, "define", _define_anew)


def _define_anew(right: Callable[..., Any], machine: Machine, name: str, value: Any) -> Any:
    right(machine, name, value)
    machine.write(machine.variable, name, value)
    return value


def set_defines(patch: Patch) -> None:
    wrap(patch, Machine, "assign", lambda _right, machine, name, value: machine.write(machine.variable, name, value))


def let_gives_outer_values(patch: Patch) -> None:
    def bind(right: Callable[..., Any], machine: Machine, name: str) -> None:
        value = machine.stack[-1]
        right(machine, name)
        if value == machine.variable.get("u") and name == "c":
            machine.variable[name] = 0

    wrap(patch, instructions, "bind", bind)


def calls_may_be_one_deeper(patch: Patch) -> None:
    wrap(patch, Machine, "enter", _enter_deeper)


def _enter_deeper(right: Callable[..., Any], machine: Machine, *arguments: Any) -> Any:
    if len(machine.calls) != 200:
        return right(machine, *arguments)
    first = machine.calls.pop(0)
    address = right(machine, *arguments)
    machine.calls.insert(0, first)
    return address


def rounds_take_one_step_more(patch: Patch) -> None:
    def grant(right: Callable[..., Any], machine: Machine, steps: int) -> None:
        right(machine, steps + (machine._round is not None))

    wrap(patch, Machine, "_grant", grant)


def forms_take_one_step_more(patch: Patch) -> None:
    def grant(right: Callable[..., Any], machine: Machine, steps: int) -> None:
        right(machine, steps + (steps == FORM_STEPS and machine._round is None))

    wrap(patch, Machine, "_grant", grant)


def sizes_are_not_charged(patch: Patch) -> None:
    wrap(patch, Machine, "charge", lambda _right, _machine, _steps: None)


def places_of_controls_are_those_before(patch: Patch) -> None:
    def want(right: Callable[..., Any], machine: Machine, key: str, name: str, item: str, value: Any, place: Place) -> None:
        right(machine, key, name, item, value, replace(place, column=place.column + 1) if machine.calls else place)

    wrap(patch, Machine, "want", want)


def places_of_failures_are_those_before(patch: Patch) -> None:
    def here(right: Callable[..., Any], machine: Machine) -> Place:
        machine._at -= machine._at > 0 and len(machine.calls) == 2
        place: Place = right(machine)
        return place

    wrap(patch, Machine, "_here", here)


def one_call_less_is_told(patch: Patch) -> None:
    wrap(patch, Machine, "_told", lambda right, machine, calls: right(machine, calls)[1:])


def the_compiled_form_fails_in_itself(patch: Patch) -> None:
    def lend(_run: Run, *_arguments: Any) -> None:
        raise KeyError("lent")

    patch.setattr(Run, "lend", lend)


def code_is_not_generated(patch: Patch) -> None:
    def scoped(_emitter: StaticCode, *_arguments: Any) -> None:
        raise TypeError("no scope")

    patch.setattr(StaticCode, "scoped", scoped)


def setters_forget_the_disk(patch: Patch) -> None:
    def want(right: Callable[..., Any], machine: Machine, key: str, name: str, item: str, *rest: Any) -> None:
        right(machine, key, name, "vda" if item else "", *rest)

    wrap(patch, Machine, "want", want)


def controls_are_read_from_the_last_round(patch: Patch) -> None:
    wrap(patch, Machine, "wanted", lambda right, machine, *named: None if machine._round is None else right(machine, *named))


def kept_variables_are_read_as_they_were(patch: Patch) -> None:
    wrap(patch, Machine, "kept_value", lambda _right, _machine, thing, name: thing.entity.variables.get(name))


def and_gives_a_boolean(patch: Patch) -> None:
    def decide(right: Callable[..., Any], machine: Machine, end: int) -> Any:
        machine.stack[-1] = truth(machine.stack[-1])
        return right(machine, end)

    wrap(patch, instructions, "decide_and", decide)


def empty_lists_are_true(patch: Patch) -> None:
    def jump(right: Callable[..., Any], machine: Machine, target: int) -> Any:
        if isinstance(machine.stack[-1], List):
            machine.stack[-1] = True
        return right(machine, target)

    wrap(patch, instructions, "jump_if_false", jump)


def binary(patch: Patch, change: Callable[[Any], Any]) -> None:
    def apply(right: Callable[..., Any], machine: Machine, operation: Any) -> None:
        right(machine, operation)
        machine.stack[-1] = change(machine.stack[-1])

    wrap(patch, instructions, "apply_binary", apply)


def zeros_lose_their_sign(patch: Patch) -> None:
    binary(patch, lambda value: value + 0.0 if type(value) is float else value)


def booleans_become_integers(patch: Patch) -> None:
    binary(patch, lambda value: int(value) if type(value) is bool else value)


def integral_floats_become_integers(patch: Patch) -> None:
    binary(patch, lambda value: int(value) if type(value) is float and value.is_integer() else value)


def integers_have_a_bit_less(patch: Patch) -> None:
    def checked(value: Any) -> Any:
        if type(value) is int and abs(value) >= 1 << 255:
            raise PolicyError("value", "an integer of more than 256 bits")
        return value

    binary(patch, checked)


def errors_name_operands_the_other_way_round(patch: Patch) -> None:
    def apply(right: Callable[..., Any], machine: Machine, operation: Any) -> None:
        operands = machine.stack[-2:]
        try:
            right(machine, operation)
        except PolicyError as error:
            raise PolicyError(error.code, error.message if type(operands[0]) is type(operands[1]) else error.message[::-1]) from None

    wrap(patch, instructions, "apply_binary", apply)


def averages_are_rounded_otherwise(patch: Patch) -> None:
    def call(right: Callable[..., Any], machine: Machine, operand: tuple[str, int, Place]) -> None:
        entity, names = machine.stack[-1 - operand[1]], machine.stack[len(machine.stack) - operand[1] :]
        right(machine, operand)
        if operand[0] == "StatAvg" and machine.stack[-1] is not None:
            history: list[Any] = entity.entity.history(names[0])
            machine.stack[-1] = float(sum(reversed(history))) / len(history)

    wrap(patch, instructions, "call_method", call)


def failed_rounds_give_nothing(patch: Patch) -> None:
    def recover(right: Callable[..., Any], machine: Machine, error: PolicyError) -> Any:
        failed = machine._round
        address = right(machine, error)
        if failed is not None:
            failed.loop.values.pop()
        return address

    wrap(patch, Machine, "_recover", recover)


def guests_that_come_twice_come_once(patch: Patch) -> None:
    def begin(right: Callable[..., Any], machine: Machine, operand: None) -> Any:
        if isinstance(machine.stack[-1], List):
            machine.stack[-1] = List(dict.fromkeys(machine.stack[-1].items))
        return right(machine, operand)

    wrap(patch, instructions, "begin_loop", begin)


def functions_of_rounds_are_forgotten(patch: Patch) -> None:
    def end_of_round(right: Callable[..., Any], machine: Machine) -> None:
        if machine._round is not None:
            for table, name, old in machine.journal[machine._round.journal :]:
                if table is machine.functions and isinstance(old, machine_module.Function):
                    table[name] = old
        right(machine)

    wrap(patch, Machine, "end_of_round", end_of_round)


def debug_is_silent_in_rounds(patch: Patch) -> None:
    wrap(patch, Machine, "log", lambda right, machine, operands: right(machine, operands) if machine._round is None else None)


def a_run_that_ends_tells_no_result(patch: Patch) -> None:
    def run(right: Callable[..., Any], machine: Machine) -> Decisions:
        decisions: Decisions = right(machine)
        return decisions._replace(results=decisions.results[:-1]) if decisions.degraded else decisions

    wrap(patch, Machine, "run", run)


FAULTS: Final[Sequence[Callable[[Patch], None]]] = (
    functions_stay,
    controls_stay,
    kept_variables_stay,
    globals_stay,
    variables_stay,
    dropped_guests_come_again,
    dropped_guests_keep_controls,
    later_guests_are_dropped_too,
    locals_survive_their_round,
    scopes_of_failed_rounds_stay_hidden,
    defvar_overwrites,
    set_defines,
    let_gives_outer_values,
    calls_may_be_one_deeper,
    sizes_are_not_charged,
    places_of_controls_are_those_before,
    places_of_failures_are_those_before,
    one_call_less_is_told,
    the_compiled_form_fails_in_itself,
    code_is_not_generated,
    setters_forget_the_disk,
    controls_are_read_from_the_last_round,
    kept_variables_are_read_as_they_were,
    and_gives_a_boolean,
    empty_lists_are_true,
    zeros_lose_their_sign,
    booleans_become_integers,
    integral_floats_become_integers,
    integers_have_a_bit_less,
    errors_name_operands_the_other_way_round,
    averages_are_rounded_otherwise,
    failed_rounds_give_nothing,
    guests_that_come_twice_come_once,
    functions_of_rounds_are_forgotten,
    debug_is_silent_in_rounds,
    a_run_that_ends_tells_no_result,
)
OF_STEPS: Final = (rounds_take_one_step_more, forms_take_one_step_more)


def found_by(prepare: Callable[[Policy, Choices], Policy], batch: int) -> int:
    """After how many examples a fault is found; 0 if it isn't."""
    tried = 0

    def check(policy: Policy, world: World, choices: Choices) -> None:
        nonlocal tried
        tried += 1
        program = load(prepare(policy, choices).texts, SCHEMA).program
        if program is not None:
            assert_same(program, world.snapshot)

    try:
        for_each(batch, check, examples=2000, reduce=False)
    except AssertionError:
        return tried
    return 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_generated_examples_find_every_fault(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert found_by(lambda policy, _choices: policy, 0)


@pytest.mark.parametrize("fault", OF_STEPS, ids=lambda fault: fault.__name__)
def test_examples_short_of_steps_find_a_budget_that_is_one_off(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    assert found_by(lambda policy, choices: short_of_steps(choices, policy), 10_000)


def test_what_is_found_is_told_as_a_small_example(monkeypatch: Patch) -> None:
    failed_rounds_give_nothing(monkeypatch)
    shown: list[int] = []

    def check(policy: Policy, world: World, _choices: Choices) -> None:
        if program := load(policy.texts, SCHEMA).program:
            shown.append(size((policy, world)))
            assert_same(program, world.snapshot)

    with pytest.raises(AssertionError, match=r"(?s)^results differ, with the policy\n.*and the world\n.*Entity\('host'"):
        for_each(0, check)
    assert min(shown) < 60
    assert LONG or len(shown) < 5000
