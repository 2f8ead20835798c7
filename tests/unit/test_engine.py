# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds: what goes wrong in one place never stops another. The parts are stand-ins, for their faults can't be had otherwise."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from momservice.bus.connection import ERROR, CallError
from momservice.bus.refusals import told
from momservice.chosen import Parts
from momservice.collectors import Moment
from momservice.config import Config, ConfigError
from momservice.controllers import HelperUnavailable, Outcome, World
from momservice.engine import Engine
from momservice.errors import InvalidConfiguration
from momservice.fields import Control, Field, Names, Schema
from momservice.hypervisor import GuestRecord, HypervisorUnavailable
from momservice.policy import Wanted
from momservice.snapshot import Sample
from momservice.store import PolicyStore
from momservice.watching import Watcher

SCHEMA = Schema(
    Names(frozenset({"mem_free"}), frozenset({"mem_free"}), frozenset({"knob"}), frozenset()),
    Names(frozenset({"mem"}), frozenset({"mem"}), frozenset({"target"}), frozenset()),
)
A, B = GuestRecord("a", "vm-a", 1), GuestRecord("b", "vm-b", 1)
POLICY = '(Host.Control "knob" Host.mem_free) (with Guests g (g.Control "target" (+ g.mem 1)))'


@dataclass
class Source:
    """A hypervisor whose answers are given."""

    answer: Sequence[GuestRecord] | Exception
    connected: bool = True

    async def guests(self) -> Sequence[GuestRecord]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class HostPart:
    fault: Exception | None = None
    NAME: ClassVar[str] = "HostPart"
    FIELDS: ClassVar[Sequence[Field]] = ()

    def collect(self, _moment: Moment) -> Sample:
        if self.fault:
            raise self.fault
        return {"mem_free": 5}


@dataclass
class GuestPart:
    bad: str = ""
    forgotten: list[str] = field(default_factory=list)
    NAME: ClassVar[str] = "GuestPart"
    FIELDS: ClassVar[Sequence[Field]] = ()

    def collect(self, guest: GuestRecord, _moment: Moment) -> Sample:
        if guest.uuid == self.bad:
            raise ValueError("broken guest")
        return {"mem": 7}

    def forget(self, uuid: str) -> None:
        self.forgotten.append(uuid)


@dataclass
class Recorder:
    """A controller that writes down what it is asked to do."""

    NAME: ClassVar[str]
    CONTROLS: ClassVar[Sequence[Control]]
    fault: Exception | None = None
    wanted: list[list[tuple[str, object]]] = field(default_factory=list)

    async def apply(self, wanted: Sequence[Wanted], _world: World) -> list[Outcome]:
        if self.fault:
            raise self.fault
        self.wanted.append([(w.entity, w.value) for w in wanted])
        return [Outcome(w.entity, w.name, w.value, 1, "applied") for w in wanted]

    async def probe(self) -> None:
        if self.fault:
            raise self.fault


class Knob(Recorder):
    NAME: ClassVar[str] = "Knob"
    CONTROLS: ClassVar[Sequence[Control]] = (Control("knob", "host", "", 0, 9, ""),)


class Target(Recorder):
    NAME: ClassVar[str] = "Target"
    CONTROLS: ClassVar[Sequence[Control]] = (Control("target", "guest", "", 0, 9, ""),)


async def nothing(*_: object) -> None:
    return None


class Bench:
    """An engine with stand-ins, and its store."""

    def __init__(self, policy: str = POLICY) -> None:
        self.source = Source([A, B])
        self.host, self.guest = HostPart(), GuestPart()
        self.knob, self.balloon = Knob(), Target()
        self.config = replace(Config(), history_length=3)
        self.store = PolicyStore(SCHEMA, self.at_once)
        self.engine = Engine(*self.configure(), self.configure, self.store, self.source)
        asyncio.run(self.store.set_policies({"p": policy}))

    async def at_once(self, function: Callable[[], Any]) -> Any:
        return function()

    def configure(self) -> tuple[Config, Parts]:
        return self.config, Parts(SCHEMA, [self.host], [], [self.guest], [self.knob, self.balloon], nothing, nothing, nothing, nothing)

    def rounds(self, times: int = 1) -> None:
        async def once() -> None:
            await self.engine._guarded("host", 5, self.engine._sampling.host_round)
            await self.engine._guarded("guests", 5, self.engine._sampling.guest_round)
            await self.engine._guarded("policy", 5, self.engine._policy_round)

        for _ in range(times):
            asyncio.run(once())


