# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's answers, recorded and hostile -> guest records."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from momservice.hypervisor import JOB_UNKNOWN, Facts, GuestRecord
from momservice.hypervisor.facts import UNREADABLE, parse_facts
from momservice.hypervisor.guests_state import held_reason, stale_reason
from momservice.hypervisor.processes import find_qemu, read_stat
from momservice.hypervisor.records import clean_balloon, clean_name, make_record

RECORDED = json.loads((Path(__file__).parent.parent / "data/libvirt-guests.json").read_text(encoding="utf-8"))["guests"]
UUID = "00000000-0000-4000-8000-000000000001"


def recorded(name: str) -> Mapping[str, Any]:
    (guest,) = [guest for guest in RECORDED if guest["name"] == name]
    return dict(guest)


def record_of(name: str, job: int = 0) -> GuestRecord:
    guest = recorded(name)
    return make_record(guest["uuid"], guest["name"], guest["stats"], parse_facts(guest["xml"]), job, None)


def domain(inner: str) -> str:
    return f"<domain type='qemu'><devices><memballoon model='virtio'/></devices>{inner}</domain>"


def test_a_well_guest_has_all_figures() -> None:
    record = record_of("well")
    assert (record.state, record.job, held_reason(record)) == (1, 0, "")
    assert record.balloon["current"] == record.balloon["maximum"] == 131072
    assert {"available", "unused", "usable", "swap_in", "swap_out", "major_fault", "minor_fault", "last-update"} <= record.balloon.keys()
    assert record.facts == Facts(balloon=True, min_guarantee_kib=65536, unmergeable="")


@pytest.mark.parametrize(("name", "balloon"), [("no-driver", True), ("no-balloon", False)])
def test_a_guest_without_driver_or_device_has_no_statistics(name: str, balloon: bool) -> None:
    record = record_of(name)
    assert record.facts.balloon is balloon
    assert stale_reason(record, 1e9, 5) == "the guest gives no memory statistics"


def test_a_paused_guest_is_held() -> None:
    assert held_reason(record_of("paused")) == "the guest is paused"


@pytest.mark.parametrize("state", [0, 2, 3, 4, 5, 6, 7, 99])
def test_a_guest_in_any_state_but_running_is_held(state: int) -> None:
    assert held_reason(GuestRecord(UUID, "g", state))


def test_a_guest_with_a_job_is_held() -> None:
    assert "job" in held_reason(record_of("well", job=2))


def test_a_hung_guest_is_held_and_keeps_its_size() -> None:
    record = record_of("hung", JOB_UNKNOWN)
    assert record.balloon == {"current": 131072, "maximum": 131072}
    assert "doesn't answer" in held_reason(record)


@pytest.mark.parametrize(
    ("age_s", "fresh"),
    [(0, True), (15, True), (15.1, False), (1e6, False), (-10, True), (-60, False)],
)
def test_statistics_older_than_three_intervals_or_from_the_future_are_stale(age_s: float, fresh: bool) -> None:
    record = record_of("well")
    assert (stale_reason(record, record.balloon["last-update"] + age_s, 5) == "") is fresh


@pytest.mark.parametrize("value", [-1, 2**64 - 1, 131073, "67820", None, 1.5, True, [1], float("nan")])
def test_a_figure_that_cannot_be_is_dropped(value: object) -> None:
    stats = {"balloon.maximum": 131072, "balloon.current": 98304, "balloon.unused": value, "balloon.usable": 70000}
    assert clean_balloon(stats) == {"maximum": 131072, "current": 98304, "usable": 70000}


@pytest.mark.parametrize("name", ["current", "maximum", "swap_in", "minor_fault", "last-update"])
@pytest.mark.parametrize("value", [-1, 2**64, "1"])
def test_no_figure_is_taken_unchecked(name: str, value: object) -> None:
    assert name not in clean_balloon({"balloon.maximum": 131072, "balloon.current": 1, f"balloon.{name}": value})


def test_a_size_of_zero_is_no_figure() -> None:
    assert clean_balloon({"balloon.maximum": 0, "balloon.current": 0, "balloon.swap_in": 0}) == {"swap_in": 0}


def test_figures_that_nobody_knows_are_not_passed_on() -> None:
    assert clean_balloon({"balloon.maximum": 10, "balloon.hugetlb_pgalloc": 0, "cpu.time": 5}) == {"maximum": 10}


