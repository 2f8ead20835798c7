# SPDX-License-Identifier: GPL-2.0-or-later
"""The KSM controller: one call for all knobs, one bad knob never stops the rest, strangers are reported."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from momservice.bus.connection import ERROR, BusLost, CallError, Connection
from momservice.controllers import HelperUnavailable, Outcome, World
from momservice.controllers.ksm import Ksm
from momservice.decisions import Place, Wanted
from momservice.snapshot import Value

BUSY = "org.ovirt.Mom1.Error.Busy"
FOUND = {"ksm_run": 0, "ksm_pages_to_scan": 100, "ksm_sleep_millisecs": 20, "ksm_merge_across_nodes": 1, "ksm_advisor_mode": 0}


@dataclass
class Bus:
    """Stands for the bus with momhelper on it; `knobs` is what the kernel would say."""

    knobs: dict[str, int] = field(default_factory=lambda: {name.removeprefix("ksm_"): value for name, value in FOUND.items()})
    errors: list[Exception] = field(default_factory=list)
    side_effects: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    running: bool = False
    owner_changed: Callable[[str | None], None] = print

    async def call(self, *call: Any, deadline_s: float = 10) -> Sequence[Any]:
        member, args = call[3], call[5:]
        self.calls.append((member, *args))
        assert deadline_s <= 10
        if self.errors:
            raise self.errors.pop(0)
        if member == "Apply":
            self.knobs |= args[0] | self.side_effects
            return [{knob: self.knobs[knob] for knob in {**args[0], **self.side_effects}}]
        return [dict(self.knobs)] if member == "Read" else []

    async def watch_owner(self, _name: str, changed: Callable[[str | None], None]) -> str | None:
        self.owner_changed = changed
        return ":1.5" if self.running else None

    def host(self) -> dict[str, Value]:
        return {f"ksm_{knob}": value for knob, value in self.knobs.items()}


class Stage:
    """A controller on a bus, with a clock of its own."""

    def __init__(self) -> None:
        self.bus, self.now_s = Bus(), 1000.0
        self.sample: Mapping[str, Value] | None = None
        """The newest sample, if it isn't what the kernel says just now."""
        self.ksm = Ksm(cast(Connection, self.bus), lambda: self.now_s)

    def apply(self, **wanted: Value) -> dict[str, Outcome]:
        values = [Wanted("host", f"ksm_{name}", value, Place("p", 1, 1)) for name, value in wanted.items()]
        world = World(self.bus.host() if self.sample is None else self.sample, {}, self.now_s, 0, 5)
        return {outcome.control.removeprefix("ksm_"): outcome for outcome in asyncio.run(self.ksm.apply(values, world))}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_all_changes_of_a_cycle_go_in_one_call(stage: Stage) -> None:
    outcomes = stage.apply(run=1, pages_to_scan=200.9, sleep_millisecs=20)
    assert stage.bus.calls == [("Apply", {"run": 1, "pages_to_scan": 200})]
    assert {name: (o.status, o.applied) for name, o in outcomes.items()} == {
        "run": ("applied", 1),
        "pages_to_scan": ("applied", 200),
        "sleep_millisecs": ("unchanged", None),
    }


def test_nothing_to_change_wakes_no_helper(stage: Stage) -> None:
    assert {o.status for o in stage.apply(run=False, pages_to_scan=100).values()} == {"unchanged"}
    assert stage.apply(run=None) == {}
    assert stage.apply() == {}
    assert stage.bus.calls == []


def test_other_controls_are_not_touched(stage: Stage) -> None:
    wanted = [Wanted("host", "vcpu_quota", 1, Place("p", 1, 1)), Wanted("some-guest", "ksm_run", 1, Place("p", 1, 1))]
    assert asyncio.run(stage.ksm.apply(wanted, World({}, {}, 0, 0, 5))) == []
    assert stage.bus.calls == []


def test_a_field_that_the_kernel_has_no_file_for_is_sent_once(stage: Stage) -> None:
    stage.sample = {}
    for _ in range(2):
        stage.apply(use_zero_pages=1)
    assert stage.bus.calls == [("Apply", {"use_zero_pages": 1})]


