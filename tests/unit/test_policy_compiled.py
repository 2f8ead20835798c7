# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled form by itself: what becomes generated code, what that code can reach, and what runs where it can't be made or fails."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import pytest

from momservice.columns import GuestTable
from momservice.fields import Names, Schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.policy.compiled import build
from momservice.policy.compiled.build import CompiledProgram
from momservice.policy.compiled.run import Run
from momservice.policy.compiled.shape import Form, Function
from momservice.policy.compiled.static import StaticCode
from momservice.policy.forms import TUNE_FIGURES
from momservice.policy.operations import BINARY, VARIADIC
from momservice.policy.state import State
from momservice.snapshot import HOST, Entity, Snapshot, Value

TESTS: Final = Path(__file__).parent.parent
FIELDS: Final = frozenset({"mem", "big", "text", "list"})
NAMES: Final = Names(FIELDS, FIELDS, frozenset({"t", "u"}), frozenset({"name"}))
SCHEMA: Final = Schema(NAMES, NAMES)
WIDEST: Final = (1 << 256) - 1
SAMPLE: Final[dict[str, Value]] = {"mem": 3, "big": WIDEST, "text": "x", "list": [1, 2]}
WORLD: Final = Snapshot(
    Entity(HOST, [SAMPLE], {"name": "here"}), [Entity(f"g{number}", [{**SAMPLE, "mem": number}], {"name": "vm"}) for number in range(3)]
)


def program(text: str, schema: Schema = SCHEMA) -> Program:
    loaded = load({"a": text}, schema)
    assert loaded.program is not None, loaded.diagnostics
    return loaded.program


def compiled(text: str) -> CompiledProgram:
    form = program(text).compiled
    assert isinstance(form, CompiledProgram), form
    return form


def alike(text: str) -> Decisions:
    """What the compiled form decides, and the other evaluator as well."""
    plain, traced = (evaluate(program(text), WORLD, trace=trace) for trace in (False, True))
    assert (plain.abandoned, traced.abandoned) == ("", "")
    controls = [wanted._replace(reads=()) for wanted in traced.controls]
    assert plain == traced._replace(controls=controls, steps=plain.steps)
    return plain


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> list[ast.Module]:
    """The modules that are generated while the test runs."""
    seen: list[ast.Module] = []

    def spy(module: ast.Module, file: str, mode: str) -> CodeType:
        seen.append(module)
        code: CodeType = builtins.compile(module, file, mode)
        return code

    monkeypatch.setattr(build, "compile", spy, raising=False)
    return seen


# --- names and texts of the policy -----------------------------------------------------------------------------------------------------

HOSTILE: Final = (
    *("__import__", "__builtins__", "__class__", "R", "V", "T", "D", "type", "len", "zip", "Exception", "Raw", "ABSENT", "LOW", "member"),
    *("res", "res0", "t1", "v1", "v2", "g1", "f1", "i1", "o1", "o12", "s0", "c2", "d0_1", "d0_2", "a1k", "a1n", "e1", "m1", "w1", "x1"),
    *("lambda", "None", "class", "return", "self", "variable", "functions", "eval_", "exec", "globals"),
)
# Every kind of name that a policy has, twice: for static and for dynamic code.
NAMED: Final = """
(defvar @ 1) (def @f (@ @p) (+ @ @p))
(with Guests @g {(set @ (+ @ @g.mem)) (let ((@l @)) (@g.Control "@" @l)) (@g.SetVar "@" "@") (@f @ 1) (debug "@" @)})
(defvar @list Guests)
(with @list @g {(set @ (+ @ @g.mem)) (let ((@l @)) (@g.Control "@" @l)) (@g.GetVar "@") (@f @ 1) (if @ (def @h (@) @) 0)})
(def @r (@) (if (< @ 1) "@" (@r (- @ 1)))) (@r 3) (Host.Control "@" @) @
"""


