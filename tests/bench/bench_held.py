# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the event loop is held at a stretch, in ms: by each member of the interfaces, and by a cycle, with 1000 and 5000 guests.

While it is held nobody is answered. A stretch is what the loop does between two looks at its sockets. The service is the real one over
recorded libvirt answers, in this process, on a bus of its own; threads that check policies run beside it, as they do in the service. Of
several tries each figure is that of the best, since other processes hold up the loop too. Behind it what was sent back, in KiB.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import libvirt
from bench_bus import Caller, Moving, bus
from bench_cycle import Domain, nothing
from dbus_next import Variant

from momservice.__main__ import SWITCH_S, offload
from momservice.bus.connection import Connection
from momservice.bus.names import GUEST, MANAGER, NAME, OBJECT_MANAGER, PATH, POLICY, guest_path
from momservice.bus.service import publish
from momservice.config import Config
from momservice.controllers.guest_helper import Result
from momservice.engine import Engine
from momservice.explanations import Explainer
from momservice.garbage import Garbage
from momservice.hypervisor.libvirt_source import Hypervisor
from momservice.hypervisor.workers import Workers
from momservice.parts import Workshop, schema
from momservice.store import PolicyStore

GUESTS = (1000, 5000)
TRIES = 3
INTROSPECT, PROPERTIES = "org.freedesktop.DBus.Introspectable", "org.freedesktop.DBus.Properties"
# What a call may carry of policies.
TEXT_BYTES, FRAGMENTS = 250_000, 256
# Every guest gets this much less, from a function, so that calls are told too.
SHRINKING = """(def shrink (guest) (guest.Control "balloon_target" (- guest.balloon_cur 4096)))
(with Guests guest (shrink guest))
"""
QUOTAS = '(with Guests guest (guest.Control "vcpu_quota" 50000))'
FAILING = "(with Guests guest (/ guest.balloon_cur 0))"
GREEDY = f"(with Guests a {{{'(+ a.balloon_cur a.balloon_max)' * 70}}})"
# Much to explain: forms that fail, each deep in calls.
DEEP = "".join(f"(def f{n} () (f{n + 1}))\n" for n in range(12)) + "(def f12 () (/ 1 (- Host.mem_available Host.mem_available)))\n"

Work = Callable[[], Awaitable[object]]
# A call: member, interface, signature, arguments; and where it isn't the service's own object, the path.
Call = tuple[Any, ...]


class Stretches(selectors.DefaultSelector):
    """The longest time that the loop didn't look at its sockets."""

    def __init__(self) -> None:
        super().__init__()
        self._since_s, self.longest_s = time.monotonic(), 0.0

    def select(self, timeout: float | None = None) -> Any:
        """The loop's look."""
        self.longest_s = max(self.longest_s, time.monotonic() - self._since_s)
        events = super().select(timeout)
        self._since_s = time.monotonic()
        return events

    async def of(self, work: Work) -> float:
        """The longest stretch of some work, and of what it leaves behind, in ms."""
        # What isn't the work's is over.
        await asyncio.sleep(0.01)
        self.longest_s = 0.0
        await work()
        # Signals of this cycle go out.
        await asyncio.sleep(0.05)
        return self.longest_s * 1e3


class Helper:
    """In place of momhelper-guests: all it is asked for succeeds at once."""

    async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
        """See GuestHelper."""
        return dict.fromkeys(targets_bytes, ("ok", ""))

    async def probe(self) -> None:
        """See GuestHelper."""


class Scene:
    """The service, and a caller in a thread of its own."""

    def __init__(self, stretches: Stretches, connection: Connection, guests: int) -> None:
        self.stretches, self._connection = stretches, connection
        self._moving = Moving(guests, moving=True)
        self.domains, self.guests = self._moving.domains, guests
        libvirt.openReadOnly = lambda _uri: self._moving
        settings = replace(Config(), controllers=("Balloon",))
        workshop = Workshop(connection)
        workshop._balloon._helper = Helper()
        self._load = partial(offload, Workers(1, "policy"), 60, "busy")
        self.store = PolicyStore(schema(settings), self._load)
        chosen = replace(workshop.parts(settings), settle=nothing, begin=nothing, renew=nothing)
        self.engine = Engine(settings, chosen, lambda: (settings, chosen), self.store, Hypervisor())
        self.store.world = self.engine.snapshot
        explainer = Explainer(self.engine.runs, partial(offload, Workers(1, "explain"), 60, "busy"))
        publish(connection, self.engine, self.store, explainer, workshop.balloon_works)
        self.caller: Caller | None = None
        self.answer_bytes = 0

    def have(self, domains: Sequence[Domain]) -> None:
        """From the next guest round on there are these guests."""
        self._moving.domains = domains

    async def cycle(self) -> None:
        """A sample of everything and a run of the policy."""
        for work in (self.engine._sampling.host_round, self.engine._sampling.guest_round, self.engine._policy_round):
            await work()

    async def call(self, member: str, interface: str, signature: str = "", *args: Any, path: str = PATH) -> None:
        """Have the caller call; its errors are errors."""
        assert self.caller is not None
        send = partial(self.caller.call, member, interface, signature, *args, path=path)
        self.answer_bytes = await asyncio.get_running_loop().run_in_executor(None, send)

    async def fail(self) -> None:
        """Have the last runs been failures throughout; they tell most."""
        await self.store.set_policies({"a": DEEP + "(f0)\n" * 120}, replace=True)
        for _ in range(10):
            await self.engine._policy_round()
        await self.store.reset()

    async def best(self, work: Work, before: Work = nothing) -> float:
        """The longest stretch of the best try."""
        held = []
        for _ in range(TRIES):
            await before()
            held.append(await self.stretches.of(work))
        return min(held)