@pytest.mark.parametrize(
    ("knob", "value", "sent"),
    [
        ("run", 7, 2),
        ("sleep_millisecs", 0, 10),
        ("pages_to_scan", 0.99, 1),
        ("pages_to_scan", 1e300, 2**32 - 1),
        ("advisor_max_cpu", 101, 100),
    ],
)
def test_out_of_range_is_clamped_and_reported_as_clamped(stage: Stage, knob: str, value: float, sent: int) -> None:
    (outcome,) = stage.apply(**{knob: value}).values()
    assert (outcome.status, outcome.applied, outcome.wanted) == ("clamped", sent, value)
    assert stage.bus.calls == [("Apply", {knob: sent})]
    (outcome,) = stage.apply(**{knob: value}).values()
    assert (outcome.status, outcome.reason) == ("unchanged", f"out of range: clamped to {sent}")


@pytest.mark.parametrize("value", ["1", [1], float("nan"), float("inf"), -1, -0.5])
def test_a_bad_value_is_refused_and_the_rest_is_sent(stage: Stage, value: Value) -> None:
    outcomes = stage.apply(pages_to_scan=value, run=1)
    assert (outcomes["pages_to_scan"].status, outcomes["run"].status) == ("refused", "applied")
    assert outcomes["pages_to_scan"].reason
    assert stage.bus.calls == [("Apply", {"run": 1})]


def test_a_knob_that_the_helper_refuses_does_not_stop_the_rest(stage: Stage) -> None:
    stage.bus.errors = [CallError(BUSY, "max_page_sharing: never mind; run: the host has no room for the unmerged pages")]
    outcomes = stage.apply(run=2, pages_to_scan=300, sleep_millisecs=30)
    assert stage.bus.calls[1:] == [("Apply", {"pages_to_scan": 300, "sleep_millisecs": 30})]
    assert (outcomes["run"].status, outcomes["run"].reason) == ("refused", "the host has no room for the unmerged pages")
    assert (outcomes["pages_to_scan"].status, outcomes["sleep_millisecs"].status) == ("applied", "applied")


def test_there_is_no_third_attempt(stage: Stage) -> None:
    stage.bus.errors = [CallError(BUSY, "run: one"), CallError(ERROR + "IOError", "pages_to_scan: Invalid argument")]
    outcomes = stage.apply(run=1, pages_to_scan=300, sleep_millisecs=30)
    assert len(stage.bus.calls) == 2
    assert {name: o.status for name, o in outcomes.items()} == {"run": "refused", "pages_to_scan": "failed", "sleep_millisecs": "failed"}


def test_an_error_that_names_no_knob_is_everyones(stage: Stage) -> None:
    stage.bus.errors = [CallError(ERROR + "LimitsExceeded", "too many calls: 20 at once and 1 a second are allowed")]
    outcomes = stage.apply(run=1, pages_to_scan=300)
    reason = "a limit of the bus, or its own, is reached (org.freedesktop.DBus.Error.LimitsExceeded)"
    assert [(o.status, o.reason) for o in outcomes.values()] == [("failed", reason)] * 2
    assert len(stage.bus.calls) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ServiceUnknown", "there is no such service"),
        ("NameHasNoOwner", "it isn't running"),
        ("NoReply", "it gives no answer"),
        ("AccessDenied", "it, or the bus, refuses our call"),
        ("Spawn.ChildExited", "it can't be started"),
        ("New", "our call fails"),
    ],
)
def test_no_helper_is_one_line_that_quotes_nothing_of_the_bus(stage: Stage, name: str, words: str) -> None:
    stage.bus.errors = [CallError(ERROR + name, 'Rejected; sender=":1.5" (comm="/usr/bin/secret --option")')]
    with pytest.raises(HelperUnavailable) as raised:
        stage.apply(run=1)
    assert str(raised.value) == f"momhelper: {words} ({ERROR}{name})"


def test_what_we_say_ourselves_of_a_helper_is_told(stage: Stage) -> None:
    stage.bus.errors = [CallError(ERROR + "Timeout", "no answer\nin time")]
    with pytest.raises(HelperUnavailable, match=r"^momhelper: no answer in time$"):
        stage.apply(run=1)


