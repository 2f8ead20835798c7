# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies that we ship, beside the one of 2011 whose method they follow and whose faults they don't share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.snapshot import Entity, Snapshot, Value

ROOT = Path(__file__).parent.parent.parent
GIB = 1024 * 1024  # KiB
NAMES = {
    kind: Names(frozenset(names["fields"]), frozenset(names["fields"]), frozenset(names["controls"]), frozenset(names["properties"]))
    for kind, names in json.loads((ROOT / "tests" / "data" / "names.json").read_text()).items()
}
SCHEMA = Schema(NAMES["host"], NAMES["guest"])
OURS = {path.stem: path.read_text() for path in (ROOT / "conf" / "policy.d").glob("*.policy")}
OLD = {"50_main_": (ROOT / "tests" / "data" / "mom.policy").read_text()}

Fields = Mapping[str, Value]


def loaded(texts: Mapping[str, str]) -> Program:
    result = load(texts, SCHEMA)
    assert result.program is not None, result.diagnostics
    assert list(result.diagnostics) == []
    return result.program


def host(total_gib: float, free: float, **more: Value) -> Fields:
    """A host with that part of its memory free, and KSM."""
    total = int(total_gib * GIB)
    ksm: Fields = {"ksm_shareable": total // 2, "ksm_pages_to_scan": 100, "ksm_run": 0, "ksm_sleep_millisecs": 20}
    return {"mem_available": total, "mem_free": int(total * free), **ksm, **more}


def guest(maximum_gib: float, now_gib: float, unused_gib: float | None, **more: Value) -> Fields:
    """A guest under the names of 2011 and today's."""
    maximum, now = int(maximum_gib * GIB), int(now_gib * GIB)
    sizes = {"libvirt_maxmem": maximum, "balloon_max": maximum, "libvirt_curmem": now, "balloon_cur": now}
    return {**sizes, "mem_unused": None if unused_gib is None else int(unused_gib * GIB), **more}


def run(texts: Mapping[str, str], of_host: Fields, *guests: Fields, parameters: Fields | None = None) -> Decisions:
    entities = [Entity(f"g{number}", [sample]) for number, sample in enumerate(guests)]
    return evaluate(loaded(texts), Snapshot(Entity("host", [of_host]), entities, parameters or {}))


def controls(decisions: Decisions, entity: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for wanted in decisions.controls:
        if wanted.entity == entity:
            assert isinstance(wanted.value, int | float)
            found[wanted.name] = wanted.value
    return found


def target(texts: Mapping[str, str], of_host: Fields, of_guest: Fields) -> float | None:
    """The balloon target in GiB."""
    decisions = run(texts, of_host, of_guest)
    assert not decisions.degraded, decisions.failures
    kib = controls(decisions, "g0").get("balloon_target")
    return None if kib is None else kib / GIB


# --- the same method ---------------------------------------------------------------------------------------------------------------------


def test_both_policies_ship_and_load_without_a_warning() -> None:
    assert sorted(OURS) == ["10_ksm", "20_balloon"]
    assert loaded(OURS).fragments == ("10_ksm", "20_balloon")
    for name, text in OURS.items():
        loaded({name: text})


def test_every_parameter_of_2011_is_one_of_ours_with_the_same_default() -> None:
    old, ours = loaded(OLD).parameters, loaded(OURS).parameters
    assert len(old) == 11
    assert {name: ours[name] for name in old} == dict(old)


@pytest.mark.parametrize("free", [0.02, 0.05, 0.1, 0.15, 0.19, 0.2, 0.25, 0.6])
@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4, 0.9), (4, 3, 1.5), (4, 2, 1.9)])
@pytest.mark.parametrize("total_gib", [4, 8, 16])
def test_where_2011_has_no_fault_ours_decides_the_same(free: float, shape: tuple[float, float, float], total_gib: float) -> None:
    world = host(total_gib, free), guest(*shape)
    old, ours = run(OLD, *world), run(OURS, *world)
    assert not old.degraded
    assert not ours.degraded
    assert controls(ours, "host") == controls(old, "host")
    assert controls(ours, "g0") == controls(old, "g0")


def test_parameters_steer_ours() -> None:
    world = host(16, 0.3), guest(4, 4, 2)
    assert controls(run(OURS, *world), "g0") == {}
    assert controls(run(OURS, *world, parameters={"pressure_threshold": 0.5}), "g0") == {"balloon_target": pytest.approx(3.8 * GIB)}
    assert controls(run(OURS, *world, parameters={"ksm_free_percent": 1}), "host")["ksm_pages_to_scan"] == 400


# --- faults of 2011 ----------------------------------------------------------------------------------------------------------------------


def test_a_large_host_still_lets_ksmd_rest() -> None:
    of_host = host(256, 0.1)
    assert controls(run(OLD, of_host), "host")["ksm_sleep_millisecs"] < 1
    for total_gib in (17, 160, 256, 4096):
        assert controls(run(OURS, host(total_gib, 0.1)), "host")["ksm_sleep_millisecs"] == 10


