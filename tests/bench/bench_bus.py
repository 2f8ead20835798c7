# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bus costs: large answers with 10, 300 and 1000 guests beside an empty call, callers without pause, signals, memory, polkit.

The service is the real one over recorded libvirt answers, in a process of its own on a bus of its own; its callers read answers without
decoding them, so that what is measured is the service. busctl is a C library's client. The guarded call needs polkit, so it is made in the
lab; without root that part is left out, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import libvirt
from bench_cycle import Domain, Recording, at_once, cpu_ms, nothing, process
from dbus_next import Message

from lab.common import LabError
from lab.host import Host
from momservice.bus.connection import Connection
from momservice.bus.names import MANAGER, NAME, PATH, POLICY
from momservice.bus.service import publish
from momservice.config import Config
from momservice.engine import Engine
from momservice.explanations import Explainer
from momservice.hypervisor.libvirt_source import Hypervisor
from momservice.parts import Workshop, schema
from momservice.store import PolicyStore
from momservice.watching import PolicyRun, Watcher

ROOT = Path(__file__).parent.parent.parent
GUESTS = (10, 300, 1000)
CALLS = 200
CALLERS, LOAD_S = 20, 6.0
# All 10 samples of the history are there, and some more.
CYCLES, SIGNAL_CYCLES = 12, 6
NEVER_S, INTERVAL_S = 3600, 1
LAG_S = 0.005
HEADER = struct.Struct("<BBBBIII")
RETURN, SIGNAL = 2, 4
Figures = dict[str, Any]


# The service, in a process of its own


class Moving(Recording):
    """libvirt's connection: guests whose balloons stand still, or all move from one answer to the next."""

    def __init__(self, guests: int, moving: bool) -> None:
        self.domains: Sequence[Domain] = [Domain(number) for number in range(1, guests + 1)]
        self._moving, self._answers = moving, 0

    def getAllDomainStats(self, stats: int, flags: int) -> list[tuple[Domain, dict[str, Any]]]:  # noqa: N802 - libvirt's name
        """As libvirt."""
        self._answers += self._moving
        answers = super().getAllDomainStats(stats, flags)
        for _, told in answers:
            told["balloon.current"] -= self._answers % 2 * 4096
        return answers


class Clock(Watcher):
    """Writes down when the policy ran, and how late the loop was."""

    def __init__(self) -> None:
        self.runs: list[float] = []
        self.lag_s = 0.0

    def ran(self, run: PolicyRun) -> None:
        """See Watcher."""
        self.runs.append(time.monotonic())

    async def tick(self) -> None:
        """Look at the loop all the time."""
        while True:
            due = time.monotonic() + LAG_S
            await asyncio.sleep(LAG_S)
            self.lag_s = max(self.lag_s, time.monotonic() - due)

    def told_so_far(self) -> Figures:
        """What there is since it was last asked; seconds, MiB."""
        gaps = [later - earlier for earlier, later in zip(self.runs, self.runs[1:], strict=False)]
        told = {"cpu_s": time.process_time(), "rss_mib": rss_mib(), "cycles": len(self.runs), "gaps_s": gaps, "lag_s": self.lag_s}
        self.runs, self.lag_s = self.runs[-1:], 0.0
        return told


def rss_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


async def serve(address: str, guests: int, interval_s: int, moving: bool) -> None:
    """Serve until standard input ends; each line of it is answered with what the clock has seen."""
    logging.disable()
    libvirt.openReadOnly = lambda _uri: Moving(guests, moving)
    settings = replace(
        Config(),
        policy_dir=ROOT / "conf/policy.d",
        host_monitor_interval_s=interval_s,
        guest_monitor_interval_s=interval_s,
        policy_engine_interval_s=interval_s,
    )
    connection = await Connection.open(address)
    workshop = Workshop(connection)
    store = PolicyStore(schema(settings), at_once)
    # There are no helpers here.
    chosen = replace(workshop.parts(settings), controllers=[], settle=nothing, begin=nothing, renew=nothing)
    engine = Engine(settings, chosen, lambda: (settings, chosen), store, Hypervisor())
    await store.start(settings)
    publish(connection, engine, store, Explainer(engine.runs, at_once), workshop.balloon_works)
    clock, ended = Clock(), asyncio.Event()
    engine.watchers.all.append(clock)
    await connection.own(NAME)

    def answer() -> None:
        if not sys.stdin.readline():
            ended.set()
        sys.stdout.write(json.dumps(clock.told_so_far()) + "\n")
        sys.stdout.flush()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), answer)
    work = [asyncio.ensure_future(each) for each in (engine.run(lambda: None), clock.tick())]
    await ended.wait()
    for task in work:
        task.cancel()


