# SPDX-License-Identifier: GPL-2.0-or-later
"""The Balloon controller: what it sends, what it never sends, and how it notices a balloon that doesn't obey."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest

from momservice.controllers import HelperUnavailable, Outcome, World
from momservice.controllers.balloon import Balloon
from momservice.controllers.guest_helper import Result
from momservice.decisions import Place, Wanted
from momservice.hypervisor import JOB_UNKNOWN, Facts, GuestRecord
from momservice.snapshot import Value

A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
WALL_S = 1_000_000.0
MAX_KIB = 131072
PLAIN = Facts()


@dataclass
class Helper:
    """Stands for momhelper-guests: takes all, unless told otherwise; keeps the calls."""

    answers: dict[str, Result] = field(default_factory=dict)
    gone: bool = False
    calls: list[Mapping[str, int]] = field(default_factory=list)

    async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
        if self.gone:
            raise HelperUnavailable("momhelper-guests: no such name")
        self.calls.append(dict(targets_bytes))
        return {uuid: self.answers.get(uuid, ("ok", "")) for uuid in targets_bytes}

    async def probe(self) -> None:
        if self.gone:
            raise HelperUnavailable("momhelper-guests: no such name")

    @property
    def last_kib(self) -> dict[str, int]:
        return {uuid: target // 1024 for uuid, target in self.calls[-1].items()}


def guest(
    uuid: str = A, current: int | None = MAX_KIB, *, state: int = 1, job: int = 0, facts: Facts = PLAIN, **figures: int | None
) -> GuestRecord:  # fmt: skip
    told: dict[str, Any] = {
        "current": current, "maximum": MAX_KIB, "unused": 60000, "usable": 70000, "available": 90000, "last-update": int(WALL_S)
    }  # fmt: skip
    told |= {name.replace("_", "-"): value for name, value in figures.items()}
    balloon = {name: value for name, value in told.items() if value is not None}
    return GuestRecord(uuid, f"guest-{uuid[-1]}", state, 1, job, None, MappingProxyType(balloon), facts)


def world(*guests: GuestRecord, seconds: float = 0) -> World:
    """The world so many seconds after the start. The guests' statistics are kept fresh."""
    records = {}
    for record in guests:
        balloon = dict(record.balloon)
        if balloon.get("last-update") == int(WALL_S):
            balloon["last-update"] = int(WALL_S + seconds)
        records[record.uuid] = GuestRecord(
            record.uuid, record.name, record.state, record.reason, record.job, None, MappingProxyType(balloon), record.facts
        )
    return World({}, records, seconds, WALL_S + seconds, 5)


def want(value: Value, uuid: str = A, name: str = "balloon_target") -> Wanted:
    return Wanted(uuid, name, value, Place("f", 1, 1))


def apply(balloon: Balloon, wanted: Sequence[Wanted], here: World) -> list[Outcome]:
    return asyncio.run(balloon.apply(wanted, here))


def one(value: Value, record: GuestRecord, helper: Helper | None = None) -> Outcome:
    (outcome,) = apply(Balloon(helper or Helper()), [want(value)], world(record))
    return outcome


def test_a_target_is_sent_in_bytes_and_reported() -> None:
    helper = Helper()
    outcome = one(98304, guest(), helper)
    assert helper.calls == [{A: 98304 * 1024}]
    assert outcome == Outcome(A, "balloon_target", 98304, 98304, "applied", "")


def test_one_call_for_all_guests_and_only_for_this_control() -> None:
    helper = Helper()
    wanted = [want(98304), want(100000, B), want(5, A, "vcpu_quota")]
    assert len(apply(Balloon(helper), wanted, world(guest(A), guest(B)))) == 2
    assert helper.calls == [{A: 98304 * 1024, B: 100000 * 1024}]


def test_without_anything_to_send_the_helper_is_not_called() -> None:
    helper = Helper(gone=True)
    assert apply(Balloon(helper), [want(None)], world(guest())) == []
    assert one(MAX_KIB, guest(), helper).status == "unchanged"


def test_fractions_are_rounded_down() -> None:
    helper = Helper()
    assert one(98304.9, guest(), helper).applied == 98304


@pytest.mark.parametrize("value", ["98304", [98304], float("nan"), float("inf"), -1, -0.5])
def test_what_is_no_number_is_refused(value: Value) -> None:
    helper = Helper()
    outcome = one(value, guest(), helper)
    assert (outcome.status, outcome.applied) == ("refused", None)
    assert outcome.reason
    assert not helper.calls


