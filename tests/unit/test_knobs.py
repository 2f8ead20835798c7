# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which the lab puts KSM's knobs back."""

from __future__ import annotations

from pathlib import Path

from lab import knobs

FOUND = {"advisor_mode": "none", "merge_across_nodes": "1", "pages_to_scan": "100", "run": "0", "sleep_millisecs": "20"}


def test_nothing_is_written_when_nothing_differs() -> None:
    assert knobs.steps(FOUND, dict(FOUND), shared=True) == []


def test_run_comes_last() -> None:
    present = {**FOUND, "run": "1", "pages_to_scan": "400"}
    assert knobs.steps(FOUND, present, shared=True) == [("pages_to_scan", "100"), ("run", "0")]


def test_the_advisor_is_switched_off_before_pages_to_scan_is_written() -> None:
    present = {**FOUND, "advisor_mode": "scan-time", "pages_to_scan": "500"}
    assert knobs.steps(FOUND, present, shared=False) == [("advisor_mode", "none"), ("pages_to_scan", "100"), ("advisor_mode", "none")]


def test_pages_to_scan_is_left_to_an_advisor_that_was_on() -> None:
    saved = {**FOUND, "advisor_mode": "scan-time", "pages_to_scan": "500"}
    assert knobs.steps(saved, FOUND, shared=False) == [("advisor_mode", "scan-time")]


def test_pages_are_unmerged_first_when_merge_across_nodes_has_to_go_back() -> None:
    present = {**FOUND, "merge_across_nodes": "0"}
    assert knobs.steps(FOUND, present, shared=True) == [("run", "2"), ("merge_across_nodes", "1"), ("run", "0")]


def test_nothing_is_unmerged_when_nothing_is_shared() -> None:
    present = {**FOUND, "merge_across_nodes": "0"}
    assert knobs.steps(FOUND, present, shared=False) == [("merge_across_nodes", "1")]


def test_a_knob_of_words_is_read_as_the_chosen_one(tmp_path: Path) -> None:
    (tmp_path / "advisor_mode").write_text("none [scan-time]\n")
    (tmp_path / "run").write_text("1\n")
    read_only = tmp_path / "full_scans"
    read_only.write_text("7\n")
    read_only.chmod(0o444)
    assert knobs.read(tmp_path) == {"advisor_mode": "scan-time", "run": "1"}


def test_one_knob_that_fails_stops_no_other(tmp_path: Path) -> None:
    for name, value in {"run": "1", "sleep_millisecs": "10", "pages_shared": "0"}.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "pages_shared").chmod(0o444)
    # A folder where a file is expected: root may write any file.
    (tmp_path / "smart_scan").mkdir(0o555)
    failed = knobs.restore({"run": "0", "sleep_millisecs": "20", "smart_scan": "1"}, tmp_path)
    assert failed == {"smart_scan": "Is a directory"}
    assert knobs.read(tmp_path) == {"run": "0", "sleep_millisecs": "20"}