def named(name: str) -> str:
    return NAMED.replace("@", name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_a_plain_variable_whatever_it_means_in_python(name: str) -> None:
    decisions = alike(named(name))
    assert (decisions.failures, decisions.results[-1]) == ([], 7)
    assert [(wanted.entity, wanted.value) for wanted in decisions.controls if wanted.name == name] == [
        (HOST, 7),
        *(("g0", 4), ("g1", 5), ("g2", 7)),
    ]


def without_constants(module: ast.Module) -> str:
    for node in ast.walk(module):
        if isinstance(node, ast.Constant):
            node.value = None
    return ast.dump(module)


def test_generated_code_does_not_depend_on_what_names_and_texts_a_policy_has(trees: list[ast.Module]) -> None:
    shapes = []
    for name in ("plain", *HOSTILE):
        trees.clear()
        program(named(name))
        shapes.append([without_constants(module) for module in trees])
    assert len(shapes[0]) > 5
    assert all(shape == shapes[0] for shape in shapes)


FIXED: Final = {"R", "V", "T", "D"}
NUMBERED: Final = re.compile(r"res\d*|d\d+_\d+|[a-z]\d+[kn]?")
CONSTANTS: Final = {"LOW", "HIGH", "ABSENT", "EMPTY"}
REACHED: Final = {"Raw", "Record", "member", "receiver", "items_of", "too_wide"}
BUILTINS: Final = {"type", "int", "float", "abs", "len", "range", "zip", "Exception"}
OPERATORS: Final = {f"op{number}" for number in range(len(BINARY) + len(VARIADIC))}
KNOWN: Final = FIXED | CONSTANTS | REACHED | BUILTINS | OPERATORS


def policies() -> Iterator[str]:
    """All policies at hand, loadable or not."""
    cases = json.loads((TESTS / "conformance/language-cases.json").read_text(encoding="utf-8"))
    yield from {case["policy"] for case in (cases["cases"] if isinstance(cases, dict) else cases) if isinstance(case.get("policy"), str)}
    for file in (*(TESTS / "data").rglob("*.policy"), *(TESTS.parent / "conf/policy.d").glob("*.policy")):
        yield file.read_text(encoding="utf-8")


def used_and_set(modules: Sequence[ast.Module]) -> tuple[set[str], set[str]]:
    """The names that generated code uses, and those that it gives something to."""
    used: set[str] = set()
    given: set[str] = set()
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else given).add(node.id)
        elif isinstance(node, ast.arg):
            given.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ExceptHandler):
            given.add(str(node.name))
    return used, given


def test_generated_names_are_numbered_and_hide_nothing_that_code_reaches(trees: list[ast.Module]) -> None:
    fields = frozenset({"mem", "floor", "libvirt_curmem", "libvirt_maxmem", "mem_unused", "mem_available", "io_tune", *FIELDS})
    everything = Names(fields, fields, NAMES.controls, NAMES.properties)
    for text in (*policies(), *map(named, HOSTILE)):
        load({"a": text}, Schema(everything, everything))
    used, given = used_and_set(trees)
    assert len(trees) > 300
    assert {name for name in used | given if name not in KNOWN and not NUMBERED.fullmatch(name)} == set()
    assert given & (CONSTANTS | REACHED | BUILTINS | OPERATORS) == set()


def test_generated_code_touches_attributes_of_the_run_and_of_values_only(trees: list[ast.Module]) -> None:
    for text in (*policies(), named("plain")):
        load({"a": text}, SCHEMA)
    run = Run(compiled("1"), SCHEMA, WORLD, {})
    for node in (node for module in trees for node in ast.walk(module)):
        if isinstance(node, ast.Attribute):
            of_run = isinstance(node.value, ast.Name) and node.value.id == "R"
            known = hasattr(run, node.attr) if of_run else node.attr in {"get", "append", "by_guest", "samples", "role", "item", "figures"}
            assert known, ast.dump(node)
            assert not node.attr.startswith("_")
        # A statement or expression of another kind would need a look at what it may do.
        assert not isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal | ast.Lambda | ast.JoinedStr | ast.ClassDef)