@pytest.mark.parametrize(
    ("value", "minimum", "applied", "reason"),
    [
        (10, 65536, 65536, "clamped to the guest's minimum, 65536 KiB"),
        (0, 65536, 65536, "clamped to the guest's minimum, 65536 KiB"),
        (False, 65536, 65536, "clamped to the guest's minimum, 65536 KiB"),
        (10**12, 0, MAX_KIB, "clamped to the guest's maximum, 131072 KiB"),
        (10**400, 0, MAX_KIB, "clamped to the guest's maximum, 131072 KiB"),
        (1, 0, 1024, "clamped to the guest's minimum, 1024 KiB"),
    ],
)
def test_a_target_is_clamped_to_the_guests_bounds(value: Value, minimum: int, applied: int, reason: str) -> None:
    outcome = one(value, guest(current=100_000, facts=Facts(min_guarantee_kib=minimum)))
    assert (outcome.status, outcome.applied, outcome.reason) == ("clamped", applied, reason)


def test_a_guarantee_above_the_maximum_is_the_maximum() -> None:
    assert one(10, guest(facts=Facts(min_guarantee_kib=10 * MAX_KIB))).status == "unchanged"


def test_a_target_of_zero_is_never_a_figure() -> None:
    helper = Helper()
    assert one(0, guest(), helper).status == "refused"
    assert one(0.9, guest(), helper).status == "refused"
    assert not helper.calls


@pytest.mark.parametrize("record", [guest(state=3), guest(state=4), guest(state=0), guest(job=2), guest(job=JOB_UNKNOWN)])
@pytest.mark.parametrize("value", [98304, MAX_KIB])
def test_a_held_guest_gets_nothing(record: GuestRecord, value: int) -> None:
    helper = Helper()
    assert one(value, record, helper).status == "held"
    assert not helper.calls


UNBELIEVABLE = [
    guest(current=100_000, last_update=None),
    guest(current=100_000, last_update=0),
    guest(current=100_000, last_update=int(WALL_S) - 16),
    guest(current=100_000, last_update=int(WALL_S) + 3600),
    guest(current=100_000, unused=None, usable=None, available=None),
]


@pytest.mark.parametrize("record", UNBELIEVABLE)
def test_a_guest_without_fresh_statistics_is_not_shrunk_but_may_grow(record: GuestRecord) -> None:
    helper = Helper()
    assert one(90_000, record, helper).status == "refused"
    assert not helper.calls
    assert one(110_000, record, helper).status == "applied"


def test_a_guest_without_balloon_device_or_sizes_is_left_alone() -> None:
    assert one(98304, guest(facts=Facts(balloon=False))).reason == "the guest has no balloon device"
    for record in (guest(current=None), guest(maximum=None)):
        assert one(98304, record).status == "refused"


def test_a_guest_that_is_gone_stops_no_other() -> None:
    helper = Helper()
    outcomes = apply(Balloon(helper), [want(98304), want(98304, B)], world(guest(B)))
    assert [(o.entity, o.status) for o in outcomes] == [(A, "refused"), (B, "applied")]


@pytest.mark.parametrize(
    ("answer", "status"),
    [("busy", "held"), ("unknown-guest", "failed"), ("out-of-range", "failed"), ("timeout", "failed"), ("unavailable", "failed")],
)
def test_what_the_helper_says_of_one_guest_is_reported_and_stops_no_other(answer: str, status: str) -> None:
    helper = Helper(answers={A: (answer, "because")})
    outcomes = apply(Balloon(helper), [want(98304), want(98304, B)], world(guest(A), guest(B)))
    assert [(o.status, o.applied) for o in outcomes] == [(status, None), ("applied", 98304)]
    assert outcomes[0].reason == f"{answer}: because"


def test_a_helper_that_is_gone_is_said() -> None:
    with pytest.raises(HelperUnavailable, match="no such name"):
        one(98304, guest(), Helper(gone=True))


def test_a_target_under_way_is_not_sent_again() -> None:
    helper = Helper()
    balloon = Balloon(helper)
    apply(balloon, [want(98304)], world(guest()))
    (outcome,) = apply(balloon, [want(98304)], world(guest(current=120_000), seconds=5))
    assert outcome.status == "unchanged"
    assert len(helper.calls) == 1


def test_a_target_under_way_is_taken_back_when_the_present_size_is_wanted() -> None:
    helper = Helper()
    balloon = Balloon(helper)
    apply(balloon, [want(98304)], world(guest()))
    (outcome,) = apply(balloon, [want(120_000)], world(guest(current=120_000), seconds=5))
    assert outcome.status == "applied"
    assert helper.last_kib == {A: 120_000}


