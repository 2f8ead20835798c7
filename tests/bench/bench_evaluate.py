# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample and a run of the policy of 2011 beside the same written by hand in Python, by number of guests.

seconds: taking in one fresh sample per guest, evaluating, and making all controls; evaluation_seconds: evaluating alone; controls_seconds:
making the controls alone, which happens when they are asked for; rows_seconds: by hand, averaging the
dictionaries of 10 samples per guest; columns_seconds: by hand, on the columns that the compiled policy reads. Medians, in one process; all
four decide the same, which is checked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from momservice.columns import GuestTable
from momservice.config import Config
from momservice.parts import schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

POLICY = Path(__file__).parent.parent / "data" / "mom.policy"
GUESTS = (1, 100, 1000, 5000)
HISTORY = 10
# The shortest time that is measured at once.
LEAST_S = 0.02
RUNS = 9
GIB_KIB = 1 << 20

Wanted = dict[tuple[str, str], Value]


def world(guests: int) -> Snapshot:
    """A host under pressure: every guest can be shrunk."""
    host: Sample = {
        "mem_available": guests * GIB_KIB,
        "mem_free": guests * GIB_KIB // 10,
        "ksm_pages_to_scan": 100,
        "ksm_shareable": guests * GIB_KIB // 2,
    }
    members = []
    for n in range(guests):
        samples: list[Sample] = [
            {"libvirt_curmem": GIB_KIB, "libvirt_maxmem": GIB_KIB, "mem_unused": GIB_KIB // 2 + n} for _ in range(HISTORY)
        ]
        members.append(Entity(f"00000000-0000-0000-0000-{n:012}", samples, {"name": f"vm{n}"}))
    return Snapshot(Entity(HOST, [dict(host) for _ in range(HISTORY)], {"interval": 10}), members)


def number(value: Value) -> float:
    """The value as a number; a policy's figures are."""
    assert isinstance(value, int | float)
    return value


def mean(entity: Entity, name: str) -> float:
    """The average of one field's history."""
    samples = entity.history(name)
    return sum(map(number, samples)) / len(samples)


def ksm_by_hand(host: Entity) -> Wanted:
    """The KSM half of the policy of 2011, as a programmer would write it."""
    memory, free = number(host.newest("mem_available")), mean(host, "mem_free")
    threshold = memory * 0.20
    if threshold + number(host.newest("ksm_shareable")) < memory and free > threshold:
        return {(HOST, "ksm_run"): 0}
    pages = number(host.newest("ksm_pages_to_scan")) + (300 if free < threshold else -50)
    return {
        (HOST, "ksm_run"): 1,
        (HOST, "ksm_sleep_millisecs"): 10 * 16777216 / memory,
        (HOST, "ksm_pages_to_scan"): min(max(pages, 64), 1250),
    }


def keep_free(host: Entity) -> float:
    """What share of its memory a guest keeps free, under pressure."""
    free = mean(host, "mem_free") / number(host.newest("mem_available"))
    return -0.05 + free if free <= 0.05 else 0.20 * (free / 0.20)


def by_rows(snapshot: Snapshot) -> Wanted:
    """The policy of 2011 by hand: guest by guest over rows of samples."""
    wanted = ksm_by_hand(snapshot.host)
    keep = keep_free(snapshot.host)
    for guest in snapshot.guests:
        now, maximum = number(guest.newest("libvirt_curmem")), number(guest.newest("libvirt_maxmem"))
        used = mean(guest, "libvirt_curmem") - mean(guest, "mem_unused")
        target = max(now * (1 - 0.05), used + keep * maximum)
        if target <= maximum and abs(target - now) > 0.0025 * now:
            wanted[guest.key, "balloon_target"] = target
    return wanted


def by_columns(snapshot: Snapshot, table: GuestTable) -> Wanted:
    """The same on columns and running sums."""
    wanted = ksm_by_hand(snapshot.host)
    keep = keep_free(snapshot.host)
    now_sums, unused_sums = table.sums("libvirt_curmem"), table.sums("mem_unused")
    samples = now_sums.samples
    columns: Any = (table.keys, table.column("libvirt_curmem"), table.column("libvirt_maxmem"), now_sums.by_guest, unused_sums.by_guest)
    for key, now, maximum, now_sum, unused_sum in zip(*columns, strict=True):
        target = now * (1 - 0.05)
        least = now_sum / samples - unused_sum / samples + keep * maximum
        target = max(target, least)
        if target <= maximum and abs(target - now) > 0.0025 * now:
            wanted[key, "balloon_target"] = target
    return wanted


def seconds(work: Callable[[], object]) -> float:
    """Median seconds of a call, of several runs that last long enough to be measured."""
    begin = time.perf_counter()
    work()
    calls = max(1, int(LEAST_S / max(time.perf_counter() - begin, 1e-7)))
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


def wanted_by(decisions: Decisions) -> Wanted:
    """The controls of a run."""
    assert not decisions.failures
    assert not decisions.abandoned
    return {(wanted.entity, wanted.name): wanted.value for wanted in decisions.controls}


def made(decisions: Decisions) -> Decisions:
    """The same, all its controls made."""
    assert len(decisions.controls)
    return decisions


def program() -> Program:
    """The policy of 2011."""
    loaded = load({"50_main_": POLICY.read_text()}, schema(Config())).program
    assert loaded is not None
    return loaded


def measure(guests: int) -> dict[str, float]:
    """The figures at one size."""
    policy, rows = program(), world(guests)
    tables = [GuestTable.of(rows.guests)]
    fresh = [dict(sample) for sample in tables[0].rows[-1]]

    def cycle() -> Decisions:
        # The next sample becomes part of the history that the run then sees, as in the service.
        tables[0] = tables[0].after(fresh, HISTORY)
        return made(evaluate(policy, Snapshot(rows.host, tables[0])))

    decided = wanted_by(cycle())
    snapshot = Snapshot(rows.host, tables[0])
    assert decided == by_rows(rows) == by_columns(snapshot, tables[0]), "policy and hand-written code decide differently"
    cycle_s = seconds(cycle)
    snapshot = Snapshot(rows.host, tables[0])
    evaluation_s = seconds(lambda: evaluate(policy, snapshot))
    controls_s = seconds(lambda: made(evaluate(policy, snapshot))) - evaluation_s
    rows_s, columns_s = seconds(lambda: by_rows(rows)), seconds(lambda: by_columns(snapshot, tables[0]))
    return {
        "seconds": cycle_s,
        "evaluation_seconds": evaluation_s,
        "controls_seconds": controls_s,
        "rows_seconds": rows_s,
        "columns_seconds": columns_s,
        "of_rows": cycle_s / rows_s,
        "evaluation_of_columns": evaluation_s / columns_s,
    }


def main() -> dict[str, dict[str, float]]:
    """The figures by number of guests."""
    return {str(guests): measure(guests) for guests in GUESTS}