def test_a_round_collects_evaluates_and_applies() -> None:
    bench = Bench()
    assert bench.engine.status() == ("starting", [])
    bench.rounds()
    assert bench.engine.status() == ("active", [])
    assert bench.knob.wanted == [[("host", 5)]]
    assert bench.balloon.wanted == [[("a", 8), ("b", 8)]]
    assert bench.engine.statistics() == ({"mem_free": 5}, {"a": {"mem": 7}, "b": {"mem": 7}})
    assert bench.engine.active_guests() == [("a", "vm-a"), ("b", "vm-b")]
    assert bench.engine.last_evaluation_us > 0


def test_history_is_bounded() -> None:
    bench = Bench()
    bench.rounds(5)
    world = bench.engine.snapshot()
    assert world is not None
    assert (len(world.host.samples), len(world.guests[0].samples)) == (3, 3)


def test_a_broken_collector_costs_only_its_fields() -> None:
    bench = Bench()
    bench.host.fault = OSError("gone")
    bench.rounds()
    assert bench.engine.status() == ("degraded", ["collector HostPart failed: OSError: gone"])
    assert bench.balloon.wanted == [[("a", 8), ("b", 8)]]
    bench.host.fault = None
    bench.rounds()
    assert bench.engine.status() == ("active", [])


def test_a_reason_names_no_file() -> None:
    bench = Bench()
    bench.host.fault = OSError(errno.EACCES, "Permission denied", "/a/secret/file")
    bench.rounds()
    assert bench.engine.status() == ("degraded", ["collector HostPart failed: PermissionError: Permission denied"])


def test_a_broken_guest_costs_only_its_own_fields() -> None:
    bench = Bench()
    bench.guest.bad = "a"
    bench.rounds()
    assert bench.balloon.wanted == [[("b", 8)]]
    assert bench.knob.wanted == [[("host", 5)]]
    assert bench.engine.status()[0] == "degraded"


def test_a_helper_that_is_gone_costs_only_its_controls() -> None:
    bench = Bench()
    bench.knob.fault = HelperUnavailable("nobody answers")
    bench.rounds()
    assert bench.engine.status() == ("degraded", ["Knob is unavailable: nobody answers"])
    assert not bench.engine.helper_available
    assert bench.balloon.wanted == [[("a", 8), ("b", 8)]]
    bench.knob.fault = None
    bench.rounds()
    assert bench.engine.status() == ("active", [])


def test_a_helper_that_was_missed_is_asked_for_until_it_is_back() -> None:
    bench = Bench('(if (> Host.mem_free 5) 0 (Host.Control "knob" 1))')
    bench.knob.fault = HelperUnavailable("nobody answers")
    bench.rounds()
    asyncio.run(bench.engine._lease_round())
    assert bench.engine.status() == ("degraded", ["Knob is unavailable: nobody answers"])
    bench.knob.fault = None
    asyncio.run(bench.engine._lease_round())
    assert bench.engine.status() == ("active", [])


def test_what_a_bus_says_of_a_missed_helper_is_only_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    refusal = CallError(ERROR + "Spawn.ExecFailed", "Failed to execute /usr/libexec/helper")
    bench.knob.fault = HelperUnavailable(told(refusal))
    bench.knob.fault.__cause__ = refusal
    bench.rounds(2)
    reason = "Knob is unavailable: it can't be started (org.freedesktop.DBus.Error.Spawn.ExecFailed)"
    assert bench.engine.status() == ("degraded", [reason])
    assert bench.engine.last_error == reason
    # Once, like the reason.
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [reason + ": Failed to execute /usr/libexec/helper"]


def test_a_helper_that_hangs_holds_up_neither_the_cycle_nor_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.config = replace(bench.config, policy_engine_interval_s=1)
    asyncio.run(bench.engine.reload())

    async def scenario() -> None:
        release = asyncio.Event()

        async def hang(_wanted: Sequence[Wanted], _world: World) -> list[Outcome]:
            hanging.append(1)
            await release.wait()
            return []

        hanging: list[int] = []
        monkeypatch.setattr(bench.knob, "apply", hang)
        sampling, decide = bench.engine._sampling, bench.engine._policy_round
        for work in (sampling.host_round, sampling.guest_round, decide, decide):
            await work()
        assert (len(hanging), len(bench.balloon.wanted)) == (1, 2)
        release.set()
        await asyncio.sleep(0)
        await bench.engine._policy_round()
        assert (len(hanging), len(bench.balloon.wanted)) == (2, 3)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_controller_that_fails_costs_only_its_controls() -> None:
    bench = Bench()
    bench.balloon.fault = KeyError("x")
    bench.rounds()
    assert bench.knob.wanted == [[("host", 5)]]
    assert bench.engine.status()[0] == "degraded"


