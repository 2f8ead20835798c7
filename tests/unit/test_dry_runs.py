# SPDX-License-Identifier: GPL-2.0-or-later
"""Dry runs: worlds from the bus, other policies on the live world, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from test_engine import SCHEMA, Bench

from momservice.bus.answers import to_diagnostic, to_wanted
from momservice.bus.connection import CallError, Variant
from momservice.bus.given import MAX_GUESTS, MAX_HISTORY, MAX_VALUES, given_world
from momservice.bus.reports import MAX_CONTROLS, decisions, findings
from momservice.bus.variants import plain, to_data
from momservice.dry_runs import DryRun, dry_run
from momservice.errors import Busy, InvalidArgs, LimitsExceeded, UnknownParameter
from momservice.policy import Call, Decisions, Diagnostic, Failure, Place, Wanted
from momservice.policy.compiled.run import Run
from momservice.snapshot import HOST, Entity, Snapshot, Value
from momservice.store import PolicyStore

A = "aaaaaaaa-0000-0000-0000-000000000000"


def data(**values: Value) -> dict[str, Variant]:
    return {name.replace("at_", "@"): to_data(value) for name, value in values.items()}


# --- worlds ------------------------------------------------------------------------------------------------------------------------------


def test_fields_properties_history_variables_and_parameters_are_told_apart() -> None:
    host = {
        **data(mem_free=5, interval=7),
        "@history": Variant("aa{sv}", [data(mem_free=3), {}]),
        "@props": Variant("a{sv}", data(rack="r1")),
        "@vars": Variant("a{sv}", data(n=1.5)),
        "@parameters": Variant("a{sv}", data(limit=2)),
    }
    world = given_world(host, [data(mem=7, uuid=A, name="web"), data(mem=8)], SCHEMA)
    second = "00000000-0000-0000-0000-000000000002"
    assert world == Snapshot(
        Entity(HOST, ({"mem_free": 3}, {}, {"mem_free": 5}), {"interval": 7, "rack": "r1"}, {"n": 1.5}),
        [Entity(A, ({"mem": 7},), {"name": "web", "uuid": A}), Entity(second, ({"mem": 8},), {"name": "vm2", "uuid": second})],
        {"limit": 2},
    )


@pytest.mark.parametrize(
    ("variant", "value"),
    [
        *((Variant(kind, 7), 7) for kind in "ynqiuxt"),
        (Variant("b", True), True),
        (Variant("d", 0.5), 0.5),
        (Variant("s", "x"), "x"),
        (Variant("v", Variant("v", Variant("s", "x"))), "x"),
        (Variant("as", ["x", "y"]), ["x", "y"]),
        (Variant("aad", [[0.5], []]), [[0.5], []]),
        (Variant("av", [Variant("i", 1), Variant("b", False)]), [1, False]),
        (Variant("aa{sv}", [{"name": Variant("s", "vda")}]), [{"name": "vda"}]),
        (Variant("a{sv}", {"n": Variant("u", 1)}), {"n": 1}),
    ],
    ids=lambda given: given.signature if isinstance(given, Variant) else "",
)
def test_values_of_every_type_that_has_a_meaning_are_taken(variant: Variant, value: Value) -> None:
    (sample,) = given_world({"mem_free": variant}, [], SCHEMA).host.samples
    assert (sample, type(sample["mem_free"])) == ({"mem_free": value}, type(value))


@pytest.mark.parametrize(
    ("host", "guests", "said"),
    [
        (data(mem=1), [], "the host: there is no field 'mem'"),
        ({}, [data(mem_free=1)], "guest 1: there is no field 'mem_free'"),
        ({"@history": Variant("aa{sv}", [data(mem=1)])}, [], "the host: there is no field 'mem'"),
        (data(at_history=1), [], "the host: '@history' is of D-Bus type 'x', not 'aa{sv}'"),
        (data(at_vars="x"), [], "the host: '@vars' is of D-Bus type 's', not 'a{sv}'"),
        (data(at_what=1), [], "the host: there is no '@what'"),
        ({}, [data(at_parameters=1)], "guest 1: there is no '@parameters'"),
        ({"mem_free": Variant("o", "/x")}, [], "the host: 'mem_free': a value of D-Bus type 'o' can't be given"),
        ({"mem_free": Variant("ay", b"x")}, [], "the host: 'mem_free': a value of D-Bus type 'ay' can't be given"),
        ({"mem_free": Variant("a(i)", [[1]])}, [], "the host: 'mem_free': a value of D-Bus type 'a(i)' can't be given"),
        ({"mem_free": Variant("a{ss}", {})}, [], "the host: 'mem_free': a value of D-Bus type 'a{ss}' can't be given"),
        ({"mem_free": Variant("d", float("nan"))}, [], "the host: 'mem_free': nan is not a finite number"),
        (data(mem_free="x" * 70_000), [], "the host: 'mem_free': a string of more than 64 KiB"),
        ({}, [data(uuid="x")], "guest 1: 'uuid' is not a UUID in lower case"),
        ({}, [data(uuid=A.upper())], "guest 1: 'uuid' is not a UUID in lower case"),
        ({}, [data(uuid=3)], "guest 1: 'uuid' is not a UUID in lower case"),
        ({}, [data(uuid=A), data(uuid=A)], f"guest 2: another guest has the UUID {A}"),
        (data(**{"x\n": 1}), [], "the host: there is no field 'x?'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    host: Mapping[str, Variant], guests: Sequence[Mapping[str, Variant]], said: str
) -> None:
    with pytest.raises(InvalidArgs) as refused:
        given_world(host, guests, SCHEMA)
    assert str(refused.value) == said


def nested(depth: int) -> Variant:
    variant = Variant("i", 1)
    for _ in range(depth):
        variant = Variant("av", [variant])
    return variant


def test_lists_inside_each_other_are_bounded() -> None:
    given_world({"mem_free": nested(32)}, [], SCHEMA)
    with pytest.raises(InvalidArgs, match="more than 32 lists inside each other"):
        given_world({"mem_free": nested(33)}, [], SCHEMA)


def test_too_much_is_refused() -> None:
    for host, guests in (
        ({}, [{}] * (MAX_GUESTS + 1)),
        ({"@history": Variant("aa{sv}", [{}] * MAX_HISTORY)}, []),
        ({"mem_free": Variant("ai", [1] * MAX_VALUES)}, []),
    ):
        with pytest.raises(LimitsExceeded):
            given_world(host, guests, SCHEMA)
    assert len(given_world({"@history": Variant("aa{sv}", [{}] * (MAX_HISTORY - 1))}, [{}] * 2, SCHEMA).guests) == 2


def test_an_empty_special_value_is_none_of_whatever_type() -> None:
    assert given_world({}, [data(at_history=[], at_vars={}, at_props=[])], SCHEMA) == given_world({}, [{}], SCHEMA)


def test_values_that_the_client_sends_come_back() -> None:
    disks: Value = [{"name": "vda", "current": {"total_bytes_sec": 5}}, {"name": "vdb", "current": None}]
    sample: dict[str, Value] = {"mem_free": disks}
    (back,) = given_world(data(**sample), [], SCHEMA).host.samples
    assert back == {"mem_free": [{"name": "vda", "current": {"total_bytes_sec": 5}}, {"name": "vdb"}]}
    with pytest.raises(TypeError):
        to_data([None])


# --- the store ---------------------------------------------------------------------------------------------------------------------------


class Bare(Bench):
    """A bench whose store knows the live world."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.store.world = self.engine.snapshot

    def now(self, **texts: str) -> DryRun:
        return asyncio.run(self.store.dry_run(texts))

    def given(self, host: Mapping[str, Variant], guests: Sequence[Mapping[str, Variant]] = (), **texts: str) -> DryRun:
        return asyncio.run(self.store.dry_run(texts, partial(given_world, host, guests)))


