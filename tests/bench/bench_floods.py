# SPDX-License-Identifier: GPL-2.0-or-later
"""The service on a private bus under floods: how long others wait for an answer, whether cycles keep their interval, how memory grows.

answer_ms: Ping of a client that asks 20 times a second, measured inside the service from when the message could be read to when its answer
was queued; highest and median, nan if none came. GetId_ms: the bus's own share, the median of a question that only the bus answers.
cycle_s: the longest time between two runs of the policy, whose interval is 1 s. rss_mib: the service's memory at the end of the flood.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pwd
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from dbus_next import Message, Variant

from lab.buses import PrivateBus, private_bus
from lab.common import PYTHON, ROOT, LabError
from lab.stranger import BUS, Stranger, call_of, empty_strings

SECONDS = 5.0
QUIET_S = 0.02
NAME, PATH, MANAGER, POLICY = "org.ovirt.Mom1", "/org/ovirt/Mom1", "org.ovirt.Mom1.Manager", "org.ovirt.Mom1.Policy"
GUESTS = 300
DOMAIN = """<domain type="test"><name>vm{0}</name><uuid>00000000-0000-4000-8000-{0:012d}</uuid><memory unit="KiB">1048576</memory>
<vcpu>1</vcpu><os><type>hvm</type></os></domain>"""
CONFIGURATION = """[main]
main-loop-interval: 1
host-monitor-interval: 1
guest-monitor-interval: 1
guest-manager-interval: 1
policy-engine-interval: 1
libvirt-hypervisor-uri: test://{0}/node.xml
[logging]
verbosity: critical
"""
# Who floods; who asks meanwhile is root.
NOBODY = pwd.getpwnam("nobody").pw_uid
LARGE = 28_000_000
# What may be on its way from one flooding client.
WINDOW = 20

Flood = Callable[[str], None]


def call(member: str, interface: str = MANAGER, signature: str = "", *args: object) -> Message:
    """A call of the service."""
    return call_of(NAME, PATH, interface, member, signature, *args)


def pump(clients: list[Stranger], message: Message, read_bytes: int = 1 << 20, pause_s: float = 0.0) -> None:
    """Send the message from all clients as fast as each reads answers."""
    poll, by_fd = select.poll(), {client.socket.fileno(): client for client in clients}
    for client in clients:
        client.send_all([message] * WINDOW)
        poll.register(client.socket, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if not by_fd[descriptor].socket.recv(read_bytes):
                poll.unregister(descriptor)
                continue
            with suppress(OSError):
                by_fd[descriptor].send(message)
        time.sleep(pause_s)


def many(address: str) -> None:
    """100 clients that call without pause."""
    pump([Stranger(address, NOBODY) for _ in range(100)], call("GetHostStatistics"))


def many_large(address: str) -> None:
    """100 clients that call for the largest answer without pause."""
    pump([Stranger(address, NOBODY) for _ in range(100)], call("GetStatistics"))


def wrong(address: str) -> None:
    """20 clients with arguments that no method takes."""
    pump([Stranger(address, NOBODY) for _ in range(20)], call("SetPolicy", POLICY, "ai", [1, 2, 3]))


def slow(address: str) -> None:
    """20 clients that read a little of their answers now and then."""
    pump([Stranger(address, NOBODY) for _ in range(20)], call("GetStatistics"), 1000, 0.1)


def unread(address: str) -> None:
    """10,000 answers to one client that it never reads."""
    client = Stranger(address, NOBODY)
    client.send_all([call("GetHostStatistics")] * 10_000)
    time.sleep(1000)


def unread_large(address: str) -> None:
    """Answers of 360 MB to 20 clients that never read them."""
    clients = [Stranger(address, NOBODY) for _ in range(20)]
    for _ in range(200):
        for client in clients:
            client.send(call("GetStatistics"))
    time.sleep(1000)


def leaving(address: str) -> None:
    """Clients that leave in mid-call."""
    while True:
        client = Stranger(address, NOBODY)
        client.send_all([call("GetStatistics")] * 5)
        client.close()


def leaving_known(address: str) -> None:
    """Clients that leave in mid-call when the service knows them."""
    while True:
        clients = [Stranger(address, NOBODY) for _ in range(20)]
        for client in clients:
            client.call(call("GetActiveGuests"))
        for client in clients:
            client.send_all([call("GetStatistics")] * 5)
            client.close()


def large_strings(address: str) -> None:
    """28 MB of empty strings from 20 connections at once."""
    large(address, "as", empty_strings(LARGE))


def large_variants(address: str) -> None:
    """28 MB of variants from 20 connections at once."""
    large(address, "av", (LARGE - LARGE % 4).to_bytes(4, "little") + b"\1y\0\7" * (LARGE // 4))


def large(address: str, signature: str, body: bytes) -> None:
    """Such messages over and over; answers are read to the end of the first."""
    clients = [Stranger(address, NOBODY) for _ in range(20)]
    empty = [""] if signature == "as" else [Variant("y", 1)]
    while True:
        for client in clients:
            with suppress(OSError):
                client.send_raw(call("Ping", MANAGER, signature, empty), body)


def dictionaries(address: str) -> None:
    """Bodies of 1 MB that are decoded before their caller is known to be allowed: policies, of 60,000 empty texts."""
    clients = [Stranger(address, NOBODY) for _ in range(4)]
    pump(clients, call("ValidatePolicy", POLICY, "a{ss}", {f"{n}": "" for n in range(60_000)}))


FLOODS: Mapping[str, Flood | None] = {
    "none": None,
    "100 clients": many,
    "100 clients, large answers": many_large,
    "10,000 unread": unread,
    "360 MB unread": unread_large,
    "slow readers": slow,
    "wrong signatures": wrong,
    "leaving in mid-call": leaving,
    "leaving when known": leaving_known,
    "28 MB of strings from 20": large_strings,
    "28 MB of variants from 20": large_variants,
    "many values": dictionaries,
}


class Service:
    """The service, which measures itself."""

    def __init__(self, bus: PrivateBus, folder: Path) -> None:
        domains = "".join(DOMAIN.format(number) for number in range(1, GUESTS + 1))
        (folder / "node.xml").write_text(f"<node>{domains}</node>", encoding="utf-8")
        (folder / "momd.conf").write_text(CONFIGURATION.format(folder), encoding="utf-8")
        self._figures = folder / "figures.json"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "STATE_DIRECTORY": str(folder)}
        program = Path(__file__).with_name("floods_service.py")
        self.process = subprocess.Popen([PYTHON, str(program), str(folder / "momd.conf"), str(self._figures)], env=environment)

    def figures(self) -> dict[str, list[float]]:
        """What has been measured since this was last asked."""
        self._figures.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_for(self._figures.exists, "the service's figures")
        found: dict[str, list[float]] = json.loads(self._figures.read_text(encoding="utf-8"))
        return found

    def rss_mib(self) -> float:
        """The memory that it has now."""
        (line,) = [line for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024


def wait_for(what: Callable[[], object], name: str) -> None:
    """Raises LabError after a minute."""
    end = time.monotonic() + 60
    while not what():
        if time.monotonic() > end:
            raise LabError(f"bench: waited a minute for {name}")
        time.sleep(0.02)


@contextmanager
def flooded(flood: Flood | None, address: str) -> Iterator[None]:
    """The flood, in a process of its own."""
    if flood is None:
        yield
        return
    process = multiprocessing.get_context("fork").Process(target=flood, args=(address,), daemon=True)
    process.start()
    try:
        # Its connections are made and its first messages have come.
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.join()


def asked_s(client: Stranger, message: Message) -> float:
    """Seconds of one call."""
    begin = time.monotonic()
    client.call(message)
    return time.monotonic() - begin


def figures_of(service: Service, flood: Flood | None, address: str) -> dict[str, float]:
    """One flood's figures."""
    client, bus_times = Stranger(address), []
    # What the flood before has left behind is over.
    wait_for(lambda: asked_s(client, call("Ping")) < QUIET_S, "the end of a flood")
    with flooded(flood, address):
        service.figures()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            bus_times.append(asked_s(client, Message(*BUS, "GetId")))
            client.call(call("Ping"))
            time.sleep(0.05)
        found, rss_mib = service.figures(), service.rss_mib()
    client.close()
    runs, answers = found["runs_s"], found["answers_s"] or [math.nan]
    return {
        "answer_ms": 1000 * statistics.median(answers),
        "answer_ms_max": 1000 * max(answers),
        "answers": len(answers),
        "GetId_ms": 1000 * statistics.median(bus_times),
        "cycle_s_max": max((after - before for before, after in pairwise(runs)), default=0.0),
        "rss_mib": rss_mib,
    }


def main() -> dict[str, dict[str, float]]:
    """All floods, one after the other on the same service."""
    with private_bus() as bus, tempfile.TemporaryDirectory(prefix="mom-floods-") as work:
        service = Service(bus, Path(work))
        try:
            client = Stranger(bus.address)
            wait_for(lambda: client.call(call("Ping")).error_name is None, "the service")
            client.close()
            return {name: figures_of(service, flood, bus.address) for name, flood in FLOODS.items()}
        finally:
            service.process.kill()
            service.process.wait()
