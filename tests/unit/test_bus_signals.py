# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine does as signals, objects and changes of properties: what is told, how often, and what never is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from test_engine import Bench

from momservice.bus.changes import INTERVAL_S, PROPERTIES, Changes, Outbox
from momservice.bus.connection import Export, load_interfaces
from momservice.bus.names import GUEST, MANAGER, MAX_ENTRIES, OBJECT_MANAGER, PATH, POLICY, XML, guest_path
from momservice.bus.service import publish
from momservice.controllers import Outcome
from momservice.explanations import Explainer
from momservice.hypervisor import Facts, GuestRecord
from momservice.pressure import FULL, SOME
from momservice.watching import PolicyRun

INTERFACES = load_interfaces(XML)
UUIDS = [f"00000000-0000-4000-8000-{number:012}" for number in range(3)]
A, B, C = UUIDS


@dataclass
class Bus:
    """A connection that writes down what it is to send, and what it is to serve."""

    sent: list[tuple[str, str, str, tuple[Any, ...]]] = field(default_factory=list)
    served: dict[str, Sequence[Export]] = field(default_factory=dict)

    def emit(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> None:
        if interface in INTERFACES:
            assert signature == INTERFACES[interface].signals[member]
        self.sent.append((path, interface, member, args))

    def serve(self, path: str, *exports: Export) -> None:
        self.served[path] = exports

    def withdraw(self, path: str) -> None:
        del self.served[path]

    async def uid_of(self, _name: str) -> int:
        return 0

    def told(self, member: str, interface: str = MANAGER) -> list[tuple[Any, ...]]:
        """The arguments of all signals of a kind."""
        return [args for _, told, name, args in self.sent if (told, name) == (interface, member)]


class Scene:
    """An engine whose guests have balloons, published on a bus."""

    def __init__(self, policy: str = "", names: Sequence[str] = ("vm-a", "vm-b")) -> None:
        self.bench, self.bus = Bench(policy or "nil"), Bus()
        self.working: dict[str, bool] = {}
        self.bench.source.answer = [self.record(uuid, name) for uuid, name in zip(UUIDS, names, strict=False)]
        self.explainer = Explainer(self.bench.engine.runs, self.bench.at_once)
        publish(self.bus, self.bench.engine, self.bench.store, self.explainer, self.working.get)  # type: ignore[arg-type]  # all that is used of one

    def record(self, uuid: str, name: str, **changes: Any) -> GuestRecord:
        balloon = {"current": 1024, "maximum": 2048, "usable": 100, "last-update": int(time.time())}
        return replace(GuestRecord(uuid, name, 1, balloon=balloon), **changes)

    async def cycle(self, times: int = 1) -> None:
        """The three rounds; then all that is to be sent has been."""
        engine = self.bench.engine
        sampling = engine._sampling
        for _ in range(times):
            for name, work in (("host", sampling.host_round), ("guests", sampling.guest_round), ("policy", engine._policy_round)):
                await engine._guarded(name, 5, work)

    def property(self, uuid: str, name: str) -> Any:
        (export,) = self.bus.served[guest_path(uuid)]
        return export.variants()[name].value


def play(scenario: Callable[[Scene], Coroutine[Any, Any, None]], scene: Scene) -> None:
    asyncio.run(asyncio.wait_for(scenario(scene), 60))


async def until(condition: Callable[[], object]) -> None:
    """All of it is soon, but for changes of properties: they wait for their second."""
    while not condition():
        await asyncio.sleep(0.01)


# Guests and their objects


def test_guests_that_come_and_go_are_objects_and_told_once() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        await until(lambda: len(scene.bus.told("InterfacesAdded", OBJECT_MANAGER)) == 2)
        assert scene.bus.told("GuestsChanged") == [([A, B], [])]
        assert {path for path, interface, _, _ in scene.bus.sent if interface == OBJECT_MANAGER} == {PATH}
        path, interfaces = scene.bus.told("InterfacesAdded", OBJECT_MANAGER)[0]
        assert (path, list(interfaces), interfaces[GUEST]["Name"].value) == (guest_path(A), [GUEST], "vm-a")
        scene.bench.source.answer = [scene.record(B, "vm-b"), scene.record(C, "vm-c")]
        await scene.cycle()
        await until(lambda: scene.bus.told("InterfacesRemoved", OBJECT_MANAGER))
        assert scene.bus.told("InterfacesRemoved", OBJECT_MANAGER) == [(guest_path(A), [GUEST])]
        assert scene.bus.told("GuestsChanged")[1:] == [([C], [A])]
        assert set(scene.bus.served) == {PATH, guest_path(B), guest_path(C)}

    play(scenario, Scene())


def test_an_object_shows_its_guest() -> None:
    async def scenario(scene: Scene) -> None:
        facts = Facts(min_guarantee_kib=512, unmergeable="hugepages")
        scene.bench.source.answer = [scene.record(A, "vm-a", facts=facts), GuestRecord(B, "vm-b", 1, facts=Facts(balloon=False))]
        await scene.cycle()
        (export,) = scene.bus.served[guest_path(A)]
        assert {prop.name for prop in export.interface.properties} == set(export.variants())
        assert [scene.property(A, f"Balloon{name}") for name in ("Current", "Minimum", "Maximum", "Target")] == [2**20, 2**19, 2**21, 0]
        assert scene.property(A, "Unknown") == ["BalloonTarget"]
        assert scene.property(A, "Capabilities") == {"balloon": "", "statistics": "", "ksm": "hugepages"}
        assert scene.property(B, "Unknown") == ["BalloonCurrent", "BalloonMaximum", "BalloonTarget"]
        assert scene.property(B, "State") == "unmanaged"
        assert scene.property(B, "StateReasons") == ["the guest has no balloon device", "the guest gives no memory statistics"]

    play(scenario, Scene())


def test_states_are_told_when_they_change_and_only_then() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle(2)
        assert scene.bus.told("GuestStateChanged") == []
        scene.working[A] = False
        scene.bench.source.answer = [scene.record(A, "vm-a"), scene.record(B, "vm-b", state=3)]
        await scene.cycle(2)
        unmanaged, held = [A, "unmanaged", "the guest's balloon doesn't follow its targets"], [B, "held", "the guest is paused"]
        assert scene.bus.told("GuestStateChanged") == [([unmanaged, held],)]
        assert (scene.property(B, "State"), scene.property(B, "StateReasons")) == ("held", ["the guest is paused"])

    play(scenario, Scene())


def test_statistics_that_grow_older_are_told_once() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        for age_s in (100, 200):
            balloon = {"current": 1024, "maximum": 2048, "usable": 100, "last-update": int(time.time()) - age_s}
            scene.bench.source.answer = [scene.record(A, "vm-a", balloon=balloon)]
            await scene.cycle()
        assert scene.bus.told("GuestStateChanged") == [([[A, "unmanaged", "the guest's memory statistics are out of date"]],)]

    play(scenario, Scene())


# Changes of properties


def test_a_guests_changes_are_told_in_one_signal_with_values_and_without() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        await until(lambda: scene.bus.told("PropertiesChanged", PROPERTIES))
        balloon = {"current": 512, "maximum": 1024, "usable": 100, "last-update": int(time.time())}
        scene.bench.source.answer = [scene.record(A, "vm-a", balloon=balloon, state=3)]
        await scene.cycle(3)
        await until(lambda: any(path == guest_path(A) for path, _, _, _ in scene.bus.sent))
        ((interface, values, invalid),) = [args for path, _, _, args in scene.bus.sent if path == guest_path(A)]
        assert (interface, invalid) == (GUEST, ["BalloonCurrent"])
        assert {name: variant.value for name, variant in values.items()} == {
            "BalloonMaximum": 2**20,
            "State": "held",
            "StateReasons": ["the guest is paused"],
        }

    play(scenario, Scene(names=["vm-a"]))


def test_the_end_of_a_pause_is_told_by_itself() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        # Longer than changes are gathered.
        scene.bench.engine.pause("a test", 2)

        def told(name: str) -> list[Any]:
            return [args[1][name].value for args in scene.bus.told("PropertiesChanged", PROPERTIES) if name in args[1]]

        await until(lambda: "paused" in told("Status"))
        await until(lambda: told("Status")[-1] == "active")
        assert told("StatusReasons")[-2][0].startswith("a test (until ")
        assert told("StatusReasons")[-1] == []

    play(scenario, Scene())


def test_the_services_own_properties_are_told_when_they_change() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        scene.bench.engine.pause("a test", 0)

        def told(name: str) -> list[Any]:
            return [args[1][name].value for args in scene.bus.told("PropertiesChanged", PROPERTIES) if name in args[1]]

        await until(lambda: "paused" in told("Status"))
        scene.bench.engine.resume()
        await until(lambda: told("Status")[-1] == "active")
        assert told("GuestCount") == [2]
        assert any("LastEvaluation" in args[2] for args in scene.bus.told("PropertiesChanged", PROPERTIES))

    play(scenario, Scene())


def test_changes_of_an_object_are_gathered_for_a_second() -> None:
    async def scenario(_scene: Scene) -> None:
        bus = Bus()
        changes = Changes(bus, Outbox())
        export = Export(INTERFACES[GUEST], {}, None, lambda: {"Name": "x", "State": "held", "BalloonCurrent": 5})  # type: ignore[arg-type]
        begin = asyncio.get_running_loop().time()
        changes.note("/x", export, ["Uuid"])
        changes.note("/x", export, ["Name"])
        changes.note("/x", export, ["BalloonCurrent"])
        await until(lambda: bus.sent)
        changes.note("/x", export, ["State"])
        changes.note("/y", export, ["State"])
        changes.forget("/y", export)
        await until(lambda: len(bus.sent) > 1)
        assert asyncio.get_running_loop().time() - begin >= INTERVAL_S
        assert [(path, sorted(args[1]), args[2]) for path, _, _, args in bus.sent] == [
            ("/x", ["Name"], ["BalloonCurrent"]),
            ("/x", ["State"], []),
        ]

    play(scenario, Scene())


def test_a_signal_that_cannot_be_made_keeps_no_other_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_scene: Scene) -> None:
        made: list[int] = []
        outbox = Outbox()

        def broken() -> None:
            raise ValueError("broken")

        outbox.put(broken, *(lambda number=number: made.append(number) for number in range(100)))
        await asyncio.sleep(0)
        assert len(made) < 100
        await until(lambda: len(made) == 100)
        assert made == list(range(100))
        outbox.put(lambda: made.append(100))
        await until(lambda: made[-1] == 100)

    play(scenario, Scene())
    assert "internal error while a signal was made" in caplog.text


