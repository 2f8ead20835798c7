# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper-guests: each guest for itself, whatever libvirt does."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import libvirt
import pytest

from momhelper import guests as module
from momhelper.guests import Guests, Helper, checked
from momservice.bus.connection import Call, CallError

A, B, C = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
MIB = 1 << 20


def failure(code: int, text: str = "libvirt\nsays no") -> Exception:
    error: Exception = libvirt.libvirtError(text)
    # The binding would rather tell of the last real error of this thread.
    error.args = (text,)
    error.err = (code, 0, text, 2, "", None, None, 0, 0)  # type: ignore[attr-defined] # the binding's own way to carry the code
    return error


@dataclass
class Domain:
    """A guest's handle."""

    daemon: "Libvirtd"
    guest: str

    def jobStats(self) -> dict[str, int]:  # noqa: N802 - libvirt's spelling
        if self.guest in self.daemon.hung:
            self.daemon.gate.wait(30)
        if self.guest in self.daemon.overlooked:
            self.daemon.another.wait(30)
        job = self.daemon.jobs.get(self.guest, 0)
        if isinstance(job, Exception):
            raise job
        return {"type": job}

    def maxMemory(self) -> int:  # noqa: N802 - libvirt's spelling
        return 128 * 1024

    def setMemory(self, kib: int) -> None:  # noqa: N802 - libvirt's spelling
        if error := self.daemon.errors.get(self.guest):
            raise error
        self.daemon.set.append((self.guest, kib))

    def setMemoryStatsPeriod(self, seconds: int, flags: int) -> None:  # noqa: N802 - libvirt's spelling
        self.daemon.set.append((self.guest, seconds, flags))


@dataclass
class Libvirtd:
    """Stands for libvirtd; each connection is this object."""

    alive: bool = True
    opened: int = 0
    errors: dict[str, Exception] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict)
    hung: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    # Calls for these are seen with the next call.
    overlooked: set[str] = field(default_factory=set)
    another: threading.Event = field(default_factory=threading.Event)
    set: list[tuple[Any, ...]] = field(default_factory=list)

    def open(self, _uri: str) -> "Libvirtd":
        self.opened += 1
        if not self.alive:
            raise failure(libvirt.VIR_ERR_SYSTEM_ERROR, "no\nsocket")
        return self

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's spelling
        self.another.set()
        if not self.alive:
            raise failure(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed")
        return 9_000_000

    def isAlive(self) -> int:  # noqa: N802 - libvirt's spelling
        return int(self.alive)

    def lookupByUUIDString(self, guest: str) -> Domain:  # noqa: N802 - libvirt's spelling
        return Domain(self, guest)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirtd]:
    daemon = Libvirtd()
    monkeypatch.setattr(libvirt, "open", daemon.open)
    # Passes for those that hang, and for nobody else on a busy machine.
    monkeypatch.setattr(module, "GUEST_DEADLINE_S", 1.0)
    yield daemon
    daemon.gate.set()
    daemon.another.set()


async def everyone(_call: Call) -> None:
    """The gate, open."""


def call(member: str, *args: Any) -> Call:
    return Call(":1.1", module.PATH, module.NAME, member, args, False)


async def set_memory(helper: Helper, *targets: tuple[str, int]) -> list[list[str]]:
    export = helper.export
    message = call("SetMemory", [list(target) for target in targets])
    await export.guard(message)
    outcomes: list[list[str]] = (await export.methods["SetMemory"](message))[0]
    return outcomes


def play(scenario: Callable[[Helper], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await scenario(Helper(Guests("qemu:///system"), everyone))

    asyncio.run(run())


def test_targets_are_set_in_kib_within_the_guests_bounds(daemon: Libvirtd) -> None:
    async def scenario(helper: Helper) -> None:
        outcomes = await set_memory(helper, (A, 100 * MIB + 1), (B, 129 * MIB), (C, MIB - 1))
        assert [outcome[:2] for outcome in outcomes] == [[A, "ok"], [B, "out-of-range"], [C, "out-of-range"]]
        assert daemon.set == [(A, 100 * 1024)]

    play(scenario)


def test_periods_are_set_live(daemon: Libvirtd) -> None:
    async def scenario(helper: Helper) -> None:
        await helper.export.methods["SetStatsPeriod"](call("SetStatsPeriod", [A, B], 5))
        assert sorted(daemon.set) == [(A, 5, libvirt.VIR_DOMAIN_AFFECT_LIVE), (B, 5, libvirt.VIR_DOMAIN_AFFECT_LIVE)]

    play(scenario)


@pytest.mark.parametrize("job", [1, 2, failure(libvirt.VIR_ERR_OPERATION_UNSUPPORTED)])
def test_a_guest_with_a_job_is_busy(daemon: Libvirtd, job: Any) -> None:
    daemon.jobs[A] = job

    async def scenario(helper: Helper) -> None:
        assert [outcome[1] for outcome in await set_memory(helper, (A, 64 * MIB), (B, 64 * MIB))] == ["busy", "ok"]
        assert daemon.set == [(B, 65536)]

    play(scenario)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, "unknown-guest"),
        (libvirt.VIR_ERR_INVALID_ARG, "out-of-range"),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, "timeout"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "failed"),
    ],
)
def test_what_libvirt_refuses_has_an_outcome_of_one_line(daemon: Libvirtd, code: int, outcome: str) -> None:
    daemon.errors[A] = failure(code)

    async def scenario(helper: Helper) -> None:
        assert await set_memory(helper, (A, 64 * MIB), (B, 64 * MIB)) == [[A, outcome, "libvirt says no"], [B, "ok", ""]]

    play(scenario)


