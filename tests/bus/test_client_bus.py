# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients over a real bus that goes away and comes back, and VDSM's class, with a stand-in for the service."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stand_in import Service, wait_for

from lab.buses import BROKER, DAEMON, PrivateBus
from momservice.bus.connection import CallError, Connection
from momservice.client import BlockingClient, Client, ServiceUnavailable, VdsmMomClient
from momservice.errors import InvalidArgs, InvalidPolicy
from momservice.link import Link
from momservice.vdsm import DEADLINE_S

# What a call that fails at once, or after VDSM's two seconds, may take on a busy machine; other deadlines are longer.
SOON_S = 9.0
# What the system bus lets a caller wait for.
REPLIES = 128
THREADS = 8


@pytest.fixture(params=[DAEMON, BROKER])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateBus]:
    running = PrivateBus(request.param, tmp_path, REPLIES)
    yield running
    running.kill()


def answers(client: BlockingClient) -> bool:
    try:
        return client.ping()
    except ServiceUnavailable:
        return False


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mom-")]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_same_object_works_again_after_service_and_bus_were_away(bus: PrivateBus) -> None:
    with BlockingClient(bus.address) as client:
        with pytest.raises(ServiceUnavailable, match="systemctl start momservice"):
            client.ping()
        service = Service(bus.address)
        assert client.ping()
        service.stop()
        with pytest.raises(ServiceUnavailable):
            client.ping()
        service = Service(bus.address)
        assert client.ping()
        bus.kill()
        wait_for(lambda: not answers(client), "the bus to be gone")
        begun_s = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="cannot connect to the system bus"):
            client.ping()
        assert time.monotonic() - begun_s < SOON_S
        bus.start()
        with pytest.raises(ServiceUnavailable, match="does not run"):
            client.ping()
        again = Service(bus.address)
        assert client.ping()
        again.stop()


def test_the_asyncio_client_works_again_too(bus: PrivateBus) -> None:
    async def main() -> None:
        client = await Client.connect(bus.address)
        service = await asyncio.to_thread(Service, bus.address)
        assert await client.ping()
        bus.kill()
        with pytest.raises(ServiceUnavailable):
            while True:
                await client.ping()
        bus.start()
        again = await asyncio.to_thread(Service, bus.address)
        assert await client.ping()
        await asyncio.to_thread(again.stop)
        await client.close()
        assert set(service.calls) == {("Ping",)}

    asyncio.run(main())


def test_threads_share_a_client_through_an_outage(bus: PrivateBus) -> None:
    stop = threading.Event()
    succeeded = [0] * THREADS

    def work(number: int) -> None:
        while not stop.is_set():
            succeeded[number] += answers(client)

    def all_succeed() -> None:
        before = [*succeeded]
        wait_for(lambda: all(now > then for now, then in zip(succeeded, before, strict=True)), "all threads to be answered")

    before_fds = descriptors()
    with BlockingClient(bus.address) as client, ThreadPoolExecutor(THREADS) as pool:
        service = Service(bus.address)
        workers = [pool.submit(work, number) for number in range(THREADS)]
        try:
            all_succeed()
            service.stop()
            bus.kill()
            bus.start()
            service = Service(bus.address)
            all_succeed()
            assert len(own_threads()) == 1
        finally:
            stop.set()
        for worker in workers:
            worker.result()
        service.stop()
    assert not own_threads()
    gc.collect()
    assert descriptors() <= before_fds + 1


def test_a_call_under_way_fails_when_the_client_is_closed(bus: PrivateBus) -> None:
    service = Service(bus.address)
    client = BlockingClient(bus.address)
    bus.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.ping)
        wait_for(call.running, "the call to begin")
        client.close()
        with pytest.raises(ServiceUnavailable):
            call.result(60)
    client.close()
    with pytest.raises(ServiceUnavailable, match="closed"):
        client.ping()
    bus.signal(signal.SIGCONT)
    service.stop()


def test_clients_that_are_forgotten_leave_nothing_behind(bus: PrivateBus) -> None:
    service = Service(bus.address)
    gc.collect()
    before = descriptors()
    for make in (BlockingClient, VdsmMomClient) * 5:
        client: Any = make(bus.address)
        client.connect() if make is VdsmMomClient else client.ping()
    del client
    gc.collect()
    for thread in own_threads():
        thread.join(60)
    gc.collect()
    assert not own_threads()
    assert descriptors() == before
    service.stop()


