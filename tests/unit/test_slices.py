# SPDX-License-Identifier: GPL-2.0-or-later
"""However many guests there are, what is done with each of them is done some at a time, and all of it in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pytest
from test_balloon_controller import guest, want, world
from test_bus_signals import Scene, until
from test_engine import Bench, GuestPart

from momservice.bus.connection import Call
from momservice.bus.guests import Guests
from momservice.bus.marshal import array
from momservice.bus.names import MANAGER, OBJECT_MANAGER, PATH
from momservice.bus.signals import Signals
from momservice.controllers import Outcome, World
from momservice.controllers.balloon import Balloon
from momservice.controllers.guest_helper import Result
from momservice.hypervisor import GuestRecord
from momservice.slices import SLICE, Steps, at_once, each
from momservice.watching import PolicyRun, Watcher, Watchers

GUESTS = SLICE * 5
UUIDS = [f"00000000-0000-4000-8000-{number:012}" for number in range(GUESTS)]


class Meter:
    """Counts calls, and how many came at most before others had their turn."""

    def __init__(self) -> None:
        self.calls = self.most = self._before = 0

    def around(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Count the calls of a method."""
        method = getattr(owner, name)

        def counted(*args: Any, **named: Any) -> Any:
            self.calls += 1
            return method(*args, **named)

        monkeypatch.setattr(owner, name, counted)

    async def look(self) -> None:
        """Have a turn whenever there is one."""
        while True:
            self.most, self._before = max(self.most, self.calls - self._before), self.calls
            await asyncio.sleep(0)

    async def during(self, work: Awaitable[Any]) -> None:
        """Look while something is done."""
        self._before = self.calls
        looking = asyncio.ensure_future(self.look())
        await work
        await asyncio.sleep(0)
        looking.cancel()


@pytest.fixture
def meter() -> Meter:
    return Meter()


def records(scene: Scene, uuids: Sequence[str]) -> list[GuestRecord]:
    return [scene.record(uuid, f"vm{uuid[-4:]}") for uuid in uuids]


def rounds(meter: Meter) -> Scene:
    """Guests come, are the same, and go: three guest rounds."""
    scene = Scene()

    async def scenario() -> None:
        for uuids in (UUIDS, UUIDS, []):
            scene.bench.source.answer = records(scene, uuids)
            await meter.during(scene.bench.engine._sampling.guest_round())
        await until(lambda: len(scene.bus.told("InterfacesRemoved", OBJECT_MANAGER)) == GUESTS)

    asyncio.run(scenario())
    return scene


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [(GuestPart, "collect", 2), (Guests, "_properties", 2), (Guests, "_add", 1), (Guests, "_remove", 1)],
)
def test_guests_are_sampled_and_told_some_at_a_time(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: int
) -> None:
    meter.around(monkeypatch, owner, name)
    scene = rounds(meter)
    assert (meter.calls, meter.most) == (calls * GUESTS, SLICE)
    assert scene.bus.told("GuestsChanged") == [(UUIDS, []), ([], UUIDS)]


@pytest.mark.parametrize(("owner", "name"), [(Guests, "_applied"), (Signals, "_applied")])
def test_outcomes_are_told_some_at_a_time(meter: Meter, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    meter.around(monkeypatch, owner, name)
    scene = Scene('(with Guests g (g.Control "target" g.mem))')

    async def scenario() -> None:
        scene.bench.source.answer = records(scene, UUIDS)
        await scene.cycle()
        await meter.during(scene.bench.engine._policy_round())

    asyncio.run(scenario())
    assert (meter.calls, meter.most) == (2 * GUESTS, SLICE)
    assert all(len(run.outcomes) == GUESTS for run in scene.bench.engine.runs)


def test_balloons_are_looked_at_and_planned_for_some_at_a_time(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    class Helper:
        async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
            return dict.fromkeys(targets_bytes, ("ok", ""))

        async def probe(self) -> None:
            return

    here, balloon = world(*(guest(uuid) for uuid in UUIDS)), Balloon(Helper())
    for name in ("_plan", "_outcome"):
        meter.around(monkeypatch, Balloon, name)
    meter.around(monkeypatch, type(balloon._watch), "_look")
    outcomes: list[Outcome] = []

    async def scenario() -> None:
        outcomes.extend(await balloon.apply([want(90000, uuid) for uuid in UUIDS], here))

    asyncio.run(meter.during(scenario()))
    assert [outcome.entity for outcome in outcomes] == UUIDS
    # The end of one loop and the beginning of the next may meet.
    assert (meter.calls, meter.most) == (3 * GUESTS, 2 * SLICE)


def test_a_run_sees_guests_and_their_samples_together() -> None:
    bench = Bench('(with Guests g (g.Control "target" g.mem))')

    async def scenario() -> None:
        await bench.engine._sampling.host_round()
        for number in (GUESTS, GUESTS // 2, GUESTS):
            bench.source.answer = [GuestRecord(uuid, uuid, 1) for uuid in UUIDS[:number]]
            sampling = asyncio.ensure_future(bench.engine._sampling.guest_round())
            while not sampling.done():
                await bench.engine._policy_round()
            await sampling

    asyncio.run(scenario())
    assert len({len(run.snapshot.guests) for run in bench.engine.runs}) > 1
    assert all(not run.decisions.failures for run in bench.engine.runs)


def test_whoever_hears_of_a_guest_gets_no_answer_from_before_it() -> None:
    scene, call = Scene(names=()), Call("", PATH, MANAGER, "GetActiveGuests", (), False)

    async def scenario() -> None:
        await scene.cycle()
        ask = next(export for export in scene.bus.served[PATH] if export.interface.name == MANAGER).methods[call.member]
        assert await ask(call) == array([])
        scene.bench.source.answer = records(scene, UUIDS)
        sampling = asyncio.ensure_future(scene.bench.engine._sampling.guest_round())
        while not scene.bus.told("InterfacesAdded", OBJECT_MANAGER):
            await asyncio.sleep(0)
        assert not sampling.done()
        answer = await ask(call)
        assert isinstance(answer, bytes)
        assert UUIDS[0].encode() in answer
        await sampling

    asyncio.run(scenario())


def test_what_is_told_in_turns_is_told_in_its_order() -> None:
    heard: list[Any] = []

    class Slow(Watcher):
        def sampled(self, world: World) -> Steps[None]:
            yield from each(heard.append, [world] * (SLICE + 1))

        def ran(self, run: PolicyRun) -> None:
            heard.append(run)

    watchers, run = Watchers([Slow()]), "a run"

    async def scenario() -> None:
        telling = [asyncio.ensure_future(watchers.tell_in_turns("sampled", world)) for world in ("first", "second")]
        await asyncio.sleep(0)
        watchers.tell("ran", run)
        await asyncio.gather(*telling)

    asyncio.run(scenario())
    assert heard == ["first"] * SLICE + [run, "first"] + ["second"] * (SLICE + 1)


def test_the_outcome_of_each_item_is_kept_in_its_order() -> None:
    def double(number: int) -> int:
        return 2 * number

    for count in (0, 1, SLICE, SLICE + 1):
        assert at_once(each(double, range(count))) == [2 * number for number in range(count)]
        assert len(list(each(double, range(count)))) == max(count - 1, 0) // SLICE