def test_a_lost_bus_is_no_helper(stage: Stage) -> None:
    stage.bus.errors = [BusLost("gone")]
    with pytest.raises(HelperUnavailable):
        stage.apply(run=1)


def test_merge_across_nodes_is_refused_here_while_pages_are_shared(stage: Stage) -> None:
    stage.sample = {**FOUND, "ksm_pages_shared": 5}
    outcomes = stage.apply(merge_across_nodes=0, run=1)
    assert (outcomes["merge_across_nodes"].status, outcomes["run"].status) == ("refused", "applied")
    assert stage.bus.calls == [("Apply", {"run": 1})]


def test_the_advisor_goes_off_for_pages_to_scan(stage: Stage) -> None:
    stage.bus.knobs["advisor_mode"] = 1
    stage.bus.side_effects = {"advisor_mode": 0}
    assert stage.apply(pages_to_scan=300)["pages_to_scan"].reason == "the kernel's advisor was switched off for it"


@pytest.mark.parametrize(
    ("advisor", "status"), [(1, "refused"), (2, "refused"), (0, "applied"), (0.5, "applied"), ("on", "applied"), (None, "applied")]
)
def test_pages_to_scan_and_the_advisor_are_not_set_together(stage: Stage, advisor: Value, status: str) -> None:
    assert stage.apply(advisor_mode=advisor, pages_to_scan=300)["pages_to_scan"].status == status


