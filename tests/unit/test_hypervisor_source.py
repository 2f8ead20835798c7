# SPDX-License-Identifier: GPL-2.0-or-later
"""The read-only connection: what the answers of a libvirt that fails, hangs or comes back lead to. Answers are recorded ones."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest

from momservice.hypervisor import JOB_UNKNOWN, HypervisorUnavailable, libvirt_source
from momservice.hypervisor.libvirt_source import Hypervisor
from momservice.hypervisor.workers import DeadlineMissed

RECORDED = json.loads((Path(__file__).parent.parent / "data/libvirt-guests.json").read_text(encoding="utf-8"))["guests"]


def failure(code: int, text: str = "libvirt says no") -> Exception:
    error: Exception = libvirt.libvirtError(text)
    # The binding would rather tell of the last real error of this thread.
    error.args = (text,)
    error.err = (code, 0, text, 2, "", None, None, 0, 0)  # type: ignore[attr-defined] # the binding's own way to carry the code
    return error


@dataclass
class Domain:
    """A guest's handle. `fails`: what a call raises by its name. `definitions`: how often the XML was asked for."""

    guest: dict[str, Any]
    fails: dict[str, Exception] = field(default_factory=dict)
    job: Any = 0
    asked: list[str] = field(default_factory=list)
    hang: threading.Event | None = None
    slow: Callable[[], None] = lambda: None

    def name(self) -> str:
        return str(self.guest["name"])

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's spelling
        return str(self.guest["uuid"])

    def ID(self) -> int:  # noqa: N802 - libvirt's spelling
        return int(self.guest["id"])

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's spelling
        self._call("XMLDesc")
        return str(self.guest["xml"])

    def jobStats(self) -> dict[str, Any]:  # noqa: N802 - libvirt's spelling
        self._call("jobStats")
        if self.hang:
            self.hang.wait(30)
        return {"type": self.job}

    def _call(self, name: str) -> None:
        self.asked.append(name)
        self.slow()
        if name in self.fails:
            raise self.fails[name]


@dataclass
class Libvirtd:
    """Stands for libvirtd: gives connections, each of which is this object."""

    domains: list[Domain]
    opened: int = 0
    open_error: Exception | None = None
    bulk_errors: list[Exception] = field(default_factory=list)
    hang: threading.Event | None = None
    slow: Callable[[], None] = lambda: None
    # Statistics by guest when asked again, and who was.
    later: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked_again: list[list[str]] = field(default_factory=list)
    # What hung calls wait at until the test ends.
    gate: threading.Event = field(default_factory=threading.Event)

    def openReadOnly(self, _uri: str) -> "Libvirtd":  # noqa: N802 - libvirt's spelling
        self.opened += 1
        if self.open_error:
            raise self.open_error
        return self

    def numOfDomains(self) -> int:  # noqa: N802 - libvirt's spelling
        return len(self.domains)

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[Domain, dict[str, Any]]]:  # noqa: N802 - libvirt's spelling
        if self.hang:
            hang, self.hang = self.hang, None
            hang.wait(30)
        self.slow()
        if self.bulk_errors:
            raise self.bulk_errors.pop()
        return [(domain, domain.guest["stats"]) for domain in self.domains]

    def domainListGetStats(  # noqa: N802 - libvirt's spelling
        self, domains: list[Domain], _stats: int, _flags: int
    ) -> list[tuple[Domain, dict[str, Any]]]:
        self.asked_again.append([domain.name() for domain in domains])
        return [(domain, self.later.get(domain.name(), domain.guest["stats"])) for domain in domains]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirtd]:
    daemon = Libvirtd([Domain(dict(guest)) for guest in reversed(RECORDED)])
    monkeypatch.setattr(libvirt, "openReadOnly", daemon.openReadOnly)
    monkeypatch.setattr(libvirt_source, "DEADLINE_S", 0.05)
    monkeypatch.setattr(libvirt_source, "AGAIN_AFTER_S", (0.0, 0.0))
    yield daemon
    daemon.gate.set()


class SlowWorkers:
    """Stands for the threads, on a clock of its own: a call that takes too long ends there and then."""

    def __init__(self) -> None:
        self.deadlines_s: list[float] = []
        self._left_s = 0.0

    async def run(self, function: Callable[[], Any], deadline_s: float) -> Any:
        self.deadlines_s.append(deadline_s)
        self._left_s = deadline_s
        return function()

    def take(self, seconds: float) -> None:
        """What a call does that takes so long."""
        self._left_s -= seconds
        if self._left_s < 0:
            raise DeadlineMissed("no answer")