def test_a_guest_never_grows_past_its_maximum() -> None:
    world = host(16, 0.4), guest(4, 3.6, 0.05)
    assert (target(OLD, *world) or 0) > 4
    assert target(OURS, *world) == 4


def test_a_guest_never_grows_by_being_shrunk() -> None:
    world = host(16, 0.15), guest(8, 4, 0.08)
    assert (target(OLD, *world) or 0) > 4 * 1.25
    assert target(OURS, *world) is None


@pytest.mark.parametrize("free", [0.0, 0.03, 0.05, 0.1, 0.19])
def test_under_pressure_no_target_is_above_the_present_size(free: float) -> None:
    for now in (1.0, 2.5, 4.0):
        for unused in (0.0, 0.3, 0.9):
            wanted = target(OURS, host(16, free), guest(4, now, unused * now))
            assert wanted is None or wanted < now


@pytest.mark.parametrize("free", [0.21, 0.5, 1.0])
def test_without_pressure_no_target_is_below_the_present_size_or_above_the_maximum(free: float) -> None:
    for now in (1.0, 2.5, 4.0):
        for unused in (0.0, 0.3, 0.9):
            wanted = target(OURS, host(16, free), guest(4, now, unused * now))
            assert wanted is None or now < wanted <= 4


@pytest.mark.parametrize(("free", "expected"), [(0.1, {}), (0.5, {"balloon_target": pytest.approx(3.15 * GIB)})])
def test_a_guest_without_statistics_never_shrinks_but_gets_its_memory_back(free: float, expected: dict[str, float]) -> None:
    world = host(16, free), guest(4, 3, None), guest(4, 3, 2)
    assert run(OLD, *world).degraded
    ours = run(OURS, *world)
    assert not ours.degraded
    assert controls(ours, "g0") == expected
    assert controls(ours, "g1") != {}


def test_the_last_step_up_to_the_maximum_is_taken_however_small() -> None:
    almost = host(16, 0.5), guest(4, 3.992, 2)
    assert controls(run(OLD, *almost), "g0") == {}
    assert target(OURS, *almost) == 4


@pytest.mark.parametrize("missing", ["balloon_cur", "balloon_max"])
def test_a_guest_that_lacks_any_figure_is_skipped_quietly(missing: str) -> None:
    decisions = run(OURS, host(16, 0.1), {**guest(4, 4, 2), missing: None})
    assert controls(decisions, "g0") == {}
    assert not decisions.degraded


@pytest.mark.parametrize("missing", ["ksm_shareable", "ksm_pages_to_scan", "mem_available", "mem_free"])
def test_a_host_that_lacks_a_figure_is_no_error(missing: str) -> None:
    of_host = {**host(16, 0.1), missing: None}
    assert run(OLD, of_host, guest(4, 4, 2)).degraded
    ours = run(OURS, of_host, guest(4, 4, 2))
    assert not ours.degraded
    assert controls(ours, "host") == {}
    assert ("balloon_target" in controls(ours, "g0")) == missing.startswith("ksm_")


def test_a_host_without_memory_is_no_error() -> None:
    of_host = host(0, 0)
    assert run(OLD, of_host).degraded
    assert not run(OURS, of_host, guest(4, 4, 2)).degraded


# --- what 2011 couldn't know -------------------------------------------------------------------------------------------------------------


def test_a_guest_keeps_its_guaranteed_minimum() -> None:
    assert target(OURS, host(16, 0.1), guest(4, 4, 3)) == pytest.approx(3.8)
    assert target(OURS, host(16, 0.1), guest(4, 4, 3, balloon_min=int(3.9 * GIB))) == pytest.approx(3.9)
    assert target(OURS, host(16, 0.1), guest(4, 3, 2, balloon_min=int(3.9 * GIB))) is None
    assert target(OURS, host(16, 0.1), guest(4, 4, 3, balloon_min=None)) == pytest.approx(3.8)


@pytest.mark.parametrize("free", [0.1, 0.5])
def test_a_held_guest_is_left_alone(free: float) -> None:
    assert target(OURS, host(16, free), guest(4, 3, 2, held=True)) is None
    assert target(OURS, host(16, free), guest(4, 3, 2, held=False)) is not None


def test_a_balloon_that_does_not_work_is_not_shrunk_but_may_grow() -> None:
    assert target(OURS, host(16, 0.1), guest(4, 4, 3, balloon_works=False)) is None
    assert target(OURS, host(16, 0.1), guest(4, 4, 3, balloon_works=True)) is not None
    assert target(OURS, host(16, 0.5), guest(4, 3, 2, balloon_works=False)) is not None


@pytest.mark.parametrize("texts", [OLD, OURS])
def test_the_longest_history_that_can_be_configured_breaks_no_limit(texts: Mapping[str, str]) -> None:
    of_host, of_guest = host(16, 0.1), guest(4, 4, 2)
    world = Snapshot(Entity("host", [of_host] * 1000), [Entity("g", [of_guest] * 1000)])
    decisions = evaluate(loaded(texts), world)
    assert not decisions.degraded, decisions.failures
    assert controls(decisions, "g") != {}
