# SPDX-License-Identifier: GPL-2.0-or-later
"""Six fragments of the shape that VDSM installs: that they load as they are, and what they decide."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from momservice.config import Config
from momservice.fields import Schema
from momservice.parts import schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests/data/fragments").glob("*.policy"))
TEXTS = {file.stem: file.read_text(encoding="utf-8") for file in FILES}
KNOWN = schema(Config())
ALL = Schema(replace(KNOWN.host, declared=KNOWN.host.known), replace(KNOWN.guest, declared=KNOWN.guest.known))
PARAMETERS = "(set balloonEnabled True)\n(set ksmEnabled True)\n(set ksmMergeAcrossNodes False)"

GIB = 1 << 20
SHORT: Sample = {
    **{"mem_available": 16 * GIB, "mem_free": GIB, "cpu_count": 8},
    **{"ksm_pages_to_scan": 100, "ksm_shareable": 8 * GIB, "ksm_merge_across_nodes": 0, "ksm_pages_shared": 0},
}
PLENTY: Sample = {**SHORT, "mem_free": 12 * GIB, "ksm_shareable": GIB}
GUEST: Sample = {"balloon_cur": GIB, "balloon_max": 2 * GIB, "balloon_min": 0, "mem_unused": GIB // 2}


def program(parameters: str = PARAMETERS) -> Program:
    loaded = load({**TEXTS, "01-parameters": parameters}, ALL)
    assert loaded.program is not None, loaded.diagnostics
    return loaded.program


def run(host: Sample, *guests: Sample, parameters: str = PARAMETERS, kept: Mapping[str, Value] | None = None) -> Decisions:
    members = [Entity(f"g{number}", [guest] * 3) for number, guest in enumerate(guests)]
    decisions = evaluate(program(parameters), Snapshot(Entity(HOST, [host] * 3, variables=kept or {}), members))
    assert not decisions.failures
    return decisions


def controls(decisions: Decisions, entity: str = HOST) -> dict[str, Value]:
    return {(f"{w.item} " if w.item else "") + w.name: w.value for w in decisions.controls if w.entity == entity}


def test_there_are_six_and_the_parameters_are_only_comments_without_a_final_newline() -> None:
    assert list(TEXTS) == ["00-defines", "01-parameters", "02-balloon", "03-ksm", "04-cputune", "05-iotune"]
    lines = TEXTS["01-parameters"].split("\n")
    assert lines[-1]
    assert all(line.startswith("#") for line in lines)


def test_they_load_without_an_error_or_warning_where_all_fields_are_collected() -> None:
    assert load(TEXTS, ALL).diagnostics == []


def test_the_check_accepts_them_under_the_default_configuration() -> None:
    done = subprocess.run(
        [ROOT / "dev", "exec", "momctl", "policy", "check", *FILES], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_defaults_are_parameters_and_give_way_to_set() -> None:
    assert {name: program().parameters[name] for name in ("balloonEnabled", "ksmMergeAcrossNodes", "balloon_step")} == {
        "balloonEnabled": 0,
        "ksmMergeAcrossNodes": 1,
        "balloon_step": 0.05,
    }
    guest = {**GUEST, "balloon_cur": 2 * GIB}
    assert "balloon_target" in controls(run(SHORT, guest), "g0")
    assert "balloon_target" not in controls(run(SHORT, guest, parameters=""), "g0")


def test_short_of_memory_guests_shrink_by_a_step() -> None:
    assert controls(run(SHORT, {**GUEST, "balloon_cur": 2 * GIB, "mem_unused": GIB}), "g0") == {"balloon_target": 2 * GIB * (1 - 0.05)}


def test_a_guest_keeps_the_minimum_that_it_is_guaranteed() -> None:
    guest = {**GUEST, "balloon_cur": 2 * GIB, "mem_unused": GIB}
    assert controls(run(SHORT, {**guest, "balloon_min": 2 * GIB - 60_000}), "g0") == {"balloon_target": 2 * GIB - 60_000}
    assert controls(run(SHORT, {**guest, "balloon_min": 2 * GIB}), "g0") == {}


def test_with_plenty_of_memory_guests_grow_up_to_their_maximum() -> None:
    assert controls(run(PLENTY, GUEST), "g0") == {"balloon_target": GIB * (1 + 0.05)}
    assert controls(run(PLENTY, {**GUEST, "balloon_cur": 2 * GIB - 10_000}), "g0") == {"balloon_target": 2 * GIB}
    assert controls(run(PLENTY, {**GUEST, "balloon_cur": 2 * GIB}), "g0") == {}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (SHORT, {"ksm_run": 1, "ksm_sleep_millisecs": 10, "ksm_pages_to_scan": 400}),
        ({**SHORT, "ksm_pages_to_scan": 1000}, {"ksm_run": 1, "ksm_sleep_millisecs": 10, "ksm_pages_to_scan": 1250}),
        ({**PLENTY, "ksm_shareable": 14 * GIB}, {"ksm_run": 1, "ksm_sleep_millisecs": 10, "ksm_pages_to_scan": 64}),
        (PLENTY, {"ksm_run": 0}),
    ],
)
def test_ksm_works_while_memory_is_short(host: Sample, expected: Mapping[str, Value]) -> None:
    assert controls(run(host)) == expected


def test_ksm_stops_where_it_is_disabled() -> None:
    assert controls(run(SHORT, parameters="(set balloonEnabled True)")) == {"ksm_run": 0}


def test_merging_across_nodes_changes_in_stages_from_run_to_run() -> None:
    merging = {**SHORT, "ksm_merge_across_nodes": 1, "ksm_pages_shared": 5}
    first = run(merging)
    assert (controls(first), first.variables) == ({"ksm_run": 2}, {HOST: {"ksm_stage": "unmerging"}})
    second = run({**merging, "ksm_pages_shared": 0}, kept=first.variables[HOST])
    assert controls(second) == {"ksm_run": 0, "ksm_merge_across_nodes": 0}
    assert second.variables == {HOST: {"ksm_stage": "changed"}}
    third = run(SHORT, kept=second.variables[HOST])
    assert controls(third)["ksm_run"] == 1
    assert third.variables == {HOST: {"ksm_stage": None}}


CPU: Sample = {**GUEST, "balloon_cur": 2 * GIB, "vcpu_count": 2, "vcpu_quota": -1, "vcpu_period": 100_000, "vcpu_user_limit": 100}


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        (CPU, {}),
        ({**CPU, "vcpu_user_limit": 10}, {"vcpu_quota": 40_000.0, "vcpu_period": 100_000}),
        ({**CPU, "vcpu_user_limit": 10, "vcpu_quota": 40_000}, {}),
        ({**CPU, "vcpu_user_limit": 0}, {"vcpu_quota": 1000, "vcpu_period": 100_000}),
        ({**CPU, "vcpu_quota": 5000}, {"vcpu_quota": -1, "vcpu_period": 100_000}),
        ({**CPU, "vcpu_period": 1000}, {"vcpu_quota": -1, "vcpu_period": 100_000}),
        ({**CPU, "vcpu_count": None}, {}),
    ],
)
def test_the_cpu_quota_is_a_part_of_the_host_s_cpus(guest: Sample, expected: Mapping[str, Value]) -> None:
    assert controls(run(PLENTY, guest), "g0") == expected


def disk(name: str, **members: Mapping[str, Value]) -> Mapping[str, Value]:
    none = dict.fromkeys(("total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec"), 0)
    return {"name": name, "path": f"/{name}", **{part: {**none, **members.get(part, {})} for part in ("guaranteed", "maximum", "current")}}


def test_limits_of_disks_are_kept_between_guarantee_and_maximum() -> None:
    above = disk("vda", maximum={"total_bytes_sec": 500}, current={"total_bytes_sec": 900, "read_iops_sec": 7})
    below = disk("vdb", guaranteed={"write_iops_sec": 50}, maximum={"write_iops_sec": 80}, current={"write_iops_sec": 20})
    unlimited = disk("vdc", maximum={"read_bytes_sec": 3})
    within = disk("vdd", guaranteed={"total_iops_sec": 1}, maximum={"total_iops_sec": 9}, current={"total_iops_sec": 5})
    tuned = run(PLENTY, {**GUEST, "balloon_cur": 2 * GIB, "io_tune": [above, below, unlimited, within]})
    assert controls(tuned, "g0") == {"vda total_bytes_sec": 500, "vdb write_iops_sec": 50, "vdc read_bytes_sec": 3}


def test_a_guest_without_figures_stops_no_other() -> None:
    members = [Entity("g0", [{"balloon_cur": GIB}]), Entity("g1", [{**GUEST, "vcpu_user_limit": 10, "vcpu_count": 2}])]
    decisions = evaluate(program(), Snapshot(Entity(HOST, [PLENTY] * 3), members))
    assert {failure.entity for failure in decisions.failures} == {"g0"}
    assert set(controls(decisions, "g1")) == {"balloon_target", "vcpu_quota", "vcpu_period"}