def test_a_hung_guest_times_out_is_refused_and_comes_back_and_nothing_late_is_done(daemon: Libvirtd) -> None:
    daemon.hung.add(A)

    async def scenario(helper: Helper) -> None:
        assert [outcome[1] for outcome in await set_memory(helper, (A, 64 * MIB), (B, 64 * MIB))] == ["timeout", "ok"]
        assert [outcome[1] for outcome in await set_memory(helper, (A, 65 * MIB), (B, 65 * MIB))] == ["unavailable", "ok"]
        assert daemon.opened == 2
        daemon.gate.set()
        while (await set_memory(helper, (A, 66 * MIB)))[0][1] != "ok":
            await asyncio.sleep(0.01)
        assert [done for done in daemon.set if done[0] == A] == [(A, 66 * 1024)]

    play(scenario)


def test_a_call_that_libvirt_overlooks_waits_for_no_hung_guest(daemon: Libvirtd) -> None:
    daemon.hung.add(A)
    daemon.overlooked.add(B)

    async def scenario(helper: Helper) -> None:
        assert [outcome[1] for outcome in await set_memory(helper, (A, 64 * MIB), (B, 64 * MIB))] == ["timeout", "ok"]

    play(scenario)


def test_hung_guests_take_no_more_threads_than_allowed(daemon: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_THREADS", 2)
    daemon.hung |= {A, B}

    async def scenario(helper: Helper) -> None:
        before = threading.active_count()
        outcomes = await set_memory(helper, (A, 64 * MIB), (B, 64 * MIB), (C, 64 * MIB))
        assert [outcome[1] for outcome in outcomes] == ["timeout", "timeout", "unavailable"]
        assert threading.active_count() <= before + 2

    play(scenario)


def test_calls_for_which_no_thread_is_left_gather_nothing(daemon: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_THREADS", 1)
    daemon.hung.add(A)

    async def run() -> None:
        guests = Guests("qemu:///system")
        helper = Helper(guests, everyone)
        assert (await set_memory(helper, (A, 64 * MIB)))[0][1] == "timeout"
        for _ in range(3):
            assert (await set_memory(helper, (B, 64 * MIB)))[0][1] == "unavailable"
        assert guests._dead == [daemon]

    asyncio.run(run())


def test_a_libvirtd_that_is_gone_is_found_again(daemon: Libvirtd) -> None:
    async def scenario(helper: Helper) -> None:
        assert (await set_memory(helper, (A, 64 * MIB)))[0][1] == "ok"
        daemon.alive = False
        assert await set_memory(helper, (A, 65 * MIB)) == [[A, "unavailable", "no socket"]]
        daemon.alive = True
        assert (await set_memory(helper, (A, 66 * MIB)))[0][1] == "ok"

    play(scenario)


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["not a uuid"], "InvalidArgs"),
        ([A.upper().replace("0", "A")], "InvalidArgs"),
        (["{" + A + "}"], "InvalidArgs"),
        ([A.replace("-", "")], "InvalidArgs"),
        ([A, A], "InvalidArgs"),
        ([str(uuid.UUID(int=number)) for number in range(10_001)], "LimitsExceeded"),
    ],
)
def test_a_list_that_is_none_of_different_uuids_is_refused_whole(names: Sequence[str], error: str) -> None:
    with pytest.raises(CallError) as caught:
        checked(names)
    assert caught.value.name == f"org.freedesktop.DBus.Error.{error}"
    assert names[0] not in caught.value.text


@pytest.mark.parametrize("seconds", [0, 3601, 2**32 - 1])
def test_periods_out_of_range_are_refused(daemon: Libvirtd, seconds: int) -> None:
    async def scenario(helper: Helper) -> None:
        with pytest.raises(CallError, match="1 to 3600 are allowed"):
            await helper.export.methods["SetStatsPeriod"](call("SetStatsPeriod", [A], seconds))
        assert not daemon.opened

    play(scenario)


def test_libvirt_is_not_opened_before_it_is_needed(daemon: Libvirtd) -> None:
    async def scenario(_helper: Helper) -> None:
        assert not daemon.opened

    play(scenario)


async def pester(helper: Helper) -> None:
    while True:
        with pytest.raises(CallError):
            await helper.export.guard(call("SetMemory", []))
        await asyncio.sleep(0.02)


def test_refused_callers_do_not_keep_the_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.2)

    async def refuse(_call: Call) -> None:
        raise CallError("org.freedesktop.DBus.Error.AccessDenied", "no")

    async def run() -> None:
        helper = Helper(Guests(""), refuse)
        pest = asyncio.ensure_future(pester(helper))
        await asyncio.wait_for(helper.idle(), 60)
        pest.cancel()

    asyncio.run(run())


def test_a_call_under_way_keeps_the_helper(daemon: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    monkeypatch.setattr(module, "GUEST_DEADLINE_S", 30.0)
    daemon.hung.add(A)

    async def scenario(helper: Helper) -> None:
        under_way = asyncio.ensure_future(set_memory(helper, (A, 64 * MIB)))
        idle = asyncio.ensure_future(helper.idle())
        await asyncio.sleep(0.1)
        assert not idle.done()
        daemon.gate.set()
        assert (await under_way)[0][1] == "ok"
        await asyncio.wait_for(idle, 60)

    play(scenario)