def policies(size: int) -> dict[str, str]:
    """As many policies as there may be, and as long."""
    line = "(defvar a{0:03}_{1:02} 1)\n"
    count = size // FRAGMENTS // len(line.format(0, 0))
    return {f"{n:03}": "".join(line.format(n, k) for k in range(count)) for n in range(FRAGMENTS)}


def given_guests(count: int, older: int) -> list[dict[str, Variant]]:
    """Guests that a caller thought up, with some older samples."""
    sample = {"balloon_cur": Variant("x", 1 << 20)}
    return [{**sample, "@history": Variant("aa{sv}", [sample] * older)} for _ in range(count)]


def calls(guests: int) -> Iterator[tuple[str, Call]]:
    """Each member at its dearest, and how it is shown. What changes something leaves the service as it was at the end."""
    uuid = Domain(1).UUIDString()
    host = {"mem_available": Variant("x", 1 << 24)}
    mistakes = {f"{n:03}": "(nosuch 1)\n" * 90 for n in range(FRAGMENTS)}
    numbers = {f"p{n}": Variant("x", n) for n in range(1000)}
    parameters = "".join(f"(defvar {name} 0)\n" for name in numbers)
    several = {"a": SHRINKING, "b": QUOTAS}
    for member in ("Ping", "GetStatistics", "GetHostStatistics", "GetActiveGuests", "Resume"):
        yield member, (member, MANAGER)
    yield "GetGuestStatistics", ("GetGuestStatistics", MANAGER, "s", uuid)
    yield "Explain host", ("Explain", MANAGER, "su", "host", 10)
    yield "Explain guest", ("Explain", MANAGER, "su", uuid, 10)
    yield "Explain failures", ("Explain", MANAGER, "su", "host", 10)
    yield "Pause", ("Pause", MANAGER, "su", "bench", 1)
    yield "SetVerbosity", ("SetVerbosity", MANAGER, "s", "critical")
    yield "Reload", ("Reload", MANAGER)
    yield "GetManagedObjects", ("GetManagedObjects", OBJECT_MANAGER)
    yield "GetAll", ("GetAll", PROPERTIES, "s", MANAGER)
    yield "Introspect", ("Introspect", INTROSPECT)
    yield "SetPolicies, all there may be", ("SetPolicies", POLICY, "a{ss}b", policies(TEXT_BYTES), True)
    for member in ("GetNamedPolicies", "GetPolicy", "GetParameters"):
        yield member, (member, POLICY)
    yield "SetParameters, of many", ("SetParameters", POLICY, "a{sv}", {f"a{n:03}_00": Variant("x", n) for n in range(FRAGMENTS)})
    yield "EvaluateNow, those in force", ("EvaluateNow", POLICY, "a{ss}", {})
    yield "ResetPolicies", ("ResetPolicies", POLICY)
    yield "SetNamedPolicy", ("SetNamedPolicy", POLICY, "ss", "p", parameters)
    yield "SetParameters", ("SetParameters", POLICY, "a{sv}", numbers)
    yield "ReplaceParameters", ("ReplaceParameters", POLICY, "a{sv}", {})
    yield "RemoveNamedPolicy", ("RemoveNamedPolicy", POLICY, "s", "p")
    yield "SetPolicy", ("SetPolicy", POLICY, "s", SHRINKING)
    yield "ValidatePolicy, mistakes", ("ValidatePolicy", POLICY, "a{ss}", mistakes)
    yield "ValidatePolicy, long", ("ValidatePolicy", POLICY, "a{ss}", policies(TEXT_BYTES))
    yield "EvaluateNow", ("EvaluateNow", POLICY, "a{ss}", several)
    yield "EvaluateNow, mistakes", ("EvaluateNow", POLICY, "a{ss}", mistakes)
    yield "EvaluateNow, failures", ("EvaluateNow", POLICY, "a{ss}", {"a": FAILING})
    # A message has room for some 130,000 values.
    yield "Evaluate", ("Evaluate", POLICY, "a{ss}a{sv}aa{sv}", several, host, given_guests(guests, 20_000 // guests))
    numerous = [{"io_tune": Variant("ai", [7] * (120_000 // 60))} for _ in range(60)]
    yield "Evaluate, lists", ("Evaluate", POLICY, "a{ss}a{sv}aa{sv}", several, host, numerous)


async def members(scene: Scene) -> dict[str, float]:
    """The calls of the service's own object, and some of others."""
    figures = {}
    # The answer isn't there after a sample.
    before: dict[str, Work] = dict.fromkeys(("GetStatistics", "GetActiveGuests", "GetManagedObjects"), scene.cycle)
    before["RemoveNamedPolicy"] = partial(scene.store.set_policies, {"p": ""})
    before["Explain failures"] = scene.fail
    for shown, call in calls(scene.guests):
        figures[shown] = await scene.best(partial(scene.call, *call), before.get(shown, nothing))
        figures[f"{shown} (KiB)"] = scene.answer_bytes / 1024
    at = partial(scene.call, "Introspect", INTROSPECT)
    figures["Introspect guests"] = await scene.best(partial(at, path=f"{PATH}/guest"))
    guest = guest_path(Domain(1).UUIDString())
    figures["Introspect guest"] = await scene.best(partial(at, path=guest))
    figures["GetAll of a guest"] = await scene.best(partial(scene.call, "GetAll", PROPERTIES, "s", GUEST, path=guest))
    return figures


async def cycles(scene: Scene) -> dict[str, float]:
    """What the service does by itself, and its signals."""
    engine = scene.engine

    async def none() -> None:
        scene.have([])
        await scene.cycle()
        await asyncio.sleep(1.2)
        scene.have(scene.domains)

    async def all_there() -> None:
        scene.have(scene.domains)
        await scene.cycle()
        await asyncio.sleep(1.2)
        scene.have([])

    figures = {
        "guests come": await scene.best(engine._sampling.guest_round, none),
        "guests go": await scene.best(engine._sampling.guest_round, all_there),
    }
    await none()
    for _ in range(12):
        await scene.cycle()
    figures["host round"] = await scene.best(engine._sampling.host_round)
    figures["guest round, all balloons move"] = await scene.best(engine._sampling.guest_round)

    async def told() -> None:
        await engine._sampling.guest_round()
        # Properties are told at most every second.
        await asyncio.sleep(1.2)

    figures["properties told"] = await scene.best(told)
    figures["policy round, nothing wanted"] = await scene.best(engine._policy_round)
    await scene.store.set_policies({"a": SHRINKING})
    figures["policy round, all balloons shrink"] = await scene.best(engine._policy_round, engine._sampling.guest_round)
    await scene.store.set_policies({"a": FAILING})
    figures["policy round, all fail"] = await scene.best(engine._policy_round, engine._sampling.guest_round)
    await scene.store.set_policies({"a": GREEDY})
    figures["policy round, greedy"] = await scene.best(engine._policy_round, engine._sampling.guest_round)
    await scene.store.set_policies({"a": SHRINKING}, replace=True)
    for _ in range(10):
        await scene.cycle()
    return figures


async def measure(stretches: Stretches, address: str, guests: int) -> dict[str, float]:
    """All figures with so many guests."""
    connection = await Connection.open(address)
    scene = Scene(stretches, connection, guests)
    await connection.own(NAME)
    await scene.store.start(Config())
    garbage = Garbage()
    scene.engine.watchers.all.append(garbage)
    scene.caller = await asyncio.get_running_loop().run_in_executor(None, Caller, address)
    figures = {**await cycles(scene), **await members(scene)}
    garbage.end()
    connection.close()
    return figures


def run(guests: int) -> dict[str, float]:
    """In a loop of its own, on a bus of its own."""
    stretches = Stretches()
    with bus() as address, asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(stretches)) as runner:
        return runner.run(measure(stretches, address, guests))


def main() -> dict[str, dict[str, float]]:
    """The figures by number of guests."""
    logging.disable()
    sys.setswitchinterval(SWITCH_S)
    return {f"{guests} guests:": run(guests) for guests in GUESTS}
