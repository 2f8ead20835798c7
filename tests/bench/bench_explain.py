# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to explain one of 5000 guests over 10 runs of the shipped policies, and how long that holds the event loop up.

explain_s: what the caller waits; longest_tick_ms: of an event loop that would tick each millisecond; files_ms: to read a small file 1000
times in the event loop, as collectors do, at worst and without anything being explained.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from momservice.__main__ import EXPLAIN_DEADLINE_S, EXPLAINING, SWITCH_S, offload
from momservice.columns import GuestTable
from momservice.config import Config
from momservice.explanations import Explainer
from momservice.hypervisor.workers import Workers
from momservice.parts import schema
from momservice.policy import Program, evaluate, load
from momservice.snapshot import HOST, Entity, Sample, Snapshot
from momservice.watching import PolicyRun

POLICIES = Path(__file__).parent.parent.parent / "conf/policy.d"
GUESTS, RUNS, HISTORY, FILES = 5000, 10, 10, 1000
# A host that is short of memory, so that every guest shrinks.
_HOST: Sample = {"mem_available": 10**9, "mem_free": 10**7, "ksm_shareable": 10**8, "ksm_pages_to_scan": 64}
_BALLOON: Sample = {"balloon_cur": 10**6, "balloon_max": 1048576, "balloon_min": 0, "balloon_works": True}


def world() -> Snapshot:
    """The world of each run."""
    keys = [f"00000000-0000-4000-8000-{number:012}" for number in range(GUESTS)]
    rows = [[{**_BALLOON, "held": False, "mem_unused": 300_000 + number} for number in range(GUESTS)] for _ in range(HISTORY)]
    properties = [{"name": f"vm{number}", "uuid": key} for number, key in enumerate(keys)]
    return Snapshot(Entity(HOST, [_HOST] * HISTORY, {"interval": 10}), GuestTable(keys, properties, rows))


def program() -> Program:
    """The shipped policies."""
    loaded = load({file.stem: file.read_text(encoding="utf-8") for file in POLICIES.glob("*.policy")}, schema(Config())).program
    if loaded is None:
        raise ValueError("the shipped policies don't load")
    return loaded


def read_files() -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    for _ in range(FILES):
        descriptor = os.open("/proc/self/stat", os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)
    return (time.perf_counter() - begin) * 1e3


async def explained(runs: deque[PolicyRun], guest: str) -> Mapping[str, float]:
    """The figures."""
    explainer = Explainer(runs, partial(offload, Workers(1, "explain"), EXPLAIN_DEADLINE_S, EXPLAINING))
    begin = time.perf_counter()
    task = asyncio.ensure_future(explainer.explain(guest, RUNS))
    ticks, files = [], []
    while not task.done():
        last = time.perf_counter()
        await asyncio.sleep(0.001)
        ticks.append((time.perf_counter() - last) * 1e3)
        if len(ticks) % 50 == 0:
            files.append(read_files())
    took_s = time.perf_counter() - begin
    rows = await task
    skipped = sum(row.kind == "skipped" for row in rows)
    return {"explain_s": took_s, "rows": len(rows), "skipped": skipped, "longest_tick_ms": max(ticks), "files_ms": max(files)}


def main() -> dict[str, float]:
    """The figures by name."""
    sys.setswitchinterval(SWITCH_S)
    policies, seen = program(), world()
    run = PolicyRun(1, 1, policies, seen, evaluate(policies, seen), 0)
    begin = time.perf_counter()
    evaluate(policies, seen)
    live_ms = (time.perf_counter() - begin) * 1e3
    runs = deque(replace(run, number=number) for number in range(RUNS))
    idle_ms = read_files()
    return {"live_run_ms": live_ms, "files_idle_ms": idle_ms, **asyncio.run(explained(runs, f"00000000-0000-4000-8000-{7:012}"))}