def test_a_bus_that_hangs_holds_nobody_up_beyond_the_deadline(bus: PrivateBus) -> None:
    service = Service(bus.address)
    with BlockingClient(bus.address, deadline_s=5) as client:
        assert client.ping()
        bus.signal(signal.SIGSTOP)
        with pytest.raises(CallError) as raised:
            client.ping()
        assert raised.value.name.endswith(".Timeout")
        with pytest.raises(ServiceUnavailable, match="the system bus does not answer"):
            BlockingClient(bus.address, deadline_s=2)
        bus.signal(signal.SIGCONT)
        wait_for(lambda: answers_late(client), "the bus to answer again")
    service.stop()
    assert not own_threads()


def test_a_service_that_hangs_for_long_is_late_and_nothing_else(bus: PrivateBus) -> None:
    service = Service(bus.address)
    service.hangs = True

    async def outcome(client: Client) -> str:
        try:
            return str(await client.ping())
        except CallError as error:
            return error.name
        except ServiceUnavailable as error:
            return str(error)

    async def main() -> set[str]:
        client = Client(Link(partial(Connection.open, bus.address)), deadline_s=0.02)
        # More than the bus lets one connection wait for.
        outcomes = {await outcome(client) for _ in range(300)}
        service.hangs = False
        client._deadline_s = 60
        while await outcome(client) != "True":
            pass
        await client.close()
        return outcomes

    # So short a deadline may also pass while it connects anew.
    assert asyncio.run(asyncio.wait_for(main(), 120)) - {"the system bus does not answer"} == {"org.freedesktop.DBus.Error.Timeout"}
    service.stop()


def answers_late(client: BlockingClient) -> bool:
    try:
        return client.ping()
    except (ServiceUnavailable, CallError):
        return False


# VDSM's class