# Cycles


def run_of(scene: Scene) -> PolicyRun:
    return scene.bench.engine.runs[-1]


def test_targets_of_a_cycle_are_told_together_with_their_rule() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        run = run_of(scene)
        control = run.decisions.controls[0]
        run.decisions = run.decisions._replace(controls=[control._replace(entity=uuid, name="balloon_target") for uuid in (A, B)])
        watchers = scene.bench.engine.watchers
        before = time.time_ns() // 1000
        watchers.tell("applied", run, [Outcome(A, "balloon_target", 900, 900, "applied")])
        clamped = Outcome(B, "balloon_target", 1, 512, "clamped", "clamped to the guest's minimum, 512 KiB")
        watchers.tell("applied", run, [clamped, Outcome("host", "ksm_run", 1, 1, "applied")])
        watchers.tell("acted", run)
        again = [Outcome(A, "balloon_target", 800, 800, "applied"), Outcome(B, "balloon_target", 1, None, "held", "x")]
        watchers.tell("applied", run, again)
        watchers.tell("acted", run)
        first, second = (args[0] for args in scene.bus.told("BalloonTargetsChanged"))
        place = str(control.place)
        assert [entry[:3] + entry[4:] for entry in first] == [
            [A, 1024 * 1024, 900 * 1024, place],
            [B, 1024 * 1024, 512 * 1024, f"{place}: clamped to the guest's minimum, 512 KiB"],
        ]
        assert [entry[:3] for entry in second] == [[A, 900 * 1024, 800 * 1024]]
        assert all(before <= entry[3] <= time.time_ns() // 1000 for entry in [*first, *second])
        assert scene.property(A, "BalloonTarget") == 800 * 1024
        assert scene.property(A, "Unknown") == []
        await scene.cycle()
        assert scene.property(A, "BalloonTarget") == 800 * 1024

    play(scenario, Scene('(with Guests g (g.Control "target" 7))'))


def test_failed_controls_are_told_once_and_again_after_they_went_well() -> None:
    async def scenario(scene: Scene) -> None:
        watchers = scene.bench.engine.watchers
        await scene.cycle()
        run, told = run_of(scene), 0
        reasons = ["not shrunk: 60 s old", "not shrunk: 70 s old", "libvirt: vm-a is gone", "", "libvirt: vm-a is gone"]
        for reason, new in zip(reasons, [True, False, True, False, True], strict=True):
            status = "refused" if reason.startswith("not") else "failed" if reason else "applied"
            watchers.tell("applied", run, [Outcome(A, "target", 7, None, status, reason)])  # type: ignore[arg-type]  # one of the literals
            watchers.tell("acted", run)
            told += new
            assert len(scene.bus.told("ControlFailed")) == told, reason
        assert [args[0] for args in scene.bus.told("ControlFailed")] == [
            [[A, "target", "not shrunk: 60 s old"]],
            [[A, "target", "libvirt: ... is gone"]],
            [[A, "target", "libvirt: ... is gone"]],
        ]

    play(scenario, Scene('(with Guests g (g.Control "target" 7))'))


def test_a_control_that_is_no_longer_wanted_is_news_when_it_fails_again() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        watchers, run = scene.bench.engine.watchers, run_of(scene)
        idle = replace(run, decisions=run.decisions._replace(controls=[]))
        for _ in range(2):
            watchers.tell("applied", run, [Outcome(A, "target", 7, None, "failed", "x")])
            watchers.tell("acted", run)
            watchers.tell("acted", idle)
        assert len(scene.bus.told("ControlFailed")) == 2

    play(scenario, Scene('(with Guests g (g.Control "target" 7))'))


def test_a_run_that_fails_is_told_with_its_places_and_its_end() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.cycle()
        assert scene.bus.told("EvaluationFailed") == []
        scene.bench.guest.bad = A
        await scene.cycle(2)
        assert scene.bus.told("EvaluationFailed") == [([[A, "type", "p", 1]],)]
        assert scene.bus.told("EvaluationRecovered") == []
        scene.bench.guest.bad = ""
        await scene.cycle(2)
        assert scene.bus.told("EvaluationRecovered") == [()]

    play(scenario, Scene('(with Guests g (g.Control "target" (+ g.mem 1)))'))


def test_pressure_is_told_when_its_level_changes() -> None:
    async def scenario(scene: Scene) -> None:
        world = scene.bench.engine._sampling.world()
        for some in (20.0, 21.0, 1.0):
            scene.bench.engine.watchers.tell("sampled", replace(world, host={SOME: some, FULL: 0.5}))
        assert scene.bus.told("PressureChanged") == [("some", 20.0, 0.5), ("none", 1.0, 0.5)]

    play(scenario, Scene())


def test_new_policies_and_parameters_are_told_without_their_texts() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.bench.store.set_policies({"q": "(defvar threshold 5)"})
        await scene.bench.store.set_parameters({"threshold": 7}, 0)
        ((generation, names),) = scene.bus.told("PolicyChanged", POLICY)
        assert (generation, names) == (2, ["q"])
        assert [{name: v.value for name, v in args[0].items()} for args in scene.bus.told("ParametersChanged", POLICY)] == [
            {"threshold": 5},
            {"threshold": 7},
        ]

    play(scenario, Scene())


def test_no_signal_but_of_objects_carries_a_guests_name() -> None:
    async def scenario(scene: Scene) -> None:
        watchers = scene.bench.engine.watchers
        await scene.cycle()
        scene.bench.source.answer = [scene.record(A, "secret-a", state=3), scene.record(C, "secret-c")]
        scene.bench.guest.bad = A
        await scene.cycle()
        watchers.tell("applied", run_of(scene), [Outcome(A, "target", 7, None, "failed", "libvirt: domain 'secret-a' is busy")])
        watchers.tell("acted", run_of(scene))
        assert len(scene.bus.told("ControlFailed")) == 1
        ours = [args for _, interface, _, args in scene.bus.sent if interface in (MANAGER, POLICY)]
        assert "secret" not in json.dumps(ours, default=str)

    play(scenario, Scene('(with Guests g (g.Control "target" (+ g.mem 1)))', names=["secret-a", "secret-b"]))


def test_signals_are_bounded() -> None:
    async def scenario(scene: Scene) -> None:
        uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(MAX_ENTRIES + 1)]
        scene.bench.source.answer = [scene.record(uuid, uuid) for uuid in uuids]
        await scene.cycle()
        run, watchers = run_of(scene), scene.bench.engine.watchers
        watchers.tell("applied", run, [Outcome(uuid, "balloon_target", 7, 7, "clamped", "x" * 1000) for uuid in uuids])
        watchers.tell("applied", run, [Outcome(uuid, "target", 7, None, "failed", "x" * 1000) for uuid in uuids])
        watchers.tell("parameters_changed", dict.fromkeys(uuids, 1))
        watchers.tell("policies_changed", 1, uuids)
        watchers.tell("acted", run)
        scene.bench.source.answer = [scene.record(uuid, uuid, state=3) for uuid in uuids]
        await scene.cycle()
        for member, interface in (
            ("GuestsChanged", MANAGER),
            ("GuestStateChanged", MANAGER),
            ("BalloonTargetsChanged", MANAGER),
            ("ControlFailed", MANAGER),
            ("ParametersChanged", POLICY),
        ):
            assert len(scene.bus.told(member, interface)[0][0]) == MAX_ENTRIES, member
        assert len(scene.bus.told("PolicyChanged", POLICY)[0][1]) == MAX_ENTRIES
        assert max(len(entry[4]) for entry in scene.bus.told("BalloonTargetsChanged")[0][0]) < 210

    play(scenario, Scene("nil"))
