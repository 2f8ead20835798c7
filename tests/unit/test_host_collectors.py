# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's fields: on trees of files made up for the case, and on this machine's own."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from momservice.collectors import HostCollector, Moment
from momservice.collectors.files import MAX_CHARACTERS
from momservice.collectors.host_cpu import HostCpu
from momservice.collectors.host_ksm import HostKSM
from momservice.collectors.host_memory import HostMemory
from momservice.collectors.host_pressure import HostPressure
from momservice.collectors.host_time import HostTime
from momservice.collectors.registry import HOST
from momservice.hypervisor import Facts, GuestRecord
from momservice.snapshot import Sample, Value

MEMINFO = {"MemTotal": 8000, "MemFree": 1000, "MemAvailable": 3000, "Buffers": 200, "Cached": 700, "AnonPages": 4000}
MEMINFO |= {"SwapTotal": 500, "SwapFree": 120}
TYPES = {"int": int, "float": float}
DAMAGE = ["", "\n", "x", "-1", "+1", "0x10", "1e3", "1_0", "٣", "9" * 30, "12.5", "nan", "\0"]


class Tree:
    """A root folder with files of our own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def meminfo(self, **changes: str) -> None:
        values = {name: f"{kib} kB" for name, kib in MEMINFO.items()} | changes
        self.write("proc/meminfo", "".join(f"{name}:   {text}\n" for name, text in values.items()))

    def process(self, pid: int, name: str, parent: int = 1, ticks: tuple[int, int] = (0, 0), anon_kib: int | None = None) -> None:
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) S {parent} 0 0 0 -1 2097216 0 0 0 0 {ticks[0]} {ticks[1]} 0 0 25 5 1 0 27 0 0\n")
        anon = "" if anon_kib is None else f"RssAnon:\t   {anon_kib} kB\n"
        self.write(f"proc/{pid}/status", f"Name:\t{name}\nUmask:\t0022\nState:\tS (sleeping)\n{anon}RssFile:\t 99 kB\n")

    def ksm(self, **files: str) -> None:
        for name, text in files.items():
            self.write(f"sys/kernel/mm/ksm/{name}", f"{text}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def collect(collector: HostCollector, seconds: float = 0, guests: Sequence[GuestRecord] = ()) -> Sample:
    return collector.collect(Moment(1000 + seconds, 0, 5, guests))


def guest(pid: int | None, unmergeable: str = "") -> GuestRecord:
    return GuestRecord(f"uuid-{pid}", "g", 1, pid=pid, facts=Facts(unmergeable=unmergeable))


@pytest.mark.parametrize("name", HOST)
def test_a_root_without_files_gives_no_fields_and_no_error(name: str, tree: Tree) -> None:
    make: Callable[[Path], HostCollector] = HOST[name]
    assert collect(make(tree.root)).keys() <= {"ksm_shareable", *(field.name for field in HostTime.FIELDS)}


@pytest.mark.parametrize("name", HOST)
def test_this_machine_gives_declared_fields_of_declared_types(name: str) -> None:
    collector = HOST[name]()
    types = {field.name: TYPES[field.type] for field in collector.FIELDS}
    for _ in range(2):
        sample = collector.collect(Moment(time.monotonic(), time.time(), 5))
        assert sample
        assert {field: type(value) for field, value in sample.items()} == {field: types[field] for field in sample}


def test_memory(tree: Tree) -> None:
    tree.meminfo()
    assert collect(HostMemory(tree.root)) == {
        "mem_available": 8000,
        "mem_unused": 1000,
        "mem_free": 1900,
        "mem_reclaimable": 3000,
        "anon_pages": 4000,
        "swap_total": 500,
        "swap_usage": 380,
    }


@pytest.mark.parametrize(
    ("size", "minimum", "reclaimable"), [(3 << 20, 1 << 20, 5048), (1 << 20, 1 << 20, 3000), (1, 1 << 40, 3000), (1 << 40, 0, 8000)]
)
def test_the_arc_above_its_minimum_is_reclaimable(tree: Tree, size: int, minimum: int, reclaimable: int) -> None:
    tree.meminfo()
    tree.write("proc/spl/kstat/zfs/arcstats", f"9 1 0x01 147 39984 1 2\nname type data\nhits 4 5\nc_min 4 {minimum}\nsize 4 {size}\n")
    assert collect(HostMemory(tree.root))["mem_reclaimable"] == reclaimable


@pytest.mark.parametrize("lines", ["size 4 99999999\n", "c_min 4 5\n", "size 4 x\nc_min 4 5\n", "size 4 99999999\nc_min 4 -1\n"])
def test_damaged_arc_statistics_count_for_nothing(tree: Tree, lines: str) -> None:
    tree.meminfo()
    tree.write("proc/spl/kstat/zfs/arcstats", lines)
    assert collect(HostMemory(tree.root))["mem_reclaimable"] == 3000


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("MemTotal", {"mem_available"}),
        ("MemFree", {"mem_unused", "mem_free"}),
        ("Cached", {"mem_free"}),
        ("MemAvailable", {"mem_reclaimable"}),
        ("AnonPages", {"anon_pages"}),
        ("SwapTotal", {"swap_total", "swap_usage"}),
        ("SwapFree", {"swap_usage"}),
    ],
)
def test_a_damaged_line_costs_its_own_fields_only(tree: Tree, name: str, lost: set[str], damage: str) -> None:
    tree.meminfo()
    whole = collect(HostMemory(tree.root))
    tree.meminfo(**{name: damage})
    assert whole.keys() - collect(HostMemory(tree.root)).keys() == lost


def test_more_free_than_total_swap_is_no_usage(tree: Tree) -> None:
    tree.meminfo(SwapFree="501 kB")
    assert "swap_usage" not in collect(HostMemory(tree.root))


def test_swapping_is_counted_from_sample_to_sample(tree: Tree) -> None:
    memory, samples = HostMemory(tree.root), list[tuple[Value, Value]]()
    for swapped_in, swapped_out in ((5, 100), (8, 100), (7, "x"), (9, 300), ("", ""), (9, "")):
        tree.write("proc/vmstat", f"pswpin {swapped_in}\npswpout {swapped_out}\n")
        sample = collect(memory)
        samples.append((sample.get("swap_in"), sample.get("swap_out")))
    assert samples == [(None, None), (3, 0), (None, None), (2, None), (None, None), (None, None)]


def test_a_file_without_end_is_no_file(tree: Tree) -> None:
    tree.write("proc/meminfo", "MemTotal: 5 kB\n" + "x" * MAX_CHARACTERS)
    assert collect(HostMemory(tree.root)) == {}


def test_pressure(tree: Tree) -> None:
    tree.write("proc/pressure/memory", "some avg10=1.50 avg60=99.99 avg300=3.00 total=4\nfull avg10=0.00 avg60=100.00 total=0\n")
    assert collect(HostPressure(tree.root)) == {
        "psi_mem_some_avg10": 1.5,
        "psi_mem_some_avg60": 99.99,
        "psi_mem_full_avg10": 0.0,
        "psi_mem_full_avg60": 100.0,
    }


@pytest.mark.parametrize("damage", ["", "x", "-1", "nan", "inf", "1e1", "100.01", "1.2.3", ".", "1,5"])
def test_damaged_pressure_costs_one_field(tree: Tree, damage: str) -> None:
    tree.write("proc/pressure/memory", f"some avg10={damage} avg60=2.00 avg300=3.00 total=4\nother avg10=1.00\n\nfull\n")
    assert collect(HostPressure(tree.root)) == {"psi_mem_some_avg60": 2.0}


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8,10-11\n", 7), ("0-65535\n", 65536)])
def test_cpus(tree: Tree, text: str, count: int) -> None:
    tree.write("sys/devices/system/cpu/online", text)
    assert collect(HostCpu(tree.root)) == {"cpu_count": count}


@pytest.mark.parametrize("text", ["", "\n", "x", "3-1", "0-", "-1", "0,,1", "0-99999999999", "1-2-3", "0;1", "0-65535,0-5"])
def test_damaged_cpu_lists(tree: Tree, text: str) -> None:
    tree.write("sys/devices/system/cpu/online", text)
    assert collect(HostCpu(tree.root)) == {}


def test_the_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = Moment(0, 1_700_000_000.25, 5)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        there = HostTime().collect(moment)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert list(there.values()) == [2023, 11, 15, 3, 43, 20, 250_000]
    assert [name.removeprefix("time_") for name in there] == ["year", "month", "day", "hour", "minute", "second", "microsecond"]


@pytest.mark.parametrize("wall_s", [float("inf"), float("nan"), 1e300, -1e300])
def test_no_calendar_has_such_a_time(wall_s: float) -> None:
    assert HostTime().collect(Moment(0, wall_s, 5)) == {}


def test_ksm_as_in_sysfs(tree: Tree) -> None:
    tree.ksm(run="1", pages_to_scan="100", full_scans="7", pages_sharing="12345", general_profit="-4096", advisor_mode="none [scan-time]")
    tree.ksm(ksm_zero_pages="3", max_page_sharing="256")
    assert collect(HostKSM(tree.root)) == {
        "ksm_run": 1,
        "ksm_pages_to_scan": 100,
        "ksm_full_scans": 7,
        "ksm_pages_sharing": 12345,
        "ksm_general_profit": -4096,
        "ksm_advisor_mode": 1,
        "ksm_zero_pages": 3,
        "ksm_shareable": 0,
    }


@pytest.mark.parametrize("damage", [*DAMAGE, "[none", "none]", "[other]"])
def test_a_damaged_ksm_file_costs_its_own_field(tree: Tree, damage: str) -> None:
    tree.ksm(run="1", pages_to_scan=damage, advisor_mode=damage)
    assert collect(HostKSM(tree.root)) == {"ksm_run": 1, "ksm_shareable": 0}


def test_shareable_is_the_anonymous_memory_of_mergeable_guests_and_only_theirs(tree: Tree) -> None:
    tree.process(10, "qemu-system-x86", anon_kib=1000)
    tree.process(11, "qemu-kvm", anon_kib=200)
    tree.process(12, "qemu-system-x86", anon_kib=50_000)
    tree.process(13, "postgres", anon_kib=70_000)
    tree.process(14, "qemu-system-x86")
    guests = [guest(10), guest(11), guest(12, "hugepages"), guest(None), guest(999), guest(14)]
    assert collect(HostKSM(tree.root), guests=guests)["ksm_shareable"] == 1200


def test_another_program_with_a_guests_old_number_does_not_count(tree: Tree) -> None:
    tree.process(10, "postgres", anon_kib=70_000)
    tree.process(11, "x\nName:\tqemu", anon_kib=70_000)
    assert collect(HostKSM(tree.root), guests=[guest(10), guest(11)])["ksm_shareable"] == 0


def test_ksmds_share_of_a_cpu_comes_from_the_time_that_really_passed(tree: Tree) -> None:
    tree.process(37, "ksmd", 2, (100, 50))
    ksm, second = HostKSM(tree.root), os.sysconf("SC_CLK_TCK")
    assert "ksmd_cpu_usage" not in collect(ksm)
    tree.process(37, "ksmd", 2, (100 + second, 50 + second))
    assert collect(ksm, 8)["ksmd_cpu_usage"] == pytest.approx(25)
    assert collect(ksm, 10)["ksmd_cpu_usage"] == 0
    # No time has passed, or the count went back: no figure.
    assert "ksmd_cpu_usage" not in collect(ksm, 10)
    tree.process(37, "ksmd", 2, (0, 0))
    assert "ksmd_cpu_usage" not in collect(ksm, 20)


def test_only_the_kernels_own_ksmd_counts(tree: Tree) -> None:
    tree.process(5, "ksmd", 1, (10**6, 0))
    tree.process(6, "a) S 2 (ksmd", 2, (10**6, 0))
    tree.process(40, "ksmd", 2, (0, 0))
    ksm = HostKSM(tree.root)
    collect(ksm)
    tree.process(5, "ksmd", 1, (10**9, 0))
    assert collect(ksm, 10)["ksmd_cpu_usage"] == 0
    # Its number is another's now.
    tree.process(40, "bash", 2, (10**6, 0))
    assert "ksmd_cpu_usage" not in collect(ksm, 20)


def test_ksmd_is_searched_only_once(tree: Tree) -> None:
    tree.process(1, "systemd")
    ksm = HostKSM(tree.root)
    collect(ksm)
    tree.process(37, "ksmd", 2)
    collect(ksm, 5)
    assert "ksmd_cpu_usage" not in collect(ksm, 10)


@pytest.mark.parametrize("stat", ["", "37", "37 (ksmd", "37 (ksmd) S", "37 (ksmd) S 2 0 0", "37 (ksmd) S 2 0 0 0 0 0 0 0 0 0 x 0 0"])
def test_a_damaged_stat_is_no_ksmd(tree: Tree, stat: str) -> None:
    tree.write("proc/37/stat", stat)
    ksm = HostKSM(tree.root)
    assert collect(ksm) == collect(ksm, 5) == {"ksm_shareable": 0}
