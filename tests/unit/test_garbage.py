# SPDX-License-Identifier: GPL-2.0-or-later
"""What lives long isn't searched for garbage again and again, and yet no garbage piles up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from momservice import garbage
from momservice.garbage import COUNTED_EVERY_S, Garbage

WORLD: Any = None
MANY, FEW = 200_000, 20_000


class Cycle:
    """Goes only when somebody searches for it."""

    def __init__(self) -> None:
        self.me = self


class Clock:
    """Stands still unless it is told to go on."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> Iterator[Garbage]:
    made = Garbage(clock)
    yield made
    made.end()


def searched() -> int:
    """How many objects a full search would look at now."""
    return len(gc.get_objects())


@pytest.mark.usefixtures("kept")
def test_what_has_outlived_a_search_is_not_searched_again() -> None:
    live = [[Cycle()] for _ in range(MANY)]
    assert searched() < FEW < len(live)


@pytest.mark.usefixtures("kept")
def test_what_was_made_without_the_collector_is_not_searched_at_all() -> None:
    seen = []

    def hear(phase: str, _info: object) -> None:
        if phase == "start":
            seen.append(searched())

    gc.disable()
    live = [[Cycle()] for _ in range(MANY)]
    # Behind the other, so that it sees what is left to be searched.
    gc.callbacks.append(hear)
    gc.enable()
    more = [[Cycle()] for _ in range(1000)]
    gc.callbacks.remove(hear)
    assert seen
    assert max(seen) < FEW < len(live) + len(more)


@pytest.mark.usefixtures("kept")
def test_young_garbage_is_found() -> None:
    made = [weakref.ref(Cycle()) for _ in range(MANY)]
    assert sum(reference() is not None for reference in made) < FEW


def bound(monkeypatch: pytest.MonkeyPatch, growth: int) -> None:
    """How much more may be set aside before all is searched."""
    monkeypatch.setattr(garbage, "SLACK", 0)
    monkeypatch.setattr(garbage, "GROWTH", growth)


def set_aside() -> weakref.ref[Cycle]:
    """A cycle that became garbage after it had been set aside."""
    cycle = Cycle()
    gc.freeze()
    return weakref.ref(cycle)


def test_old_garbage_is_found_when_there_is_much_of_it(kept: Garbage, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, growth=1)
    gone = set_aside()
    live = [[Cycle()] for _ in range(FEW)]
    gc.freeze()
    kept.sampled(WORLD)
    # It has only just been counted.
    assert gone() is not None
    clock.now_s += COUNTED_EVERY_S
    kept.sampled(WORLD)
    assert gone() is None
    assert live


def test_what_is_set_aside_unsearched_is_looked_at_sooner(kept: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading policies leaves garbage by the hundred thousand objects, and clients may load all day."""
    bound(monkeypatch, growth=0)
    gc.disable()
    made = [weakref.ref(Cycle()) for _ in range(MANY)]
    gc.enable()
    # The search that is due now is that of them, and there are too many.
    more = [[Cycle()] for _ in range(1000)]
    assert all(reference() is not None for reference in made)
    kept.sampled(WORLD)
    assert all(reference() is None for reference in made)
    assert more


def test_garbage_is_found_while_a_policy_runs_without_the_collector(kept: Garbage, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, growth=0)
    gone = set_aside()
    gc.disable()
    live = [[Cycle()] for _ in range(FEW)]
    clock.now_s += COUNTED_EVERY_S
    kept.sampled(WORLD)
    gc.enable()
    assert gone() is None
    assert live
