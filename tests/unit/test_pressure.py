# SPDX-License-Identifier: GPL-2.0-or-later
"""The level of memory pressure holds on: it doesn't flutter about a threshold."""

from __future__ import annotations

from momservice.pressure import FULL, SOME, Pressure


def levels(*averages: tuple[float, float]) -> list[str]:
    pressure = Pressure()
    found: list[str] = []
    for some, full in averages:
        before = pressure.level
        assert pressure.update({SOME: some, FULL: full}) == (pressure.level != before)
        found.append(pressure.level)
    return found


def test_a_level_begins_at_its_threshold_and_ends_below_half_of_it() -> None:
    assert levels((9.9, 4.9), (10.0, 0.0), (9.9, 0.0), (5.0, 0.0), (4.9, 0.0)) == ["none", "some", "some", "some", "none"]
    assert levels((50.0, 4.9), (50.0, 5.0), (50.0, 2.5), (50.0, 2.4), (0.0, 0.0)) == ["some", "full", "full", "some", "none"]


def test_full_ends_in_some_as_long_as_that_lasts() -> None:
    assert levels((8.0, 5.0), (8.0, 0.0), (4.9, 0.0)) == ["full", "some", "none"]


def test_without_figures_the_level_stays() -> None:
    pressure = Pressure()
    assert not pressure.update({})
    pressure.update({SOME: 20.0, FULL: 0.0})
    assert not pressure.update({})
    assert not pressure.update({SOME: None, FULL: 9.0})
    assert (pressure.level, pressure.some, pressure.full) == ("some", 20.0, 0.0)
