# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluation of six fragments of VDSM's shape beside the same written by hand in Python, by number of guests with two disks each.

Shown: seconds (medians of several runs, in one process) of the policy and by hand, and their ratio. Both must decide the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from momservice.columns import GuestTable
from momservice.config import Config
from momservice.fields import Schema
from momservice.parts import schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

FOLDER: Final = Path(__file__).parents[1] / "data" / "fragments"
PARAMETERS: Final = "(set balloonEnabled True) (set ksmEnabled True) (set ksmMergeAcrossNodes False)"
GUESTS: Final = (100, 1000)
HISTORY: Final = 10
RUNS: Final = 9
GIB_KIB: Final = 1 << 20
FIGURES: Final = ("total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec")
# Entity, control and item; the value.
Controls: TypeAlias = dict[tuple[str, str, str], Value]


def disk(name: str, number: int) -> Mapping[str, Value]:
    """A disk of which each second one is beyond a limit."""
    limits = {figure: 1000 * (place + 1) for place, figure in enumerate(FIGURES)}
    current = {**limits, "total_bytes_sec": 1000 + number % 2, "write_iops_sec": 6000 - number % 2}
    return {"name": name, "path": f"/disks/{name}", "guaranteed": dict(limits), "maximum": limits, "current": current}


def world(guests: int) -> Snapshot:
    """A host short of memory; guests that can be shrunk, every fourth with another CPU quota than its limit says."""
    host: Sample = {
        **{"mem_available": guests * GIB_KIB, "mem_free": guests * GIB_KIB // 10, "cpu_count": 64},
        **{"ksm_pages_to_scan": 100, "ksm_shareable": guests * GIB_KIB // 2, "ksm_merge_across_nodes": 0, "ksm_pages_shared": 9},
    }
    members = []
    for n in range(guests):
        sample: Sample = {
            **{"balloon_cur": GIB_KIB, "balloon_max": GIB_KIB, "balloon_min": GIB_KIB // 2, "mem_unused": GIB_KIB // 2 + n},
            **{"vcpu_count": 2, "vcpu_user_limit": 50 if n % 2 else 100, "vcpu_period": 100_000, "vcpu_quota": -1 if n % 4 else 5000},
            "io_tune": [disk("vda", n), disk("vdb", n // 2)],
        }
        members.append(Entity(f"00000000-0000-0000-0000-{n:012}", [sample] * HISTORY, {"name": f"vm{n}"}))
    return Snapshot(Entity(HOST, [host] * HISTORY, {"interval": 10}), members)


# --- by hand -----------------------------------------------------------------------------------------------------------------------------


def mean(entity: Entity, field: str) -> float:
    """The average of one field's history."""
    values: list[Any] = [value for sample in entity.samples if (value := sample.get(field)) is not None]
    return float(sum(values)) / len(values)


def balloon(guest: Entity, free_part: float) -> Iterator[tuple[str, str, Value]]:
    """Shrinks a guest; the host is short of memory in this world."""
    newest: Mapping[str, Any] = guest.samples[-1]
    now, most = newest["balloon_cur"], newest["balloon_max"]
    used = mean(guest, "balloon_cur") - mean(guest, "mem_unused")
    wanted = used + 0.20 * (free_part / 0.20) * most
    if wanted < now:
        target = max(newest["balloon_min"], min(most, max(wanted, now * (1 - 0.05))))
        if abs(target - now) > 0.0025 * now:
            yield "balloon_target", "", target


def cpu(guest: Entity, host_cpus: int) -> Iterator[tuple[str, str, Value]]:
    """The quota that a guest's limit means."""
    newest: Mapping[str, Any] = guest.samples[-1]
    limit = newest["vcpu_user_limit"]
    quota = -1 if limit >= 100 else max(1000, 100_000 * (host_cpus * limit) / (100 * newest["vcpu_count"]))
    if quota != newest["vcpu_quota"] or newest["vcpu_period"] != 100_000:
        yield "vcpu_quota", "", quota
        yield "vcpu_period", "", 100_000


def disks(guest: Entity) -> Iterator[tuple[str, str, Value]]:
    """The limits of a guest's disks that aren't between what is guaranteed and the maximum."""
    newest: Mapping[str, Any] = guest.samples[-1]
    for one in newest["io_tune"]:
        for figure in FIGURES:
            now, least, most = one["current"][figure], one["guaranteed"][figure], one["maximum"][figure]
            if most and (not now or now > most):
                yield figure, one["name"], most
            elif now and least and now < least:
                yield figure, one["name"], least


def ksm(host: Entity) -> Iterator[tuple[str, str, Value]]:
    """KSM, with its choice of nodes as it should be."""
    newest: Mapping[str, Any] = host.samples[-1]
    free, wanted = mean(host, "mem_free"), newest["mem_available"] * 0.20
    if wanted + newest["ksm_shareable"] < newest["mem_available"] and free > wanted:
        yield "ksm_run", "", 0
        return
    yield "ksm_run", "", 1
    yield "ksm_sleep_millisecs", "", max(10, 10 * 16777216 / newest["mem_available"])
    yield "ksm_pages_to_scan", "", max(64, min(1250, newest["ksm_pages_to_scan"] + (300 if free < wanted else -50)))


def by_hand(snapshot: Snapshot) -> Controls:
    """What the fragments decide, as a programmer would write it: guest by guest over rows of samples."""
    host: Mapping[str, Any] = snapshot.host.samples[-1]
    free_part = mean(snapshot.host, "mem_free") / host["mem_available"]
    controls: Controls = {(HOST, name, item): value for name, item, value in ksm(snapshot.host)}
    for guest in snapshot.guests:
        for found in (balloon(guest, free_part), cpu(guest, host["cpu_count"]), disks(guest)):
            for name, item, value in found:
                controls[guest.key, name, item] = value
    return controls


# --- measuring ---------------------------------------------------------------------------------------------------------------------------


def fragments() -> Program:
    """The fragments, loaded where every field is collected."""
    known = schema(Config())
    everything = Schema(replace(known.host, declared=known.host.known), replace(known.guest, declared=known.guest.known))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.policy")}
    program = load({**texts, "01-parameters": PARAMETERS}, everything).program
    assert program is not None
    return program


def decided(decisions: Decisions) -> Controls:
    """The controls, to compare."""
    assert not decisions.failures, decisions.failures[0]
    return {(wanted.entity, wanted.name, wanted.item): wanted.value for wanted in decisions.controls}


def median_s(work: Sequence[Callable[[], object]]) -> list[float]:
    """Median seconds of each of several calls, taken in turn."""
    times: list[list[float]] = [[] for _ in work]
    for _ in range(RUNS):
        for taken, call in zip(times, work, strict=True):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def measure(program: Program, guests: int) -> dict[str, float]:
    """Seconds of the policy and by hand at one size."""
    rows = world(guests)
    # As the service keeps them.
    snapshot = Snapshot(rows.host, GuestTable.of(rows.guests))
    decisions = evaluate(program, snapshot)
    assert not decisions.abandoned
    assert decided(decisions) == by_hand(rows), "policy and hand-written code decide differently"
    policy_s, hand_s = median_s([lambda: evaluate(program, snapshot), lambda: by_hand(rows)])
    return {"seconds": policy_s, "by_hand_seconds": hand_s, "ratio": policy_s / hand_s}


def main() -> dict[str, dict[str, float]]:
    """The figures by number of guests."""
    program = fragments()
    return {str(guests): measure(program, guests) for guests in GUESTS}