def namespaces(form: CompiledProgram) -> list[dict[str, Any]]:
    codes = [part.code if not isinstance(part, Form) else part.dynamic for part in form.parts]
    return [code.__globals__ for code in codes]


def test_generated_code_reaches_no_builtins_and_nothing_undocumented() -> None:
    namespace, *others = namespaces(compiled(named("plain")))
    assert all(other is namespace for other in others)
    assert namespace["__builtins__"] == {}
    documented = CONSTANTS | REACHED | BUILTINS | OPERATORS | {"__builtins__"}
    assert namespace.keys() >= documented
    generated = {name: value for name, value in namespace.items() if name not in documented}
    assert all(NUMBERED.fullmatch(name) for name in generated)
    assert {type(value) for value in generated.values()} == {FunctionType, Function}


# --- what can't be resolved ------------------------------------------------------------------------------------------------------------


def static_forms(text: str) -> list[bool]:
    """For each top-level form whether there is code of it that knows where its variables are."""
    found: list[bool] = []
    for part in compiled(text).parts:
        if isinstance(part, Form):
            found += [True] * (part.index - len(found)) + [part.static is not None]
    return found


RATE: Final = "(with Guests g (g.Control 't' (f g.mem)))"
FALLBACKS: Final = {
    "conditional": ("(if Host.mem (def f (x) (+ x 1)) (def f (x) (* x 5)))" + RATE, [1, 2, 3], [True, True]),
    "never defined": ("(if 0 (def f (x) (+ x 1)) 0)" + RATE, [], [True, True]),
    "recursive": ("(def f (x) (if (< x 1) 7 (+ 1 (f (- x 1)))))" + RATE, [7, 8, 9], [True, True]),
    "mutually recursive": (
        "(def o (x) (if (< x 1) 0 (f (- x 1)))) (def f (x) (if (< x 1) 1 (o (- x 1))))" + RATE,
        [1, 0, 1],
        [True, True, True],
    ),
    "defined twice": ("(def f (x) (+ x 1)) (def f (x) (* x 5))" + RATE, [0, 5, 10], [True, True, True]),
    "defined later in a round": ("(def f (x) 0) (with Guests g {(if (== g.mem 1) (def f (x) 9) 0)})" + RATE, [9, 9, 9], [True] * 3),
    "defined in a function": ("(def m () (def f (x) (+ x y))) (defvar y 2) (m)" + RATE, [2, 3, 4], [True, True, False, True]),
    "sets what the caller has": (
        "(def f (x) (if (< x 1) 0 {(set k (+ k 1)) (f (- x 1))})) (defvar k 10)"
        "(with Guests g (let ((k g.mem)) {(f 2) (g.Control 't' k)})) k",
        [2, 3, 4],
        [True] * 3,
    ),
    "sees what the caller has": (
        "(def f (x) (if (< x 1) k (f (- x 1)))) (with Guests g (let ((k (* 2 g.mem))) (g.Control 't' (f 3))))",
        [0, 2, 4],
        [True, True],
    ),
    "a list not known": (
        "(defvar l Guests) (with l g (g.Control 't' g.mem)) (with Guests g (g.Control 'u' 1))",
        [0, 1, 2],
        [True, False, True],
    ),
}


@pytest.mark.parametrize("kind", FALLBACKS)
def test_what_is_not_known_before_the_run_is_found_out_in_it(kind: str) -> None:
    text, values, static = FALLBACKS[kind]
    decisions = alike(text)
    assert [wanted.value for wanted in decisions.controls if wanted.name == "t"] == values
    assert {failure.code for failure in decisions.failures} == (set() if values else {"name"})
    assert static_forms(text)[: len(static)] == static[: len(static_forms(text))]


def test_an_error_in_a_function_that_is_found_at_run_time_drops_its_guest_alone() -> None:
    loop = "(with Guests g {(set s 5) (let ((k 1)) (f g.mem)) (set s 6)})"
    decisions = alike(f"(def f (x) (if (< x 1) (/ 6 x) (f (- x 2)))) (defvar s 0) {loop} s (f 1)")
    assert [(failure.code, failure.entity, len(failure.calls)) for failure in decisions.failures] == [
        *(("zero-division", "g0", 1), ("zero-division", "g2", 2)),
    ]
    assert decisions.results[-2:] == [6, -6.0]


