# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper's rules on the kernel's own knobs, with memory that really merges."""

import mmap
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import knobs
from lab.common import locked
from momhelper.ksm import FOLDER, TABLE, Knobs
from momservice.bus.connection import CallError

MIB = 64
PAGES = MIB * 256
# Advises memory of one and the same page to be merged; ends with its standard input.
MERGEABLE = f"""
import mmap, sys
memory = mmap.mmap(-1, {MIB} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_MERGEABLE)
memory.write(b"mom!" * ({MIB} << 18))
print("ready", flush=True)
sys.stdin.read()
"""
FAST = {"run": 1, "pages_to_scan": PAGES, "sleep_millisecs": 10}


@pytest.fixture(autouse=True)
def found() -> Iterator[dict[str, str]]:
    """The knobs as found, for this test alone, put back whatever happens."""
    with locked(knobs.LOCK):
        unmerge()
        before = knobs.read()
        try:
            yield before
        finally:
            unmerge()
            assert knobs.restore(before) == {}


def unmerge() -> None:
    """Also what the kernel counts as shared by processes that have ended, until ksmd looks again."""
    if (FOLDER / "pages_shared").read_text() != "0\n":
        (FOLDER / "run").write_text("2")
        (FOLDER / "run").write_text("0")


@pytest.fixture
def helper(tmp_path: Path) -> Knobs:
    return Knobs(FOLDER, tmp_path)


@pytest.fixture
def mergeable() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", MERGEABLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.kill()


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def merge(helper: Knobs) -> None:
    helper.apply(FAST)
    wait_for(lambda: (helper.figure("pages_sharing") or 0) > PAGES * 0.9, "merged pages")


def test_this_kernel_is_known(helper: Knobs, found: dict[str, str]) -> None:
    values = helper.read()
    assert values.keys() <= TABLE.keys()
    assert {name: str(value) for name, value in values.items() if name != "advisor_mode"} == {
        name: text for name, text in found.items() if name in TABLE and name != "advisor_mode"
    }
    assert {"run", "pages_to_scan", "sleep_millisecs", "max_page_sharing"} <= values.keys()


def test_every_knob_can_be_written_and_goes_back(helper: Knobs, found: dict[str, str]) -> None:
    other = {"run": 1, "pages_to_scan": 77, "sleep_millisecs": 33, "merge_across_nodes": 0, "max_page_sharing": 99, "use_zero_pages": 1}
    other |= {"smart_scan": 0, "stable_node_chains_prune_millisecs": 1999, "advisor_target_scan_time": 99, "advisor_max_cpu": 66}
    other |= {"advisor_min_pages_to_scan": 444, "advisor_max_pages_to_scan": 4444}
    wanted = {name: value for name, value in other.items() if name in helper.read()}
    assert helper.apply(wanted) == wanted
    assert helper.restore()
    assert knobs.read() == found


def test_the_least_that_callers_get_is_taken_by_the_kernel(helper: Knobs) -> None:
    least = {name: TABLE[name][2] for name in helper.read() if name not in ("run", "advisor_mode")}
    assert helper.apply(dict.fromkeys(least, 0)) == least


@pytest.mark.skipif(not (FOLDER / "advisor_mode").exists(), reason="a kernel without advisor")
def test_the_advisor_goes_off_for_pages_to_scan_and_comes_back(helper: Knobs) -> None:
    (FOLDER / "advisor_mode").write_text("scan-time")
    before = knobs.read()
    with pytest.raises(OSError, match="Invalid argument"):
        (FOLDER / "pages_to_scan").write_text("300")
    assert helper.apply({"pages_to_scan": 300}) == {"pages_to_scan": 300, "advisor_mode": 0}
    assert helper.restore()
    assert knobs.read() == before


@pytest.mark.usefixtures("mergeable")
def test_shared_pages_keep_some_knobs_until_unmerged(helper: Knobs, found: dict[str, str]) -> None:
    merge(helper)
    # The kernel's own trap, then ours before it.
    with pytest.raises(OSError, match="Device or resource busy"):
        (FOLDER / "merge_across_nodes").write_text("0")
    for knob, value in (("merge_across_nodes", 0), ("max_page_sharing", 99)):
        with pytest.raises(CallError, match=f"^{knob}: the kernel takes it only while no page is shared"):
            helper.apply({knob: value, "pages_to_scan": 1})
    assert helper.apply({"run": 2}) == {"run": 2}
    wait_for(lambda: helper.figure("pages_shared") == 0, "unmerged pages")
    wait_for(lambda: not helper._unmerge.is_alive(), "the end of unmerging")
    assert helper.apply({"merge_across_nodes": 0, "max_page_sharing": 99}) == {"merge_across_nodes": 0, "max_page_sharing": 99}
    assert helper.restore()
    assert knobs.read() == found


@pytest.mark.usefixtures("mergeable")
def test_restore_unmerges_for_a_knob_that_needs_it(helper: Knobs, found: dict[str, str], tmp_path: Path) -> None:
    helper.apply({"merge_across_nodes": 0})
    merge(helper)
    # As the next process after a crash.
    assert Knobs(FOLDER, tmp_path).restore(wait_s=60)
    assert knobs.read() == found
    assert helper.figure("pages_shared") == 0


@pytest.mark.usefixtures("mergeable")
def test_restore_does_not_wait_for_unmerging(helper: Knobs, found: dict[str, str]) -> None:
    merge(helper)
    helper.apply({"run": 2})
    helper.restore()
    here = knobs.read()
    assert {name: here[name] for name in ("pages_to_scan", "sleep_millisecs")} == {
        name: found[name] for name in ("pages_to_scan", "sleep_millisecs")
    }
    assert helper.restore(wait_s=60)
    assert knobs.read() == found


def test_the_page_size_is_what_the_test_takes_it_for() -> None:
    assert mmap.PAGESIZE * 256 == 1 << 20
