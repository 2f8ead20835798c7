# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper where the kernel takes its time: pages being unmerged, on a folder of plain files."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ksm_folder import FOUND, Kernel, furnish, memory, opened, refusal

from momhelper import ksm
from momservice.bus.connection import ERROR, CallError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return furnish(tmp_path)


@pytest.fixture
def kernel(root: Path) -> Iterator[Kernel]:
    with opened(root) as kernel:
        yield kernel


def test_unmerging_is_answered_at_once_and_holds_nobody_up(kernel: Kernel) -> None:
    kernel.share(1000)
    kernel.may_unmerge.clear()
    assert kernel.apply({"run": 2, "sleep_millisecs": 50}) == {"run": 2, "sleep_millisecs": 50}
    assert kernel.figure("pages_sharing") == 1000
    # What the kernel would block for is refused, anything else goes on.
    for knob in ("run", "merge_across_nodes", "max_page_sharing"):
        with pytest.raises(CallError, match=f"^{knob}: the kernel takes it only while"):
            kernel.apply({knob: 0})
    assert kernel.apply({"run": 2, "pages_to_scan": 400}) == {"run": 2, "pages_to_scan": 400}
    # Restore doesn't wait, and finishes later.
    assert not kernel.restore()
    assert kernel.saved.keys() == {"run", "merge_across_nodes", "max_page_sharing"}
    assert kernel.read() == {**FOUND, "run": 2}
    kernel.wait()
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_an_unmerge_that_waits_for_ksmd_is_under_way(kernel: Kernel) -> None:
    kernel.may_begin.clear()
    kernel.apply({"run": 2})
    assert kernel.read()["run"] == 2
    with pytest.raises(CallError, match=r"^run: the kernel takes it only while"):
        kernel.apply({"run": 0})
    kernel.may_begin.set()
    assert kernel.restore(wait_s=30)
    assert kernel.read() == FOUND


def test_restore_may_wait_for_unmerging(kernel: Kernel) -> None:
    kernel.share(1000)
    kernel.may_unmerge.clear()
    kernel.apply({"run": 2})
    threading.Timer(0.05, kernel.may_unmerge.set).start()
    assert kernel.restore(wait_s=30)
    assert kernel.read() == FOUND


@pytest.mark.parametrize(("pages", "fits"), [(225_000, True), (225_001, False)])
def test_unmerging_needs_room_for_the_pages_and_a_twentieth_of_all_memory(kernel: Kernel, root: Path, pages: int, fits: bool) -> None:
    memory(root, 100_000 + 225_000 * os.sysconf("SC_PAGE_SIZE") // 1024)
    kernel.share(pages)
    if fits:
        assert kernel.apply({"run": 2}) == {"run": 2}
    else:
        assert refusal(kernel, run=2).text == "run: the host has no room for the unmerged pages"


def test_unmerging_nothing_needs_no_room(kernel: Kernel, root: Path) -> None:
    memory(root, 1)
    assert kernel.apply({"run": 2}) == {"run": 2}


def test_merged_empty_pages_need_room_as_well(kernel: Kernel, root: Path) -> None:
    memory(root, 100_000)
    kernel.set("ksm_zero_pages", 1)
    assert "no room" in refusal(kernel, run=2).text


def test_unmerging_is_limited_in_rate(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.apply({"run": 2})
        kernel.wait()
        kernel.apply({"run": 1})
    with pytest.raises(CallError, match=r"^run: pages were unmerged a short while ago") as caught:
        kernel.apply({"run": 2})
    assert caught.value.name == ERROR + "LimitsExceeded"


def test_restore_unmerges_for_what_needs_it_if_there_is_room(kernel: Kernel) -> None:
    kernel.apply({"merge_across_nodes": 0, "run": 1})
    kernel.share(1000)
    assert kernel.restore(wait_s=30)
    assert kernel.written.count(("run", 2)) == 1
    assert kernel.read() == FOUND


def test_without_room_it_stays_in_the_file_and_goes_back_later(kernel: Kernel, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel.apply({"merge_across_nodes": 0, "max_page_sharing": 99, "run": 1})
    kernel.share(1000)
    memory(root, 1)
    for _ in range(3):
        assert not kernel.restore()
    assert kernel.read() == {**FOUND, "merge_across_nodes": 0, "max_page_sharing": 99}
    assert json.loads((kernel.state / "saved.json").read_text())["knobs"] == {"merge_across_nodes": 1, "max_page_sharing": 256}
    assert len([record for record in caplog.records if "not yet" in record.message and record.levelname == "WARNING"]) == 1
    kernel.share(0)
    assert Kernel(root).restore()
    assert kernel.read() == FOUND


def test_what_is_still_to_go_back_is_not_forgotten_by_the_next_write(kernel: Kernel, root: Path) -> None:
    kernel.apply({"merge_across_nodes": 0})
    kernel.share(1000)
    memory(root, 1)
    kernel.restore()
    kernel.apply({"run": 1})
    assert Kernel(root).saved == FOUND


def test_pages_shared_do_not_keep_back_what_is_as_it_was(kernel: Kernel) -> None:
    kernel.apply({"run": 1})
    kernel.share(1000)
    assert kernel.restore()
    assert (kernel.read(), kernel.figure("pages_sharing")) == (FOUND, 1000)


def test_found_unmerged_is_restored_only_with_room(kernel: Kernel, root: Path) -> None:
    kernel.set("run", 2)
    kernel.apply({"run": 1})
    kernel.share(1000)
    memory(root, 1)
    assert not kernel.restore()
    assert kernel.read()["run"] == 1
    memory(root, 1_000_000)
    assert kernel.restore(wait_s=30)
    assert kernel.read()["run"] == 2


def test_pages_unmerged_in_no_time_keep_nothing_back(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(threading.Thread):
        """Has ended before anybody looks."""

        def start(self) -> None:
            super().start()
            self.join()

    kernel.apply({"merge_across_nodes": 0, "run": 1})
    kernel.share(1)
    monkeypatch.setattr(ksm, "threading", SimpleNamespace(Thread=Quick))
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_a_refused_knob_keeps_none_of_the_others_back(kernel: Kernel) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200, "sleep_millisecs": 30})
    kernel.refuse = {"pages_to_scan"}
    assert not kernel.restore()
    assert kernel.saved == {"pages_to_scan": 100}
    assert kernel.read() == {**FOUND, "pages_to_scan": 200}