@pytest.mark.parametrize(
    "text",
    [
        *("(let ((x Host.big)) (+ x x))", "(+ Host.big Host.big)", "{(- Host.big 1) (+ Host.big 1)}", "(defvar x Host.big) (* x 2)"),
        *("(let ((x Host.big)) {(< x 1) (+ x 1)})", "(def f (x) (+ x 1)) (f Host.big)", "(+ (if 1 Host.big 2) 5)"),
        *("(+ (Host.Stat 'big' 1) 1)", "(+ (or Host.big 0) 1)", "(defvar x 1) {(set x Host.big) (+ x x)}"),
        *("(defvar x 1) (set x Host.big) (- (- -1 x) 1)", "(with Guests g (let ((x g.big)) (* x x)))"),
        *("(with Guests g {(+ g.big 0) (+ g.big g.big)})", "{(+ (- Host.big 0.5) Host.big) (- (- -1 Host.big) 1)}"),
    ],
)
def test_a_wide_integer_of_a_column_grows_no_further(text: str) -> None:
    assert {failure.code for failure in alike(text).failures} == {"value"}


@pytest.mark.parametrize("setter", ["setTotalBytesSec", "setReadIopsSec"])
@pytest.mark.parametrize("of", ["h", "g", "l", "g.mem", "g.list"])
def test_a_setter_of_disks_belongs_to_nothing_else(setter: str, of: str) -> None:
    assert {failure.code for failure in alike(f"(defvar h Host) (defvar l Guests) (with Guests g ({of}.{setter} 1))").failures} == {"name"}


# --- failures of the compiled form itself ----------------------------------------------------------------------------------------------

SIMPLE: Final = "(defvar a 2) (with Guests g {(let ((b (* a g.mem))) (g.Control 't' b)) (debug a)}) (Host.Control 't' a)"


def decided_elsewhere(text: str, why: str) -> None:
    """That all is decided, by the other evaluator, and why is told."""
    loaded = program(text)
    for trace in (False, True):
        decisions = evaluate(loaded, WORLD, trace=trace)
        assert decisions.abandoned == why
        assert [(wanted.entity, wanted.value) for wanted in decisions.controls] == [(HOST, 2), ("g0", 0), ("g1", 2), ("g2", 4)]
        assert (decisions.failures, decisions.debug, decisions.ended) == ([], ["2"] * 3, False)