def test_a_balloon_that_stops_within_a_page_of_its_target_is_not_told_again() -> None:
    helper = Helper()
    balloon = Balloon(helper)
    for seconds, current in ((0, MAX_KIB), (5, 98300), (10, 98300)):
        apply(balloon, [want(98303)], world(guest(current=current), seconds=seconds))
    assert len(helper.calls) == 1
    assert balloon.works(A) is True


def test_a_balloon_that_somebody_else_moved_is_told_again() -> None:
    helper = Helper()
    balloon = Balloon(helper)
    for seconds, current in ((0, MAX_KIB), (5, 98304), (10, MAX_KIB)):
        apply(balloon, [want(98304)], world(guest(current=current), seconds=seconds))
    assert len(helper.calls) == 2


class Stubborn:
    """A guest whose balloon stays where it is, played in steps of 5 s."""

    def __init__(self) -> None:
        self.helper = Helper()
        self.balloon = Balloon(self.helper)
        self.seconds = 0.0

    def step(self, value: Value, current: int = MAX_KIB, **more: Any) -> Outcome:
        (outcome,) = apply(self.balloon, [want(value)], world(guest(current=current, **more), seconds=self.seconds))
        self.seconds += 5
        return outcome

    def break_it(self) -> None:
        for _ in range(7):
            self.step(98304)


def test_a_balloon_that_does_not_obey_is_taken_out_of_shrinking_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    play = Stubborn()
    statuses = []
    for _ in range(6):
        statuses.append(play.step(98304).status)
        assert play.balloon.works(A) is None
    assert statuses == ["applied"] + ["unchanged"] * 5
    outcome = play.step(98304)
    assert (outcome.status, outcome.reason) == ("refused", "not shrunk: the guest's balloon doesn't work")
    assert play.balloon.works(A) is False
    play.step(98304)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert len(play.helper.calls) == 1


def test_a_target_that_changes_with_each_cycle_gives_no_more_time() -> None:
    play = Stubborn()
    for number in range(7):
        play.step(98304 + number)
    assert play.balloon.works(A) is False


def test_a_broken_balloon_may_always_grow() -> None:
    play = Stubborn()
    for _ in range(7):
        play.step(60_000, 70_000)
    assert play.step(60_000, 70_000).status == "refused"
    assert play.step(90_000, 70_000).status == "applied"


def test_a_broken_balloon_is_tried_again_ever_more_seldom() -> None:
    play = Stubborn()
    play.break_it()
    tries = []
    while play.seconds < 4 * 3600:
        before = len(play.helper.calls)
        play.step(98304)
        if len(play.helper.calls) > before:
            tries.append(play.seconds - 5)
    waits = [later - earlier for earlier, later in zip([30.0, *tries], tries, strict=False)]
    assert waits[:7] == [60, 120, 240, 480, 960, 1920, 3600]


def test_a_broken_balloon_that_moves_again_is_well() -> None:
    play = Stubborn()
    play.break_it()
    play.seconds += 60
    assert play.step(98304).status == "applied"
    play.step(98304, 110_000)
    assert play.balloon.works(A) is True
    assert play.step(90_000, 100_000).status == "applied"


def test_a_balloon_that_stops_half_way_is_broken() -> None:
    play = Stubborn()
    play.step(16384)
    for _ in range(9):
        play.step(16384, 64512)
    assert play.balloon.works(A) is False
    assert play.step(MAX_KIB, 64512).status == "applied"


def test_a_slow_balloon_that_comes_nearer_is_well() -> None:
    play = Stubborn()
    for current in range(MAX_KIB, 98304, -2048):
        play.step(98304, current)
    assert play.balloon.works(A) is True


def test_time_in_which_the_guest_is_held_does_not_count() -> None:
    play = Stubborn()
    play.step(98304)
    for _ in range(20):
        assert play.step(98304, state=3).status == "held"
    for _ in range(5):
        assert play.step(98304).status == "unchanged"
    assert play.balloon.works(A) is None


def test_a_guest_that_ends_while_the_helper_is_asked_is_forgotten() -> None:
    class Ender(Helper):
        async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
            balloon.forget(A)
            return await super().set_memory(targets_bytes)

    balloon = Balloon(Ender())
    apply(balloon, [want(98304)], world(guest()))
    apply(balloon, [], world())
    assert apply(balloon, [want(98304)], world(guest()))[0].status == "applied"


def test_a_guest_that_is_gone_is_forgotten() -> None:
    play = Stubborn()
    play.break_it()
    play.balloon.forget(A)
    assert play.balloon.works(A) is None
    assert play.step(98304).status == "applied"