@pytest.fixture
def vdsm(bus: PrivateBus, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[VdsmMomClient]:
    # Where nothing hangs its deadline is beside the point, and a busy machine may miss it.
    if request.function is not test_vdsm_survives_a_bus_that_hangs:
        monkeypatch.setattr("momservice.vdsm.DEADLINE_S", 60.0)
    client = VdsmMomClient(bus.address)
    yield client
    client.close()


def within(work: Callable[[], Any]) -> Any:
    """The result of a call by which VDSM isn't held up."""
    begun_s = time.monotonic()
    result = work()
    assert time.monotonic() - begun_s < SOON_S
    return result


def away(client: VdsmMomClient) -> None:
    """Everything at once as VDSM does it: from threads, and none is broken or held up."""
    works: list[tuple[Callable[[], Any], Any]] = [
        (client.connect, None),
        (client.getStatus, "inactive"),
        (client.getKsmStats, {}),
        (lambda: client.setPolicy("(+ 1 2)"), None),
        (lambda: client.setPolicyParameters({"a": 1}), None),
    ] * 3
    with ThreadPoolExecutor(len(works)) as pool:
        assert list(pool.map(lambda work: within(work[0]), works)) == [expected for _, expected in works]


def test_vdsm_is_never_held_up_for_two_seconds() -> None:
    assert DEADLINE_S < 2


def test_vdsm_gets_figures_and_status(bus: PrivateBus, vdsm: VdsmMomClient) -> None:
    service = Service(bus.address)
    vdsm.connect()
    assert vdsm.getStatus() == "active"
    # What the host doesn't tell is left out.
    assert vdsm.getKsmStats() == {"ksmState": True, "memShared": 512 * os.sysconf("SC_PAGE_SIZE") >> 20}
    service.stop()


def test_vdsm_survives_a_service_that_is_away_and_finds_it_again(
    bus: PrivateBus, vdsm: VdsmMomClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "momservice.vdsm")
    for _ in range(3):
        away(vdsm)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    service = Service(bus.address)
    assert vdsm.getStatus() == "active"
    service.stop()
    away(vdsm)
    service = Service(bus.address)
    assert vdsm.getStatus() == "active"
    service.stop()


def test_vdsm_survives_a_bus_that_is_away_and_finds_it_again(bus: PrivateBus, vdsm: VdsmMomClient) -> None:
    service = Service(bus.address)
    assert vdsm.getStatus() == "active"
    bus.kill()
    wait_for(lambda: vdsm.getStatus() == "inactive", "the bus to be gone")
    away(vdsm)
    bus.start()
    service = Service(bus.address)
    assert vdsm.getStatus() == "active"
    service.stop()


@pytest.mark.parametrize("connected", [False, True])
def test_vdsm_survives_a_bus_that_hangs(bus: PrivateBus, vdsm: VdsmMomClient, connected: bool) -> None:
    service = Service(bus.address)
    if connected:
        wait_for(lambda: vdsm.getStatus() == "active", "an answer in time")
    bus.signal(signal.SIGSTOP)
    away(vdsm)
    bus.signal(signal.SIGCONT)
    wait_for(lambda: vdsm.getStatus() == "active", "the bus to answer again")
    service.stop()


def test_what_was_set_meanwhile_is_handed_over_when_the_service_is_back(bus: PrivateBus, vdsm: VdsmMomClient) -> None:
    vdsm.setPolicy("old")
    vdsm.setPolicy("new")
    vdsm.setPolicyParameters({"a": 1, "b": "x"})
    vdsm.setPolicyParameters({"a": True})
    service = Service(bus.address)
    assert vdsm.getStatus() == "active"
    wait_for(lambda: len(service.calls) == 3, "what was owed")
    (_, policy, (_, variants)) = service.calls
    assert policy == ("SetPolicy", "new")
    assert {name: (value.signature, value.value) for name, value in variants.items()} == {"a": ("b", True), "b": ("s", "x")}
    # Handed over once.
    assert vdsm.getKsmStats()
    vdsm.setPolicyParameters({"c": 0.5})
    assert [call[0] for call in service.calls[3:]] == ["GetHostStatistics", "SetParameters"]
    assert list(service.calls[-1][1]) == ["c"]
    service.stop()


def test_a_policy_that_is_refused_late_is_in_the_log_and_forgotten(
    bus: PrivateBus, vdsm: VdsmMomClient, caplog: pytest.LogCaptureFixture
) -> None:
    vdsm.setPolicy("bad")
    service = Service(bus.address)
    # Parameters may need the policy, so it is tried first, and its refusal isn't theirs.
    vdsm.setPolicyParameters({"a": 1})
    assert [call[0] for call in service.calls] == ["SetPolicy", "SetParameters"]
    assert "what was kept for momservice is refused: 50_main_:1:2: bad" in caplog.text
    assert vdsm.getStatus() == "active"
    assert [call[0] for call in service.calls[2:]] == ["Ping"]
    service.stop()


def test_a_parameter_that_is_refused_late_takes_no_other_with_it(
    bus: PrivateBus, vdsm: VdsmMomClient, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "bad", "b"):
        vdsm.setPolicyParameters({name: 1})
    service = Service(bus.address)
    # Nor is the caller of another one told of it.
    vdsm.setPolicyParameters({"c": 1})
    wait_for(lambda: len(service.calls) == 5, "what was owed")
    assert [list(values) for _, values in service.calls] == [["c"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert vdsm.getStatus() == "active"
    assert [call[0] for call in service.calls[5:]] == ["Ping"]
    assert caplog.text.count("what was kept for momservice is refused: bad") == 1
    service.stop()


def test_a_refusal_is_raised_and_forgotten(bus: PrivateBus, vdsm: VdsmMomClient) -> None:
    service = Service(bus.address)
    with pytest.raises(InvalidPolicy, match="50_main_:1:2: bad"):
        vdsm.setPolicy("bad")
    assert vdsm.getStatus() == "active"
    assert [call[0] for call in service.calls] == ["SetPolicy", "Ping"]
    service.stop()


@pytest.mark.parametrize("values", [{"a": None}, {"a": [1]}, {5: 1}, {"a": "\0"}, {"a\0": 1}])
def test_parameters_that_are_none_are_raised_with_and_without_the_service(vdsm: VdsmMomClient, values: Any) -> None:
    with pytest.raises(InvalidArgs):
        vdsm.setPolicyParameters(values)


def test_a_closed_client_is_quiet(bus: PrivateBus) -> None:
    client = VdsmMomClient(bus.address)
    client.close()
    client.close()
    assert (client.getStatus(), client.getKsmStats()) == ("inactive", {})
    assert not own_threads()