def test_no_news_from_libvirt_is_not_no_guests() -> None:
    bench = Bench()
    bench.rounds()
    bench.source.answer = HypervisorUnavailable("connection refused")
    bench.rounds()
    assert bench.engine.active_guests() == [("a", "vm-a"), ("b", "vm-b")]
    assert bench.engine.status() == ("degraded", ["libvirt is unavailable: connection refused"])
    assert bench.guest.forgotten == []
    assert len(bench.knob.wanted) == 2
    bench.source.answer = [A, B]
    bench.rounds()
    assert bench.engine.status() == ("active", [])


def test_a_guest_that_is_gone_is_forgotten_with_its_variables() -> None:
    bench = Bench('(with Guests g (g.SetVar "n" (+ 1 (or (g.GetVar "n") 0))))')
    bench.rounds(2)
    world = bench.engine.snapshot()
    assert world is not None
    assert [dict(guest.variables) for guest in world.guests] == [{"n": 2}, {"n": 2}]
    bench.source.answer = [B]
    bench.rounds()
    assert bench.guest.forgotten == ["a"]
    bench.source.answer = [A, B]
    bench.rounds()
    world = bench.engine.snapshot()
    assert world is not None
    assert [dict(guest.variables) for guest in world.guests] == [{"n": 1}, {"n": 4}]


def test_a_failing_form_is_said_with_its_place_and_the_rest_applies() -> None:
    bench = Bench("(/ 1 0) " + POLICY)
    bench.rounds()
    status, (reason,) = bench.engine.status()
    assert status == "degraded"
    assert reason.startswith("policy run: p:1:")
    assert bench.engine.last_error == reason
    assert bench.knob.wanted == [[("host", 5)]]


def test_no_text_of_a_policy_makes_a_log_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench('(Host.Control "knob" "x\nERROR forged") (Host.Control "no\nERROR forged" 1) (debug "y\nERROR forged")')
    bench.rounds()
    assert len([record for record in caplog.records if "forged" in record.getMessage()]) >= 3
    assert not [record for record in caplog.records if "\n" in record.getMessage()]


def test_paused_it_decides_nothing_and_goes_on_collecting() -> None:
    bench = Bench()
    bench.rounds()
    bench.engine.pause("upgrade", 0)
    bench.host.fault = OSError("gone")
    bench.rounds()
    assert bench.engine.status() == ("paused", ["upgrade", "collector HostPart failed: OSError: gone"])
    assert len(bench.knob.wanted) == 1
    bench.engine.resume()
    bench.rounds()
    assert len(bench.knob.wanted) == 2


def test_a_pause_ends_with_its_time() -> None:
    # Nothing that comes by from time to time, such as the tick, is needed for it.
    bench = Bench()
    told: list[str] = []

    class Told(Watcher):
        def told(self) -> None:
            told.append(bench.engine.status()[0])

    bench.engine.watchers.all.append(Told())

    async def scenario() -> float:
        bench.engine.pause("short", 1)
        begin_s = time.monotonic()
        while told[-1:] == ["paused"]:
            await asyncio.sleep(0.005)
        return time.monotonic() - begin_s

    took_s = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert (told[0], told[-1]) == ("paused", "starting")
    assert took_s > 0.99
    assert bench.engine._wake.is_set()


def test_a_pause_says_once_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    monkeypatch.setattr("momservice.pausing.time.time", lambda: 1_700_000_000.4)
    bench = Bench()

    async def scenario() -> list[list[str]]:
        bench.engine.pause("upgrade", 3600)
        first = bench.engine.status()[1]
        monkeypatch.setattr("momservice.pausing.time.time", lambda: 1_700_000_010.4)
        return [first, bench.engine.status()[1]]

    try:
        assert asyncio.run(scenario()) == [["upgrade (until 2023-11-15 04:43:20+05:30)"]] * 2
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_pause_beyond_what_a_clock_can_show_says_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last day of the year 9999.
    monkeypatch.setattr("momservice.pausing.time.time", lambda: 253_402_214_400.0)
    bench = Bench()

    async def scenario() -> list[str]:
        bench.engine.pause("upgrade", 200_000)
        return bench.engine.status()[1]

    assert asyncio.run(scenario()) == ["upgrade (for 200000 s)"]