def controls(run: DryRun) -> list[tuple[str, Value]]:
    assert run.decisions is not None
    return [(wanted.entity, wanted.value) for wanted in run.decisions.controls]


LIMITED = '(defvar limit 3) (Host.Control "knob" (+ Host.mem_free limit))'


def test_the_live_world_is_decided_with_other_policies_and_nothing_changes() -> None:
    bench = Bare(LIMITED)
    bench.rounds()
    generation, runs = bench.store.generation, len(bench.engine.runs)
    assert controls(bench.now()) == [("host", 8)]
    assert controls(bench.now(q='(with Guests g (g.Control "target" g.mem))')) == [("a", 7), ("b", 7)]
    assert (bench.store.generation, set(bench.store.texts()), len(bench.engine.runs)) == (generation, {"p"}, runs)
    assert bench.knob.wanted == [[("host", 8)]]


def test_parameters_in_force_hold_where_they_fit() -> None:
    bench = Bare(LIMITED)
    bench.rounds()
    asyncio.run(bench.store.set_parameters({"limit": 10}, 0))
    assert controls(bench.now()) == [("host", 15)]
    assert controls(bench.now(p=LIMITED + '(Host.Control "knob" limit)')) == [("host", 10)]
    assert controls(bench.now(p='(defvar limit "text") (Host.Control "knob" (if (== limit "text") 1 2))')) == [("host", 1)]