class Service:
    """The process, as its parent sees it."""

    def __init__(self, *arguments: str) -> None:
        command, environment = ["/usr/bin/python3", __file__, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def tell(self) -> Figures:
        """What its clock has seen since it was last asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        figures: Figures = json.loads(self._process.stdout.readline())
        return figures

    def close(self) -> None:
        """End it."""
        self._process.communicate()


# Callers


class Caller:
    """A connection that doesn't decode what it reads."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address.removeprefix("unix:path="))
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
        self._stream = self._socket.makefile("rb")
        self._stream.readline()
        self._serial = 0
        self.call("Hello", "org.freedesktop.DBus", name="org.freedesktop.DBus")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def call(self, member: str, interface: str = MANAGER, signature: str = "", *args: Any, name: str = NAME, path: str = PATH) -> int:
        """Call a method; how long its answer is, in bytes."""
        self._serial += 1
        message = Message(name, path, interface, member, serial=self._serial, signature=signature, body=list(args))
        self._socket.sendall(message._marshall())
        while (read := self.read())[0] == SIGNAL:
            pass
        if read[0] != RETURN:
            raise RuntimeError(f"{member} fails")
        return read[1]

    def read(self) -> tuple[int, int]:
        """Read a message: its kind, and the length of its body."""
        _, kind, _, _, body_bytes, _, length = HEADER.unpack(self._stream.read(HEADER.size))
        self._stream.read(length + -length % 8 + body_bytes)
        return kind, body_bytes

    def listen(self) -> list[float]:
        """Hear all signals of the service from now on; gives when each came, a list that grows."""
        self.call("AddMatch", "org.freedesktop.DBus", "s", f"type='signal',sender='{NAME}'", name="org.freedesktop.DBus")
        heard: list[float] = []

        def hear() -> None:
            with contextlib.suppress(OSError, ValueError, struct.error):
                while self.read()[0] == SIGNAL:
                    heard.append(time.monotonic())

        threading.Thread(target=hear, daemon=True).start()
        return heard

    def hang_up(self) -> None:
        """Wake whoever reads."""
        self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def bus() -> Iterator[str]:
    """A bus of our own; its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:path={folder}/bus"
        command = ["dbus-daemon", "--session", "--nofork", f"--address={address}", "--print-address"]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            yield address
        finally:
            daemon.kill()
            daemon.communicate()


@contextmanager
def service(address: str, guests: int, interval_s: int, *, moving: bool = False) -> Iterator[Service]:
    """A service whose guests are there."""
    running = Service("serve", address, str(guests), str(interval_s), str(int(moving)))
    try:
        with Caller(address) as caller:
            end = time.monotonic() + 30
            while True:
                # Until it owns its name, and knows its guests.
                with contextlib.suppress(RuntimeError):
                    if caller.call("GetActiveGuests") >= guests * 50:
                        break
                if time.monotonic() > end:
                    raise LabError("bench: the service doesn't come up")
                time.sleep(0.1)
        # The first policy run.
        while not running.tell()["cycles"]:
            time.sleep(0.1)
        yield running
    finally:
        running.close()


# Measurements


def cost(running: Service, call: Callable[[], object], calls: int) -> tuple[float, float]:
    """The service's CPU time and the caller's time for a call, in microseconds."""
    call()
    before, begin = running.tell()["cpu_s"], time.perf_counter()
    for _ in range(calls):
        call()
    took = time.perf_counter() - begin
    return (running.tell()["cpu_s"] - before) / calls * 1e6, took / calls * 1e6


def calls(address: str, guests: int) -> Figures:
    """What single calls cost, while nothing else happens."""
    figures: Figures = {}
    with service(address, guests, NEVER_S) as running, Caller(address) as caller:
        before = running.tell()["cpu_s"]
        figures["answer_kib"] = caller.call("GetStatistics") / 1024
        figures["first_call_cpu_ms"] = (running.tell()["cpu_s"] - before) * 1e3
        ping, ping_round = cost(running, lambda: caller.call("Ping"), CALLS)
        large, large_round = cost(running, lambda: caller.call("GetStatistics"), CALLS)
        figures |= {"ping_cpu_us": ping, "statistics_cpu_us": large, "statistics_by_ping": large / ping}
        figures |= {"ping_us": ping_round, "statistics_us": large_round}
        objects = cost(running, lambda: caller.call("GetManagedObjects", "org.freedesktop.DBus.ObjectManager"), CALLS)
        figures["objects_cpu_us"] = objects[0]
        figures["busctl_ms"] = busctl_ms(address, "GetStatistics") - busctl_ms(address, "Ping")
    return figures


def busctl_ms(address: str, member: str) -> float:
    """How long busctl takes."""
    command = ["busctl", f"--address={address}", "call", NAME, PATH, MANAGER, member]
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        took.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(took)


def load(address: str, guests: int) -> Figures:
    """Cycles with callers that never pause, beside cycles in peace; memory after both."""
    with service(address, guests, INTERVAL_S) as running:
        running.tell()
        time.sleep(CYCLES * INTERVAL_S)
        quiet = running.tell()
        ended, made = time.monotonic() + LOAD_S, [0] * CALLERS

        def call(number: int) -> None:
            with Caller(address) as caller:
                while time.monotonic() < ended:
                    caller.call("GetStatistics")
                    made[number] += 1

        threads = [threading.Thread(target=call, args=[number]) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        busy = running.tell()
    late_s = max(busy["gaps_s"]) - statistics.median(quiet["gaps_s"])
    return {
        "calls_per_s": sum(made) / LOAD_S,
        "cycle_late_ms": late_s * 1e3,
        "loop_late_ms": busy["lag_s"] * 1e3,
        "loop_late_in_peace_ms": quiet["lag_s"] * 1e3,
        "rss_mib": quiet["rss_mib"],
        "rss_after_load_mib": busy["rss_mib"],
    }


def signals(address: str, guests: int, *, moving: bool) -> Figures:
    """Signals while cycles go on; all balloons move in each, or none."""
    with service(address, guests, INTERVAL_S, moving=moving) as running, Caller(address) as caller:
        heard = caller.listen()
        # Until all has been told of guests that have only just come.
        time.sleep(2 * INTERVAL_S)
        before = running.tell()["cpu_s"]
        heard.clear()
        time.sleep(SIGNAL_CYCLES * INTERVAL_S)
        told = running.tell()
        count = len(heard)
        caller.hang_up()
    name = "when_all_balloons_move" if moving else "when_none_moves"
    return {
        f"signals_per_cycle_{name}": count / told["cycles"],
        f"cycle_cpu_ms_{name}": (told["cpu_s"] - before) / told["cycles"] * 1e3,
        f"loop_late_ms_{name}": told["lag_s"] * 1e3,
    }


def guarded() -> Figures:
    """A call that polkit guards beside an empty one, as root, in the lab."""
    try:
        with Host(guests=0, libvirt=False, ksm=False) as host, Caller(host.bus_address) as caller:
            folder = process(host, "momservice")
            return {
                name: figure
                for call, member in ((("Ping", MANAGER), "ping"), (("GetPolicy", POLICY), "guarded"))
                for name, figure in guarded_cost(folder, caller, call, member)
            }
    except LabError as error:
        return {"left_out_because": str(error)}


def guarded_cost(folder: Path, caller: Caller, call: Sequence[str], name: str) -> Iterator[tuple[str, float]]:
    """CPU time of the service, and the caller's time."""
    caller.call(*call)
    before, begin = cpu_ms(folder), time.perf_counter()
    for _ in range(CALLS * 5):
        caller.call(*call)
    yield f"{name}_us", (time.perf_counter() - begin) / CALLS / 5 * 1e6
    yield f"{name}_cpu_us", (cpu_ms(folder) - before) / CALLS / 5 * 1e3


def main() -> Mapping[str, Figures]:
    """The figures by number of guests, and those of polkit."""
    idle = Service("idle")
    idle_mib = idle.tell()["rss_mib"]
    idle.close()
    results: dict[str, Figures] = {"idle python": {"rss_mib": idle_mib}}
    with bus() as address:
        for guests in GUESTS:
            figures = {**calls(address, guests), **load(address, guests)}
            figures["rss_over_idle_mib"] = figures["rss_after_load_mib"] - idle_mib
            for moving in (False, True):
                figures |= signals(address, guests, moving=moving)
            results[f"{guests} guests:"] = figures
    return {**results, "polkit": guarded()}


def idle() -> None:
    """A Python with all that the service imports, which does nothing."""
    for _ in sys.stdin:
        sys.stdout.write(json.dumps({"rss_mib": rss_mib()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", at, count, seconds, moves]:
            asyncio.run(serve(at, int(count), int(seconds), moves == "1"))
            # A thread that waits for work mustn't be waited for.
            os._exit(0)
        case _:
            idle()
