# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests are told how often to report statistics: once when found, again while they keep silent."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest

from momservice.controllers import HelperUnavailable, World
from momservice.controllers.guest_helper import Result
from momservice.controllers.stats_period import StatsPeriod
from momservice.hypervisor import Facts, GuestRecord

A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
WALL_S = 1_000_000


@dataclass
class Helper:
    """Stands for momhelper-guests."""

    answer: Result = ("ok", "")
    gone: bool = False
    calls: list[tuple[list[str], int]] = field(default_factory=list)

    async def set_stats_period(self, uuids: Sequence[str], seconds: int) -> Mapping[str, Result]:
        self.calls.append((list(uuids), seconds))
        if self.gone:
            raise HelperUnavailable("gone")
        return dict.fromkeys(uuids, self.answer)


def guest(uuid: str = A, *, state: int = 1, pid: int = 1, balloon: bool = True, told_s: int = WALL_S) -> GuestRecord:
    figures = MappingProxyType({"available": 1, "last-update": told_s})
    return GuestRecord(uuid, "g", state, 1, 0, pid, figures, Facts(balloon=balloon))


def ensure(period: StatsPeriod, *guests: GuestRecord, seconds: float = 0, interval_s: float = 5) -> None:
    world = World({}, {g.uuid: g for g in guests}, seconds, WALL_S, interval_s)
    asyncio.run(period.ensure(guests, world))


def test_new_guests_are_told_once_all_in_one_call() -> None:
    helper = Helper()
    period = StatsPeriod(helper)
    ensure(period, guest(A), guest(B))
    ensure(period, guest(A), guest(B), seconds=5)
    ensure(period, guest(A), guest(B), seconds=9999)
    assert helper.calls == [([A, B], 5)]


@pytest.mark.parametrize(("interval_s", "told"), [(0.2, 1), (1, 1), (4.1, 5), (100_000, 3600)])
def test_the_period_is_the_guest_interval_rounded_up(interval_s: float, told: int) -> None:
    helper = Helper()
    ensure(StatsPeriod(helper), guest(), interval_s=interval_s)
    assert helper.calls == [([A], told)]


@pytest.mark.parametrize("record", [guest(balloon=False), guest(state=3)])
def test_guests_without_balloon_and_held_ones_are_not_told(record: GuestRecord) -> None:
    helper = Helper()
    ensure(StatsPeriod(helper), record)
    assert not helper.calls


def test_a_guest_that_started_again_is_told_again() -> None:
    helper = Helper()
    period = StatsPeriod(helper)
    ensure(period, guest(pid=1))
    ensure(period, guest(pid=2), seconds=1)
    ensure(period, seconds=2)
    ensure(period, guest(pid=2), seconds=3)
    assert len(helper.calls) == 3


def test_a_new_interval_is_told() -> None:
    helper = Helper()
    period = StatsPeriod(helper)
    ensure(period, guest())
    ensure(period, guest(), seconds=1, interval_s=2)
    assert [seconds for _, seconds in helper.calls] == [5, 2]


@pytest.mark.parametrize("answer", [("ok", ""), ("busy", "a job"), ("failed", "no")])
def test_a_guest_that_keeps_silent_is_told_again_ever_more_seldom(answer: Result) -> None:
    helper = Helper(answer)
    period = StatsPeriod(helper)
    times = []
    for seconds in range(0, 1000, 5):
        before = len(helper.calls)
        ensure(period, guest(told_s=0), seconds=seconds)
        if len(helper.calls) > before:
            times.append(seconds)
    assert times == [0, 30, 90, 210, 450, 930]


def test_a_helper_that_is_gone_is_said_once_and_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    helper = Helper(gone=True)
    period = StatsPeriod(helper)
    for seconds in (0, 5, 29):
        ensure(period, guest(), seconds=seconds)
    assert len(helper.calls) == len(caplog.records) == 1
    helper.gone = False
    ensure(period, guest(), seconds=30)
    assert len(helper.calls) == 2