def test_what_the_advisor_does_is_no_stranger(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.apply(pages_to_scan=300)
    stage.apply(advisor_mode=1)
    stage.bus.knobs["pages_to_scan"] = 4711
    stage.apply(run=1)
    assert not caplog.records


def test_a_value_that_is_not_what_was_sent_is_told(stage: Stage) -> None:
    stage.bus.side_effects = {"run": 1}
    outcome = stage.apply(run=2)["run"]
    assert (outcome.status, outcome.applied, outcome.reason) == ("clamped", 2, "in force is 1")


def test_a_foreign_writer_is_reported_once_for_each_change(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.apply(run=1, pages_to_scan=300)
    for pages in (77, 77, 88, 88):
        stage.bus.knobs["pages_to_scan"] = pages
        stage.apply(run=1)
    assert [record.getMessage() for record in caplog.records] == [
        f"KSM: pages_to_scan is {pages}, though 300 was applied: another program writes it" for pages in (77, 88)
    ]
    # Not fought: nothing was written that the policy didn't set in that run.
    assert [call for call in stage.bus.calls[1:] if call[0] == "Apply"] == []


def test_a_second_stranger_does_not_have_the_first_reported_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.apply(run=1, pages_to_scan=300, sleep_millisecs=30)
    stage.bus.knobs["pages_to_scan"] = 77
    stage.apply(run=1)
    stage.bus.knobs["sleep_millisecs"] = 99
    stage.apply(run=1)
    assert [record.getMessage().split()[1] for record in caplog.records] == ["pages_to_scan", "sleep_millisecs"]


def test_a_sample_from_before_the_last_write_does_not_hold_back_the_next(stage: Stage) -> None:
    stage.sample = stage.bus.host()
    stage.apply(pages_to_scan=300)
    assert stage.apply(pages_to_scan=100)["pages_to_scan"].status == "applied"
    assert stage.bus.knobs["pages_to_scan"] == 100


def test_an_old_sample_is_no_stranger(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.sample = stage.bus.host()
    for _ in range(2):
        stage.apply(run=1)
    assert not caplog.records


def test_looking_for_strangers_in_vain_stops_nothing(stage: Stage) -> None:
    stage.apply(pages_to_scan=300)
    stage.bus.knobs["pages_to_scan"] = 77
    stage.bus.errors = [CallError(ERROR + "LimitsExceeded", "too many calls")]
    assert stage.apply(run=1)["run"].status == "applied"


def test_the_lease_is_renewed_when_due_and_only_if_anything_is_applied(stage: Stage) -> None:
    def renewals(*seconds: float) -> int:
        before = stage.bus.calls.count(("Renew", 60))
        for stage.now_s in seconds:
            asyncio.run(stage.ksm.renew())
        return stage.bus.calls.count(("Renew", 60)) - before

    assert renewals(1100, 1200) == 0
    stage.apply(run=1)
    assert renewals(1205, 1219) == 0
    assert renewals(1220, 1225, 1239, 1240) == 2


def test_restore_is_asked_for_once_and_only_if_anything_was_applied(stage: Stage) -> None:
    asyncio.run(stage.ksm.restore())
    assert stage.bus.calls == []
    stage.apply(run=1)
    for _ in range(2):
        asyncio.run(stage.ksm.restore())
    assert stage.bus.calls[1:] == [("Restore",)]


def test_a_restore_without_answer_is_told(stage: Stage) -> None:
    stage.apply(run=1)
    stage.bus.errors = [CallError(ERROR + "Timeout", "no answer")]
    with pytest.raises(HelperUnavailable):
        asyncio.run(stage.ksm.restore())


def test_what_a_crashed_service_left_is_put_back_at_the_start() -> None:
    stage = Stage()
    stage.bus.running = True
    asyncio.run(stage.ksm.begin())
    assert stage.bus.calls == [("Restore",)]


def test_no_helper_is_started_for_nothing() -> None:
    stage = Stage()
    for ask in (stage.ksm.begin, stage.ksm.renew, stage.ksm.restore):
        asyncio.run(ask())
    assert stage.bus.calls == []


def test_a_helper_that_was_killed_is_not_started_again_at_once() -> None:
    stage = Stage()
    asyncio.run(stage.ksm.begin())
    stage.apply(run=1)
    stage.bus.owner_changed(None)
    for seconds in (0, 29):
        stage.now_s = 1000 + seconds
        with pytest.raises(HelperUnavailable, match="ended unexpectedly"):
            stage.apply(run=1)
        with pytest.raises(HelperUnavailable, match="ended unexpectedly"):
            asyncio.run(stage.ksm.probe())
    stage.now_s = 1030
    stage.bus.knobs["run"] = 0
    assert stage.apply(run=1)["run"].status == "applied"


def test_a_helper_that_had_nothing_to_do_may_go() -> None:
    stage = Stage()
    asyncio.run(stage.ksm.begin())
    stage.bus.owner_changed(None)
    assert stage.apply(run=1)["run"].status == "applied"


NO_REPLY = CallError(ERROR + "NoReply", "Message recipient disconnected from message bus without replying")


@pytest.mark.parametrize("answered", [True, False])
def test_a_helper_that_is_killed_at_its_first_apply_is_left_alone_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    asyncio.run(stage.ksm.begin())
    call = stage.bus.call

    async def killed(*arguments: Any, deadline_s: float) -> Sequence[Any]:
        answer = await call(*arguments, deadline_s=deadline_s)
        # It was on the way when the helper was killed.
        stage.bus.owner_changed(None)
        return answer

    with monkeypatch.context() as patch, pytest.raises(HelperUnavailable):
        if answered:
            patch.setattr(stage.bus, "call", killed)
        else:
            stage.bus.errors.append(NO_REPLY)
        stage.apply(run=1)
    if not answered:
        stage.bus.owner_changed(None)
    stage.bus.knobs["run"] = 0
    calls = len(stage.bus.calls)
    with pytest.raises(HelperUnavailable, match="ended unexpectedly"):
        stage.apply(run=1)
    asyncio.run(stage.ksm.renew())
    assert len(stage.bus.calls) == calls
    stage.now_s += 30
    assert stage.apply(run=1)["run"].status == "applied"


@pytest.mark.parametrize("refused", [True, False])
def test_a_helper_that_has_nothing_of_ours_may_go(stage: Stage, refused: bool) -> None:
    asyncio.run(stage.ksm.begin())
    stage.bus.errors.append(CallError(BUSY, "run: busy") if refused else NO_REPLY)
    if refused:
        assert stage.apply(run=1)["run"].status == "refused"
    else:
        with pytest.raises(HelperUnavailable):
            stage.apply(run=1)
        # A new one has answered since.
        asyncio.run(stage.ksm.probe())
    stage.bus.owner_changed(None)
    assert stage.apply(run=1)["run"].status == "applied"