@pytest.mark.parametrize("state", [-1, "1", None, 2**64])
def test_a_state_that_cannot_be_holds_the_guest(state: object) -> None:
    record = make_record(UUID, "g", {"state.state": state}, Facts(), 0, None)
    assert record.state == 0
    assert held_reason(record)


def test_names_are_made_fit_for_logs() -> None:
    assert clean_name("a\nb\x1b[2J") == "a?b?[2J"
    assert len(clean_name("x" * 10_000)) == 255


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("", ""),
        ("<memoryBacking><nosharepages/></memoryBacking>", "nosharepages"),
        ("<memoryBacking><hugepages/></memoryBacking>", "hugepages"),
        ("<memoryBacking><access mode='shared'/></memoryBacking>", "shared memory"),
        ("<memoryBacking><access mode='private'/></memoryBacking>", ""),
        ("<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>", "shared memory"),
        ("<launchSecurity type='sev'/>", "encrypted"),
    ],
)
def test_why_ksm_cannot_merge_a_guest(inner: str, reason: str) -> None:
    assert parse_facts(domain(inner)).unmergeable == reason


def ovirt(value: str) -> str:
    return f"<metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'><o:minGuaranteedMemoryMb>{value}</o:minGuaranteedMemoryMb></o:vm></metadata>"


MEMTUNE = "<memtune><min_guarantee unit='KiB'>2048</min_guarantee></memtune>"


@pytest.mark.parametrize(
    ("inner", "kib"),
    [
        (ovirt("64"), 65536),
        (ovirt(" 64 ") + MEMTUNE, 65536),
        (MEMTUNE, 2048),
        (ovirt("-1") + MEMTUNE, 2048),
        (ovirt("1e3") + MEMTUNE, 2048),
        (ovirt("9" * 15) + MEMTUNE, 2048),
        (ovirt("9" * 5000), 0),
        (ovirt("\u0664"), 0),
        (ovirt(""), 0),
        (ovirt("64").replace("ovirt.org/vm/1.0", "example.org"), 0),
        ("", 0),
    ],
)
def test_the_guaranteed_minimum(inner: str, kib: int) -> None:
    assert parse_facts(domain(inner)).min_guarantee_kib == kib


@pytest.mark.parametrize(
    "text",
    ["", "<domain>", "no XML", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<domain>" + " " * (4 << 20) + "</domain>", "<a>\0</a>"],
    ids=range(6),
)
def test_a_definition_that_cannot_be_read_lets_nothing_touch_the_guest(text: str) -> None:
    assert parse_facts(text) == UNREADABLE
    assert not UNREADABLE.balloon
    assert UNREADABLE.unmergeable


def test_own_process_can_be_read() -> None:
    stat = read_stat(os.getpid())
    assert stat is not None
    assert stat.rss_pages > 0
    assert stat.minor_faults > 0


def test_a_zombie_is_no_process() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_stat(child.pid) is None
    child.wait()


def start(command: Path) -> subprocess.Popen[bytes]:
    """A process whose command is named like that of QEMU or another program."""
    command.symlink_to("/bin/sleep")
    return subprocess.Popen([command, "60"])


@pytest.mark.parametrize(("command", "found"), [("qemu-system-x86_64", True), ("qemu-kvm", True), ("swtpm", False)])
def test_only_a_process_called_qemu_is_a_guest(tmp_path: Path, command: str, found: bool) -> None:
    with start(tmp_path / command) as process:
        (tmp_path / "g.pid").write_text(f"{process.pid}")
        assert find_qemu("g", tmp_path) == (process.pid if found else None)
        process.kill()


def test_a_process_younger_than_the_pid_file_is_somebody_else(tmp_path: Path) -> None:
    with start(tmp_path / "qemu-kvm") as process:
        file = tmp_path / "g.pid"
        file.write_text(f"{process.pid}\n")
        assert find_qemu("g", tmp_path) == process.pid
        os.utime(file, (file.stat().st_mtime - 100,) * 2)
        assert find_qemu("g", tmp_path) is None
        process.kill()


@pytest.mark.parametrize("text", ["", "-1", "no", "1", "99999999999999999999999999999999999", "\u0661"])
def test_a_pid_file_of_nonsense_names_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "g.pid").write_text(text, encoding="utf-8")
    assert find_qemu("g", tmp_path) is None
    assert find_qemu("absent", tmp_path) is None
    assert find_qemu("../g", tmp_path / "deeper") is None