@pytest.fixture
def crowd(daemon: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> SlowWorkers:
    """A host with 1500 guests, 2.7 ms each in the bulk call."""
    monkeypatch.setattr(libvirt_source, "DEADLINE_S", 3.0)
    well, clock = named(daemon, "well").guest, SlowWorkers()
    daemon.domains = [Domain({**well, "uuid": f"{number:036}", "id": number + 1}) for number in range(1500)]
    daemon.slow = lambda: clock.take(0.0027 * len(daemon.domains))
    monkeypatch.setattr(libvirt_source, "Workers", lambda _limit, _name: clock)
    return clock


def play(scenario: Callable[[Hypervisor], Coroutine[Any, Any, None]], tmp_path: Path) -> None:
    async def run() -> None:
        await scenario(Hypervisor("", tmp_path))

    asyncio.run(run())


def named(daemon: Libvirtd, name: str) -> Domain:
    (domain,) = [domain for domain in daemon.domains if domain.name() == name]
    return domain


def test_guests_come_by_name_and_jobs_are_not_asked_of_a_guest_that_does_not_answer(daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        assert not hypervisor.connected
        records = await hypervisor.guests()
        assert [record.name for record in records] == ["hung", "no-balloon", "no-driver", "paused", "well"]
        assert {record.name: record.job for record in records if record.job} == {"hung": JOB_UNKNOWN}
        assert hypervisor.connected
        assert "jobStats" not in named(daemon, "hung").asked

    play(scenario, tmp_path)


def test_definitions_are_asked_for_once_a_start(daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        await hypervisor.guests()
        await hypervisor.guests()
        well = named(daemon, "well")
        assert well.asked.count("XMLDesc") == 1
        well.guest["id"] += 100
        await hypervisor.guests()
        assert well.asked.count("XMLDesc") == 2
        assert daemon.opened == 1

    play(scenario, tmp_path)


@pytest.mark.parametrize("call", ["XMLDesc", "jobStats"])
def test_a_guest_that_ends_in_between_is_left_out(daemon: Libvirtd, tmp_path: Path, call: str) -> None:
    named(daemon, "well").fails[call] = failure(libvirt.VIR_ERR_NO_DOMAIN)

    async def scenario(hypervisor: Hypervisor) -> None:
        assert [record.name for record in await hypervisor.guests()] == ["hung", "no-balloon", "no-driver", "paused"]

    play(scenario, tmp_path)


def test_a_guest_whose_definition_is_refused_is_not_ballooned_until_it_can_be_read(daemon: Libvirtd, tmp_path: Path) -> None:
    well = named(daemon, "well")
    well.fails["XMLDesc"] = failure(libvirt.VIR_ERR_INTERNAL_ERROR)

    async def scenario(hypervisor: Hypervisor) -> None:
        refused = (await hypervisor.guests())[-1].facts
        assert (refused.balloon, refused.unmergeable) == (False, "its definition can't be read")
        well.fails.clear()
        read = (await hypervisor.guests())[-1].facts
        assert (read.balloon, read.unmergeable) == (True, "")

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    ("job", "known"),
    [(1, 1), (failure(libvirt.VIR_ERR_OPERATION_UNSUPPORTED), JOB_UNKNOWN), (failure(libvirt.VIR_ERR_NO_SUPPORT), 0), ("x", JOB_UNKNOWN)],
)
def test_what_libvirt_says_of_jobs(daemon: Libvirtd, tmp_path: Path, job: Any, known: int) -> None:
    well = named(daemon, "well")
    if isinstance(job, Exception):
        well.fails["jobStats"] = job
    well.job = job

    async def scenario(hypervisor: Hypervisor) -> None:
        assert (await hypervisor.guests())[-1].job == known

    play(scenario, tmp_path)


def test_a_guest_that_another_client_was_asking_is_asked_again(daemon: Libvirtd, tmp_path: Path) -> None:
    daemon.later["hung"] = named(daemon, "well").guest["stats"]

    async def scenario(hypervisor: Hypervisor) -> None:
        record = (await hypervisor.guests())[0]
        assert (record.name, record.job) == ("hung", 0)
        assert "usable" in record.balloon
        assert daemon.asked_again == [["hung"]]

    play(scenario, tmp_path)


def test_a_guest_that_stays_silent_is_asked_again_only_in_the_first_pass(daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        await hypervisor.guests()
        in_first = len(daemon.asked_again)
        await hypervisor.guests()
        assert len(daemon.asked_again) == in_first > 1

    play(scenario, tmp_path)


def test_a_guest_that_ends_before_it_is_asked_again_is_told_of_once(daemon: Libvirtd, tmp_path: Path) -> None:
    hung = named(daemon, "hung")
    gone = Domain({**hung.guest, "id": -1, "stats": {"state.state": 5}})

    async def scenario(hypervisor: Hypervisor) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(daemon, "domainListGetStats", lambda *_: [(gone, gone.guest["stats"])])
            assert [record.name for record in await hypervisor.guests()].count("hung") == 1

    play(scenario, tmp_path)


def test_a_crowd_of_guests_is_given_its_time(crowd: SlowWorkers, daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        assert len(await hypervisor.guests()) == 1500
        assert daemon.opened == 1
        # A host with few guests again: one that hangs is noticed soon.
        del daemon.domains[5:]
        await hypervisor.guests()
        await hypervisor.guests()
        assert 3 < crowd.deadlines_s[-1] < 3.1

    play(scenario, tmp_path)


def test_definitions_that_were_read_before_a_missed_deadline_are_kept(crowd: SlowWorkers, daemon: Libvirtd, tmp_path: Path) -> None:
    for domain in daemon.domains:
        domain.slow = lambda: crowd.take(0.015)

    async def scenario(hypervisor: Hypervisor) -> None:
        assert len(await hypervisor.guests()) == 1500
        assert daemon.opened == 2
        # Once each, but for the one that the deadline fell into.
        assert sum(domain.asked.count("XMLDesc") for domain in daemon.domains) == 1501

    play(scenario, tmp_path)


def test_libvirt_missing_is_no_news_and_asked_again_only_after_a_while(
    daemon: Libvirtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.open_error = failure(libvirt.VIR_ERR_SYSTEM_ERROR, "Failed to connect\nsocket: no such file")

    async def scenario(hypervisor: Hypervisor) -> None:
        for _ in range(3):
            with pytest.raises(HypervisorUnavailable, match=r"^Failed to connect socket: no such file$"):
                await hypervisor.guests()
        assert daemon.opened == 2
        assert not hypervisor.connected
        daemon.open_error = None
        monkeypatch.setattr(hypervisor, "_retry_s", 0)
        assert len(await hypervisor.guests()) == 5
        assert hypervisor.connected

    play(scenario, tmp_path)


def test_a_connection_that_died_is_replaced_within_the_pass(daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        await hypervisor.guests()
        daemon.bulk_errors.append(failure(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed"))
        assert len(await hypervisor.guests()) == 5
        assert daemon.opened == 2

    play(scenario, tmp_path)


def test_a_bulk_call_that_hangs_is_abandoned_and_asked_on_a_fresh_connection(daemon: Libvirtd, tmp_path: Path) -> None:
    async def scenario(hypervisor: Hypervisor) -> None:
        await hypervisor.guests()
        daemon.hang = daemon.gate
        assert len(await hypervisor.guests()) == 5
        assert daemon.opened == 2

    play(scenario, tmp_path)


def test_job_states_that_do_not_come_in_time_are_unknown_the_others_stay(daemon: Libvirtd, tmp_path: Path) -> None:
    named(daemon, "no-driver").hang = daemon.gate

    async def scenario(hypervisor: Hypervisor) -> None:
        jobs = {record.name: record.job for record in await hypervisor.guests()}
        # libvirt told of them in the order well... hung, reversed.
        assert jobs == {"hung": JOB_UNKNOWN, "paused": 0, "no-balloon": 0, "no-driver": JOB_UNKNOWN, "well": JOB_UNKNOWN}

    play(scenario, tmp_path)


def test_all_threads_hung_makes_the_hypervisor_unavailable(daemon: Libvirtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_source, "MAX_THREADS", 1)
    daemon.hang = daemon.gate

    async def scenario(hypervisor: Hypervisor) -> None:
        for _ in range(3):
            with pytest.raises(HypervisorUnavailable, match="all 1 threads wait"):
                await hypervisor.guests()
            monkeypatch.setattr(hypervisor, "_retry_s", 0)
        # Only a thread could let go of them: nothing but the one that hangs may gather here.
        assert hypervisor._dead == [daemon]

    play(scenario, tmp_path)


def test_libvirt_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Hypervisor("")
    with pytest.raises(libvirt.libvirtError):
        libvirt.openReadOnly("qemu+unix:///system?socket=/nonexistent")
    assert capfd.readouterr().err == ""