def test_a_pause_that_replaces_another_has_its_own_end() -> None:
    bench = Bench()

    async def scenario() -> tuple[str, list[str]]:
        bench.engine.pause("short", 1)
        bench.engine.pause("long", 0)
        await asyncio.sleep(1.2)
        return bench.engine.status()

    assert asyncio.run(scenario()) == ("paused", ["long"])


@pytest.mark.parametrize(("late_s", "fed"), [(0, True), (65, True), (76, False)])
def test_the_watchdog_is_not_fed_when_a_round_hangs(late_s: float, fed: bool) -> None:
    bench = Bench()
    bench.rounds()
    bench.engine._beats["guests"] = (bench.engine._beats["guests"][0] - late_s, 5)
    feeds: list[int] = []

    async def one_tick() -> None:
        ticks = asyncio.ensure_future(bench.engine._ticks(lambda: feeds.append(1)))
        await asyncio.sleep(0)
        ticks.cancel()

    asyncio.run(one_tick())
    assert bool(feeds) is fed


def test_a_round_that_never_ended_once_is_seen_to_hang() -> None:
    bench = Bench()

    async def begin() -> None:
        running = asyncio.ensure_future(bench.engine.run(lambda: None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()

    asyncio.run(begin())
    assert {"host", "guests", "policy"} <= bench.engine._beats.keys()


def test_a_hung_guest_helper_holds_up_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    async def hang(*_: object) -> None:
        await asyncio.sleep(3600)

    async def scenario() -> None:
        for _ in range(2):
            await bench.engine._sampling.guest_round()

    monkeypatch.setattr(bench.engine._sampling, "_parts", replace(bench.configure()[1], settle=hang))
    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert len(bench.engine._sampling.history.table.rows) == 2


def test_controllers_see_what_policies_do_not() -> None:
    bench = Bench()
    bench.engine._sampling._parts = replace(bench.configure()[1], host=[], unseen=[bench.host])
    asyncio.run(bench.engine._sampling.host_round())
    assert bench.engine.statistics()[0] == {}
    assert bench.engine._sampling.world().host == {"mem_free": 5}


def test_a_reload_that_cannot_be_used_changes_nothing() -> None:
    bench = Bench()

    def broken() -> tuple[Config, Parts]:
        raise ConfigError(["momd.conf:1: no sense"])

    bench.engine._configure = broken
    with pytest.raises(InvalidConfiguration, match="nothing is changed") as refused:
        asyncio.run(bench.engine.reload())
    assert refused.value.name == "org.freedesktop.DBus.Error.InvalidFileContent"
    bench.rounds()
    assert bench.engine.status() == ("active", [])


def test_a_reload_takes_the_troubles_of_parts_along_that_it_takes_out() -> None:
    bench = Bench('(Host.Control "knob" 1)')
    bench.host.fault, bench.guest.bad, bench.knob.fault = OSError("gone"), "a", HelperUnavailable("nobody answers")
    bench.balloon.fault = KeyError("x")
    bench.rounds()
    assert len(bench.engine.status()[1]) == 4
    bench.engine._configure = lambda: (bench.config, replace(bench.configure()[1], host=[], guest=[], controllers=[bench.balloon]))
    asyncio.run(bench.engine.reload())
    # What is still in use stays to blame, until it is well.
    assert bench.engine.status() == ("degraded", ["controller Target failed: KeyError: 'x'"])
    assert bench.engine.helper_available


def test_all_rounds_run_together() -> None:
    bench = Bench()
    fed: list[int] = []

    async def scenario() -> None:
        running = asyncio.ensure_future(bench.engine.run(lambda: fed.append(1)))
        while not bench.knob.wanted:
            await asyncio.sleep(0.02)
        bench.engine.wake()
        while len(bench.knob.wanted) < 2:
            await asyncio.sleep(0.02)
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert fed


def test_a_verbosity_lasts_until_the_configuration_is_read_again() -> None:
    bench = Bench()
    before = logging.getLogger().level
    try:
        bench.engine.set_verbosity(logging.ERROR)
        assert logging.getLogger().level == logging.ERROR
        asyncio.run(bench.engine.reload())
        assert logging.getLogger().level == bench.config.verbosity
    finally:
        logging.getLogger().setLevel(before)
