# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies see of a guest."""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from momservice.collectors import GuestCollector, Moment
from momservice.collectors.guest_balloon import GuestBalloon, GuestBalloonOptional
from momservice.collectors.guest_libvirt import GuestLibvirt
from momservice.collectors.guest_memory import GuestMemory, GuestMemoryOptional
from momservice.collectors.guest_qemu_proc import GuestQemuProc
from momservice.collectors.guest_state import GuestState
from momservice.collectors.planned import PLANNED
from momservice.hypervisor import JOB_UNKNOWN, Facts, GuestRecord
from momservice.hypervisor.facts import parse_facts
from momservice.hypervisor.records import make_record

RECORDED = {
    guest["name"]: make_record(guest["uuid"], guest["name"], guest["stats"], parse_facts(guest["xml"]), 0, None)
    for guest in json.loads((Path(__file__).parent.parent / "data/libvirt-guests.json").read_text(encoding="utf-8"))["guests"]
}
WELL = RECORDED["well"]
NOW_S = WELL.balloon["last-update"] + 2
MEMORY = {
    "mem_available": 94800,
    "mem_unused": 67820,
    "mem_free": 73380,
    "major_fault": 0,
    "minor_fault": 964,
    "swap_in": 0,
    "swap_out": 0,
}
BALLOON = {"balloon_cur": 131072, "balloon_max": 131072, "balloon_min": 65536}
ALL: list[GuestCollector] = [
    GuestMemory(), GuestMemoryOptional(), GuestBalloon(), GuestBalloonOptional(), GuestLibvirt(), GuestQemuProc(), GuestState()
]  # fmt: skip


def moment(age_s: float = 0) -> Moment:
    return Moment(0, NOW_S + age_s, 5)


@pytest.mark.parametrize("collector", ALL, ids=lambda collector: collector.NAME)
@pytest.mark.parametrize("name", RECORDED)
def test_only_declared_fields_of_the_declared_type_come(collector: GuestCollector, name: str) -> None:
    types = {"int": int, "bool": bool}
    declared = {field.name: types[field.type] for field in collector.FIELDS}
    for field, value in collector.collect(RECORDED[name], moment()).items():
        assert type(value) is declared[field]


@pytest.mark.parametrize("collector", [GuestMemory(), GuestMemoryOptional()])
def test_memory_figures_come_from_the_balloon_driver(collector: GuestCollector) -> None:
    assert collector.collect(WELL, moment()) == MEMORY


@pytest.mark.parametrize("collector", [GuestBalloon(), GuestBalloonOptional()])
def test_balloon_sizes_and_bounds(collector: GuestCollector) -> None:
    assert collector.collect(WELL, moment()) == BALLOON


def test_guest_libvirt_gives_both_and_the_names_of_2011() -> None:
    again = {"libvirt_curmem": 131072, "libvirt_maxmem": 131072, "libvirt_state": 1}
    assert GuestLibvirt().collect(WELL, moment()) == MEMORY | BALLOON | again


def test_old_statistics_are_nil_and_sizes_are_not() -> None:
    assert GuestMemory().collect(WELL, moment(14)) == {}
    assert GuestBalloon().collect(WELL, moment(14)) == BALLOON


@pytest.mark.parametrize("name", ["no-driver", "no-balloon", "hung"])
def test_a_guest_without_statistics_has_nil_and_no_zeros(name: str) -> None:
    assert GuestMemory().collect(RECORDED[name], moment()) == {}


def test_a_statistic_that_the_driver_does_not_report_is_nil() -> None:
    balloon = {name: value for name, value in WELL.balloon.items() if name != "usable"}
    assert "mem_free" not in GuestMemory().collect(replace(WELL, balloon=balloon), moment())


@pytest.mark.parametrize(
    ("record", "held"),
    [(WELL, False), (RECORDED["paused"], True), (replace(WELL, job=2), True), (replace(WELL, job=JOB_UNKNOWN), True)],
)
def test_held_by_state_and_job(record: GuestRecord, held: bool) -> None:
    assert GuestState().collect(record, moment())["held"] is held


@pytest.mark.parametrize(
    ("record", "age_s", "seen", "works"),
    [
        (WELL, 0, None, True),
        (WELL, 0, True, True),
        (WELL, 0, False, False),
        (WELL, 100, True, False),
        (RECORDED["no-driver"], 0, None, False),
        (RECORDED["no-balloon"], 0, None, False),
        (RECORDED["paused"], 100, None, None),
        (RECORDED["paused"], 100, True, True),
        (RECORDED["paused"], 100, False, False),
    ],
)
def test_whether_the_balloon_works(record: GuestRecord, age_s: float, seen: bool | None, works: bool | None) -> None:
    assert GuestState(lambda uuid: seen).collect(record, moment(age_s)).get("balloon_works") is works


def test_mergeable_says_whether_ksm_can_merge_it() -> None:
    assert GuestState().collect(WELL, moment())["mergeable"] is True
    hidden = replace(WELL, facts=Facts(unmergeable="hugepages"))
    assert GuestState().collect(hidden, moment())["mergeable"] is False


def test_settings_are_declared_and_nil() -> None:
    settings = {"shares", "balloon_enabled", "ksm_enabled", "swap_limit"}
    assert settings <= {field.name for field in GuestState.FIELDS}
    assert not settings & GuestState().collect(WELL, moment()).keys()


def test_process_figures_are_since_the_last_sample(tmp_path: Path) -> None:
    (tmp_path / "qemu-kvm").symlink_to("/bin/sleep")
    with subprocess.Popen([tmp_path / "qemu-kvm", "60"]) as process:
        collector, record = GuestQemuProc(), replace(WELL, pid=process.pid)
        first = collector.collect(record, moment())
        assert first.keys() == {"rss"}
        second = collector.collect(record, moment())
        assert second.keys() == {"rss", "host_minor_faults", "host_major_faults"}
        collector.forget(WELL.uuid)
        assert collector.collect(record, moment()).keys() == {"rss"}
        process.kill()
    assert collector.collect(record, moment()) == {}


def test_a_guest_that_started_again_does_not_count_from_its_old_process(tmp_path: Path) -> None:
    (tmp_path / "qemu-kvm").symlink_to("/bin/sleep")
    collector = GuestQemuProc()
    for _ in range(2):
        with subprocess.Popen([tmp_path / "qemu-kvm", "60"]) as process:
            assert collector.collect(replace(WELL, pid=process.pid), moment()).keys() == {"rss"}
            process.kill()
        # The kernel tells starts in ticks of 10 ms.
        time.sleep(0.02)


@pytest.mark.parametrize("pid", [None, os.getpid(), 2**22 + 1], ids=["none", "own", "gone"])
def test_a_pid_that_is_no_qemu_gives_nothing(pid: int | None) -> None:
    assert GuestQemuProc().collect(replace(WELL, pid=pid), moment()) == {}


def test_collectors_to_come_are_known_with_their_fields() -> None:
    assert set(PLANNED) == {"GuestCpuTune", "GuestIoTune", "GuestIoTuneOptional", "GuestQemuAgent"}
    assert {field.name for field in PLANNED["GuestCpuTune"]} == {"vcpu_quota", "vcpu_period", "vcpu_user_limit", "vcpu_count"}
    assert {field.name for field in PLANNED["GuestQemuAgent"]} == {field.name for field in GuestMemory.FIELDS}