def test_a_given_world_has_its_own_parameters_fields_and_variables() -> None:
    bench = Bare(LIMITED)
    asyncio.run(bench.store.set_parameters({"limit": 10}, 0))
    assert controls(bench.given(data(mem_free=1))) == [("host", 4)]
    parameters = {"@parameters": Variant("a{sv}", data(limit=100))}
    assert controls(bench.given({**data(mem_free=1), **parameters})) == [("host", 101)]
    kept = [{**data(mem=1), "@vars": Variant("a{sv}", data(n=41))}]
    assert controls(bench.given({}, kept, p='(with Guests g (g.Control "target" (+ g.mem (g.GetVar "n"))))'))[0][1] == 42
    mean = {**data(mem_free=1), "@history": Variant("aa{sv}", [data(mem_free=4)])}
    assert controls(bench.given(mean, p='(Host.Control "knob" (Host.StatAvg "mem_free"))')) == [("host", 2.5)]


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        (data(other=1), UnknownParameter, "these policies have no parameter 'other'"),
        (data(limit="x"), InvalidArgs, "parameter 'limit' takes an integer"),
    ],
)
def test_parameters_of_a_given_world_must_fit(values: Mapping[str, Variant], error: type[CallError], said: str) -> None:
    with pytest.raises(error) as refused:
        Bare(LIMITED).given({"@parameters": Variant("a{sv}", values)})
    assert str(refused.value) == said


def test_policies_that_do_not_load_decide_nothing_and_say_why() -> None:
    bench = Bare(LIMITED)
    bench.rounds()
    for run in (bench.now(q="(+ 1 nowhere)"), bench.given({}, q="(+ 1 nowhere)")):
        assert run.decisions is None
        assert [str(found.place) for found in run.diagnostics] == ["q:1:6"]


def test_without_live_figures_the_caller_is_told_to_wait() -> None:
    with pytest.raises(Busy, match="no figures of the host yet"):
        Bare(LIMITED).now()


def test_a_bad_name_is_refused() -> None:
    with pytest.raises(InvalidArgs):
        asyncio.run(Bare(LIMITED).store.dry_run({"../x": "1"}))


def test_dry_runs_wait_for_loads_and_loads_for_them() -> None:
    under_way: list[str] = []
    order: list[tuple[str, int]] = []

    async def offload(function: Any) -> Any:
        under_way.append("x")
        order.append(("begin", len(under_way)))
        await asyncio.sleep(0)
        under_way.pop()
        return function()

    async def scenario() -> None:
        store = PolicyStore(SCHEMA, offload)
        store.world = Snapshot
        await asyncio.gather(store.set_policies({"p": "1"}), store.dry_run({"q": "2"}), store.set_policies({"r": "3"}))

    asyncio.run(scenario())
    # Three checks, and each load has the disk write.
    assert order == [("begin", 1)] * 5


# --- answers -----------------------------------------------------------------------------------------------------------------------------


def decided(*wanted: Wanted, failures: Sequence[Failure] = ()) -> Decisions:
    return Decisions([], wanted, {}, failures, [], 1)


def test_controls_come_back_from_the_bus_as_they_were() -> None:
    wanted = [
        Wanted("host", "knob", 1, Place("p", 1, 2)),
        Wanted("a", "target", 0.5, Place("p", 3, 4), (Call("f", Place("p", 5, 6)), Call("g", Place("q", 7, 8))), "vda"),
        Wanted("a", "", None, Place("p", 1, 2)),
    ]
    assert [to_wanted(row) for row in decisions(decided(*wanted))] == wanted


def test_failures_follow_the_findings_with_what_was_dropped() -> None:
    warning = Diagnostic("warning", "no-effect", Place("p", 1, 1), "nothing", "drop it")
    failures = [
        Failure("type", "no", Place("p", 2, 1), 0, "a", (Call("f", Place("p", 3, 1)),)),
        Failure("name", "unknown", Place("p", 4, 1), 1),
    ]
    found = list(findings(DryRun(decided(failures=failures), [warning])))
    assert to_diagnostic(found[0]) == warning
    assert [(plain(row)["severity"], plain(row)["code"], plain(row).get("entity")) for row in found] == [
        ("warning", "no-effect", None),
        ("warning", "type", "a"),
        ("error", "name", None),
    ]
    assert plain(found[1])["calls"] == [["f", "p", 3, 1]]


def test_more_controls_than_can_be_told_are_refused() -> None:
    with pytest.raises(LimitsExceeded, match=f"{MAX_CONTROLS + 1} controls"):
        decisions(decided(*[Wanted("a", "t", 1, Place("p", 1, 1))] * (MAX_CONTROLS + 1)))


def test_controls_are_made_where_the_policies_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Run] = []
    make = Run._wanted

    def wanted(run: Run) -> Sequence[Wanted]:
        made.append(run)
        return make(run)

    monkeypatch.setattr(Run, "_wanted", wanted)
    world = Snapshot(Entity(HOST, [{"mem_free": 1}]), [Entity(A, [{"mem": 7}])])
    run = dry_run({"p": "(with Guests g (g.Control 'target' 1))"}, world, SCHEMA)
    assert len(made) == 1
    assert run.decisions is not None
    assert len(run.decisions.controls) == len(made)
