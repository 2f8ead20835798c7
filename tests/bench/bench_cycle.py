# SPDX-License-Identifier: GPL-2.0-or-later
"""What an idle cycle costs: CPU, threads, processes spawned, memory, with 3 real guests and with 300 recorded ones.

A cycle is one host sample, one guest sample and one policy run with the policies that we ship. The 3 guests are in the lab, where service
and helpers are processes; the 300 are recorded libvirt answers, fed to the same code in this process in place of libvirt's connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from lab.host import Host
from momservice.bus.connection import Connection
from momservice.config import Config
from momservice.engine import Engine
from momservice.hypervisor.libvirt_source import Hypervisor
from momservice.parts import Workshop, schema
from momservice.store import PolicyStore

ROOT = Path(__file__).parent.parent.parent
RECORDED = json.loads((ROOT / "tests/data/libvirt-guests.json").read_text(encoding="utf-8"))["guests"][0]
# Of Python's audit events, those that make a process.
SPAWNS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec", "subprocess.Popen"})
CYCLES, GUESTS = 15, 300
CYCLE_S = 2


class Domain:
    """A guest of the recording; named as libvirt's class names things."""

    def __init__(self, number: int) -> None:
        self._number = number

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        """As libvirt."""
        return f"00000000-0000-4000-8000-{self._number:012}"

    def name(self) -> str:
        """As libvirt."""
        return f"vm{self._number}"

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """As libvirt."""
        return self._number

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's name
        """As libvirt."""
        return str(RECORDED["xml"])

    def jobStats(self) -> Mapping[str, int]:  # noqa: N802 - libvirt's name
        """As libvirt."""
        return {"type": 0}


class Recording:
    """Where libvirt's connection would be."""

    domains: Sequence[Domain] = [Domain(number) for number in range(1, GUESTS + 1)]

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[Domain, dict[str, Any]]]:  # noqa: N802 - libvirt's name
        """As libvirt."""
        return [(domain, {**RECORDED["stats"], "balloon.last-update": int(time.time())}) for domain in self.domains]

    def __getattr__(self, name: str) -> Any:
        return lambda *_args: 0


class Spawned:
    """Counts the processes that this process makes from now on."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _args: object) -> None:
        self.count += event in SPAWNS


async def at_once(function: Any) -> Any:
    """The load of the policies isn't measured."""
    return function()


async def recorded() -> dict[str, float]:
    """300 guests, in this process."""
    libvirt.openReadOnly = lambda _uri: Recording()
    settings = replace(Config(), policy_dir=ROOT / "conf/policy.d")
    # Nothing is decided when no memory is short, so no helper is called.
    workshop = Workshop(Connection.__new__(Connection))
    store = PolicyStore(schema(settings), at_once)
    # The statistics period of new guests is momhelper-guests' work.
    chosen = replace(workshop.parts(settings), settle=nothing)
    engine = Engine(settings, chosen, lambda: (settings, chosen), store, Hypervisor())
    await store.start(settings)
    spawned = Spawned()
    cpu, evaluation = [], []
    for _ in range(CYCLES):
        begin = time.process_time()
        for work in (engine._sampling.host_round, engine._sampling.guest_round, engine._policy_round):
            await work()
        cpu.append((time.process_time() - begin) * 1e3)
        evaluation.append(engine.evaluation_duration_us / 1e3)
    assert len(engine.active_guests()) == GUESTS
    return {
        "cpu_per_cycle_ms": statistics.median(cpu),
        "evaluation_ms": statistics.median(evaluation),
        "threads": threading.active_count(),
        "processes_spawned": spawned.count,
    }


async def nothing(*_: object) -> None:
    """Do nothing."""


def real() -> dict[str, float | str]:
    """3 guests, in the lab."""
    intervals = f"host-monitor-interval: {CYCLE_S}\nguest-monitor-interval: {CYCLE_S}\npolicy-engine-interval: {CYCLE_S}\n"
    with Host(guests=3, settle=True, drop_in=f"[main]\n{intervals}") as host:
        service = process(host, "momservice")
        before = cpu_ms(service)
        time.sleep(CYCLES * CYCLE_S)
        spent = cpu_ms(service) - before
        status = dict(line.split(":\t", 1) for line in (service / "status").read_text().splitlines() if ":\t" in line)
        figures: dict[str, float | str] = {
            "cpu_per_cycle_ms": spent / CYCLES,
            "threads": int(status["Threads"]),
            # Page faults of children that have ended: 0 means that there never was one.
            "faults_of_spawned_processes": int((service / "stat").read_text().rsplit(")", 1)[1].split()[8]),
        }
        # An idle host needs no momhelper; a short one does.
        arguments = ["org.ovirt.Mom1.Policy", "SetParameters", "a{sv}", "1", "ksm_free_percent", "d", "0.99"]
        host.check(["busctl", "call", "org.ovirt.Mom1", "/org/ovirt/Mom1", *arguments])
        host.wait_for(lambda: host.owned("org.ovirt.MomHelper1"), "momhelper")
        for name in ("momservice", "momhelper", "momhelper-guests"):
            figures[f"{name}_rss_mib"] = rss_mib(host, name)
        return figures


def process(host: Host, name: str) -> Path:
    """The /proc folder of a program in the lab, as seen from here. Raises StopIteration if it doesn't run."""
    for folder in host.path("/proc").iterdir():
        if folder.name.isdigit():
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(f"/{name}".encode()) for word in words):
                return folder
    raise StopIteration(name)


def rss_mib(host: Host, name: str) -> float | str:
    """Resident memory; a helper that nobody needed doesn't run."""
    try:
        text = (process(host, name) / "status").read_text()
    except StopIteration:
        return "not running"
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def cpu_ms(folder: Path) -> float:
    """User and system time of a process."""
    words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def main() -> dict[str, dict[str, float | str]]:
    """The figures by number of guests."""
    return {"3": real(), "300": dict(asyncio.run(recorded()))}