@pytest.mark.parametrize("method", ["scoped", "define", "control", "loop"])
def test_a_policy_of_which_no_code_can_be_made_runs(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(StaticCode, method, fail)
    assert program(SIMPLE).compiled == "KeyError: 'gone'"
    decided_elsewhere(SIMPLE, "KeyError: 'gone'")


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_policy_that_is_too_much_for_python_s_compiler_runs(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(build, "compile", fail, raising=False)
    decided_elsewhere(SIMPLE, "it nests too deep for Python's own compiler")


def test_a_policy_of_very_many_values_runs() -> None:
    decided_elsewhere(SIMPLE + "0 " * build.LARGEST, f"it has more than {build.LARGEST} values")


@pytest.mark.parametrize(("error", "why"), [(KeyError("x"), "KeyError: 'x'"), (RecursionError(), "limit"), (MemoryError(), "limit")])
@pytest.mark.parametrize(
    ("owner", "method"), [(GuestTable, "column"), (State, "log"), (Run, "begin_rounds"), (Run, "take_controls"), (Run, "run")]
)
def test_a_run_that_fails_in_itself_is_started_over(
    owner: type, method: str, error: Exception, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = program(SIMPLE)
    right = getattr(owner, method)

    def fail(self: object, *arguments: object) -> object:
        # The other evaluator keeps debug lines in the same way, and does it right.
        if not isinstance(self, State) or isinstance(self, Run):
            raise error
        return right(self, *arguments)

    monkeypatch.setattr(owner, method, fail)
    decisions = evaluate(loaded, WORLD)
    assert decisions.abandoned == (why if method != "run" else f"{type(error).__name__}: {error}")
    decided_elsewhere(SIMPLE, decisions.abandoned)


@pytest.mark.parametrize("definition", ["(let ((q 1)) (def f (x) x))", "(if 1 (def f (x) x) 0)", "{(def f (x) x)}"])
def test_a_failing_form_undoes_no_form_before_it(definition: str) -> None:
    loaded = load({"a": f"{definition}\n(/ 1 (abs 0))\n(f 3)"}, Schema())
    assert loaded.program is not None, loaded.diagnostics
    for trace in (False, True):
        decisions = evaluate(loaded.program, Snapshot(), trace=trace)
        assert (decisions.results[1:], [failure.code for failure in decisions.failures]) == ([None, 3], ["zero-division"])


@pytest.mark.parametrize(
    "text",
    [
        "(def f (x) {" + "(+ x 1)" * 900 + "})" + "(f 1)\n" * 2500,
        "(if 1 (def f () 1) 0)" * 2
        + "".join(f"(defvar v{n} 1)" for n in range(700))
        + "(def f () {"
        + "".join(f"v{n} " for n in range(700))
        + "})"
        + "(let ((a 1)) (f))\n" * 1500,
    ],
    ids=["inlined", "lent"],
)
def test_what_is_generated_is_bounded_however_often_it_is_called(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emitted = 0
    value = StaticCode.value

    def counting(*operands: Any) -> Any:
        nonlocal emitted
        emitted += 1
        return value(*operands)

    monkeypatch.setattr(StaticCode, "value", counting)
    loaded = load({"a": text}, Schema())
    assert loaded.program is not None, loaded.diagnostics[:1]
    assert emitted <= 2 * build.GENERATED_VALUES
    assert evaluate(loaded.program, Snapshot()).failures == evaluate(loaded.program, Snapshot(), trace=True).failures


def both(text: str, *guests: Entity, schema: Schema | None = None, host: Entity = WORLD.host) -> Decisions:
    """What the compiled form decides, which must be what the tracing evaluator does."""
    loaded = load({"a": text}, schema or Schema())
    assert loaded.program is not None, loaded.diagnostics
    plain, traced = (evaluate(loaded.program, Snapshot(host, guests), trace=trace) for trace in (False, True))
    assert plain.abandoned == ""
    assert (plain.results, plain.failures) == (traced.results, traced.failures)
    assert list(plain.controls) == [wanted._replace(reads=()) for wanted in traced.controls]
    return plain


@pytest.mark.parametrize(
    "text",
    [
        "(defvar x (/ 1 0)) {(if nil x 0) (defvar x 's')} (* x 3)",
        "{(if nil x 0) (defvar x 's')} (defvar x 5) (* x 3)",
    ],
)
def test_what_a_guard_took_for_granted_says_nothing_of_what_ran_instead(text: str) -> None:
    assert [failure.code for failure in both(text).failures][-1] == "type"


DISKS = Names(frozenset({"io_tune"}), frozenset({"io_tune"}), frozenset(), frozenset({"name"}))


def disks(*guests: Value) -> list[Entity]:
    """Guests with a disk each."""
    return [Entity(f"g{number}", [{"io_tune": [disk]}], {"name": disk}) for number, disk in enumerate(guests)]


def test_a_disk_without_a_name_has_no_control() -> None:
    text = "(with Guests g (with g.io_tune d {(g.Control 'total_bytes_sec' 7) d.current.total_bytes_sec}))"
    decisions = both(text, *disks({"current": {"total_bytes_sec": 4}}), schema=Schema(guest=DISKS))
    assert decisions.results == [[[4]]]


def test_an_object_that_belongs_to_no_field_can_t_be_set() -> None:
    text = "(with Guests g (let ((d (g.Prop 'name'))) (d.setTotalBytesSec 5)))"
    decisions = both(text, *disks({"name": "vda"}), schema=Schema(guest=DISKS))
    assert [failure.code for failure in decisions.failures] == ["name"]


@pytest.mark.parametrize("loop", ["(with Host.io_tune d {})", "(with Guests h (with Host.io_tune d {}))"])
def test_limits_that_were_read_after_a_setter_are_undone_with_it(loop: str) -> None:
    failing = loop.format("{(d.setTotalBytesSec 7) d.current.total_bytes_sec (+ nil 1)}")
    text = f"(with Guests g {{(if (== (g.Prop 'name') 1) {failing} 0) (with Host.io_tune d d.current.total_bytes_sec)}})"
    host = Entity(HOST, [{"io_tune": [{"name": "vda", "current": {"total_bytes_sec": 4}}]}])
    decisions = both(text, *disks(1, 2), host=host, schema=Schema(DISKS, DISKS))
    assert [failure.entity for failure in decisions.failures] == ["g0"]
    assert decisions.results == [[None, [4]]]


MANY: Final = {f"x{number}": number for number in range(300)}
AGAIN: Final = {
    **{f"{question} of a field": f"({question} g.io_tune)" * 20 for question in ("not", "valid", "null")},
    **{f"{question} of a variable": "(let ((l g.io_tune)) {" + f"({question} l)" * 40 + "})" for question in ("not", "valid", "null")},
    **{f"many {part} limits": "(with g.io_tune d {" + f"d.{part}.total_bytes_sec " * 40 + "})" for part in ("current", "maximum")},
    "limits many times": "(with g.io_tune d {" + "d.guaranteed.total_bytes_sec " * 1100 + "})",
}


@pytest.mark.parametrize("what", AGAIN)
def test_what_is_read_or_asked_about_again_costs_the_same_again(what: str) -> None:
    loaded = load({"a": f"(with Guests g {{{AGAIN[what]} 1}})"}, Schema(guest=DISKS))
    assert loaded.program is not None
    limits = {**MANY, "total_bytes_sec": 1}
    guests = disks({**MANY, "name": "vda", "guaranteed": dict.fromkeys(TUNE_FIGURES, 1), "current": limits, "maximum": limits})
    for trace in (False, True):
        decisions = evaluate(loaded.program, Snapshot(guests=guests), trace=trace)
        assert ([failure.code for failure in decisions.failures], decisions.results) == (["limit"], [[None]])


def test_setters_after_many_reads_cost_no_more_than_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(with Guests g (with g.io_tune d {(with Guests a d.current) (with Guests b (d.setTotalBytesSec 1)) nil}))"
    disk: Value = {"name": "vda", "current": {"total_bytes_sec": 5}}
    guests = disks(*[disk] * 100)
    loaded = load({"a": text}, Schema(guest=DISKS))
    assert loaded.program is not None
    writes = 0
    write = Run.write

    def counting(*operands: Any) -> None:
        nonlocal writes
        writes += 1
        write(*operands)

    monkeypatch.setattr(Run, "write", counting)
    assert evaluate(loaded.program, Snapshot(guests=guests)).abandoned == ""
    # Of each setter, the control and the figure.
    assert 0 < writes <= 2 * 100 * 100


def test_many_disks_of_one_name_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(with Guests g {(with g.io_tune d d.current) (with Guests h (with h.io_tune d (d.setTotalBytesSec 1))) nil})"
    guests = [
        Entity(f"g{number}", [{"io_tune": [{"name": "vda", "current": {"total_bytes_sec": own}} for own in range(50)]}], {"name": "vm"})
        for number in range(5)
    ]
    loaded = load({"a": text}, Schema(guest=DISKS))
    assert loaded.program is not None
    usual = evaluate(loaded.program, Snapshot(guests=guests))
    monkeypatch.setattr("momservice.policy.compiled.run_controls._NAMESAKE", 1000)
    dear = evaluate(loaded.program, Snapshot(guests=guests))
    assert (usual.abandoned, dear.abandoned) == ("", "limit")
    assert usual.results == dear.results
