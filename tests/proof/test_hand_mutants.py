# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of 2011 with a mistake that people make: the first error is told at the exact place, with the right code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from proof_seed import TEXT

from momservice.config import Config
from momservice.parts import schema
from momservice.policy import load

SCHEMA = schema(Config())
# What stands in the seed, what stands there instead, line, column and code of the first error.
MUTANTS: Final[Sequence[tuple[str, str, int, int, str]]] = (
    ("ksm_pages_boost 300)", "ksm_pages_boost 300b)", 5, 25, "parse"),
    ("ksm_pages_boost 300)", "ksm_pages_boost 0300)", 5, 25, "parse"),
    ("ksm_pages_decay -50)", "ksm_pages_decay - 50)", 8, 25, "form"),
    ("ksm_npages_min 64)", "ksm_npages_min)", 11, 2, "arity"),
    ("(defvar ksm_npages_max 1250)", "(defvar if 1250)", 12, 9, "form"),
    ("(defvar ksm_npages_max 1250)", "(defvar Host 1250)", 12, 9, "form"),
    ("(defvar ksm_npages_max 1250)", "(defvar ksm.npages_max 1250)", 12, 9, "form"),
    ("(defvar ksm_npages_max 1250)", "(defvar 'ksm_npages_max' 1250)", 12, 9, "form"),
    ("(defvar ksm_free_percent 0.20)", "(defvar ksm_free_percent 0,20)", 23, 27, "parse"),
    ("(defvar ksm_free_percent 0.20)", "(defvar ksm_free_percent 20%)", 23, 28, "parse"),
    ("(defvar ksm_free_percent 0.20)", "(defvar ksm_free_percent = 0.20)", 23, 26, "parse"),
    ("(def change_npages (delta)", "(def change_npages delta", 26, 20, "form"),
    ("(def change_npages (delta)", "(def change_npages (delta delta)", 26, 27, "form"),
    ("(def change_npages (delta)", "(def change_npages (Guests)", 26, 21, "form"),
    ("(def change_npages (delta)", "(define change_npages (delta)", 26, 2, "name"),
    ("(+ Host.ksm_pages_to_scan delta)", "(+ Host.ksm_pages_to_scam delta)", 28, 23, "name"),
    ("(+ Host.ksm_pages_to_scan delta)", "(+ Hosts.ksm_pages_to_scan delta)", 28, 23, "name"),
    ("(+ Host.ksm_pages_to_scan delta)", "(+ Host..ksm_pages_to_scan delta)", 28, 23, "parse"),
    ("(set newval ksm_npages_max) 1)", "(set newval ksm_npages_mx) 1)", 29, 48, "name"),
    ("(set newval ksm_npages_max) 1)", "(set newvalue ksm_npages_max) 1)", 29, 41, "name"),
    ("(set newval ksm_npages_max) 1)", "(set newval ksm_npages_max))", 29, 6, "arity"),
    ('(Host.Control "ksm_pages_to_scan" newval)', '(Host.Contrl "ksm_pages_to_scan" newval)', 31, 6, "name"),
    ('(Host.Control "ksm_pages_to_scan" newval)', '(Host.Control "ksm_pages_to_scan")', 31, 6, "arity"),
    ('(Host.Control "ksm_pages_to_scan" newval)', '(Host.Control "ksm_pages_to_scan newval)', 31, 19, "parse"),
    ("(defvar ksm_committed Host.ksm_shareable)", "(defvar ksm_committed Host.ksm.shareable)", 42, 23, "name"),
    ("(defvar ksm_committed Host.ksm_shareable)", "(defvar ksm_committed Host.StatAvg)", 42, 23, "form"),
    ('(Host.Control "ksm_run" 0)\n    {', '(Host.Control "ksm_run" 0)\n    ', 54, 5, "parse"),
    ("(change_npages ksm_pages_boost)", "(change_npages ksm_pages_boost 1)", 52, 44, "arity"),
    ("(change_npages ksm_pages_decay))\n", "(change_npage ksm_pages_decay))\n", 53, 13, "name"),
    ("new_val guest.libvirt_curmem))", "new_val guest.libvirt_curmen))", 84, 29, "name"),
    ("new_val guest.libvirt_curmem))", "new_val (guest.libvirt_curmem)))", 84, 30, "name"),
    ('(guest.StatAvg "mem_unused")', '(guest.StatAvg "mem_unusd")', 103, 46, "unknown-field"),
    ('(guest.StatAvg "mem_unused")', "(guest.StatAvg mem_unused)", 103, 46, "name"),
    ('(guest.StatAvg "mem_unused")', '(guest.Prop "mem_unused")', 103, 43, "unknown-prop"),
    ("(+ -0.05 host_free_percent)", "(+ -0.05 host_free_precent)", 95, 45, "name"),
    ("(+ -0.05 host_free_percent)", "(+ -.05. host_free_percent)", 95, 39, "parse"),
    ("(- 1 max_balloon_change_percent)", "(- 1 -- max_balloon_change_percent)", 108, 34, "form"),
    ("(- 1 max_balloon_change_percent)", "(1 - max_balloon_change_percent)", 108, 30, "form"),
    ("(def grow_guest (guest)\n{", "(def grow_guest (guest)\n}", 121, 1, "parse"),
    ("(defvar host_free_percent (/", "(defvar host_free_percent (÷", 152, 28, "parse"),
    ("(with Guests guest (shrink_guest guest))", "(with (Guests) guest (shrink_guest guest))", 154, 11, "form"),
    ("(with Guests guest (shrink_guest guest))", "(with Guests nil (shrink_guest guest))", 154, 18, "form"),
    ("(with Guests guest (shrink_guest guest))", "(with Guests (shrink_guest guest))", 154, 6, "arity"),
    ("(with Guests guest (shrink_guest guest))", "(with Guest guest (shrink_guest guest))", 154, 11, "name"),
    ("(with Guests guest (grow_guest guest)))", "(with Guests guest (grow_guest guest))", 153, 1, "parse"),
    ("(with Guests guest (grow_guest guest)))", "(with Guests guest (grow_guest guest))))", 155, 44, "parse"),
    ("(with Guests guest (grow_guest guest)))", "(with Guests guest (grow_guests guest)))", 155, 25, "name"),
)


@pytest.mark.parametrize(("old", "new", "line", "column", "code"), MUTANTS)
def test_a_mistake_in_the_seed_is_told_where_it_is(old: str, new: str, line: int, column: int, code: str) -> None:
    assert old in TEXT
    loaded = load({"50_main_": TEXT.replace(old, new, 1)}, SCHEMA)
    assert loaded.program is None
    first = next(found for found in loaded.diagnostics if found.severity == "error")
    assert (first.place.line, first.place.column, first.code) == (line, column, code), str(first)
