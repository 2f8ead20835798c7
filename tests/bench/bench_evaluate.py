# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluation of the policy of 2011 beside its shrink path written by hand in Python, on the same world, by number of guests.

Shown: seconds (medians of several runs, in one process), per guest, and the ratio to the hand-written code. Linear in guests means that
the time per guest doesn't grow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from momservice.config import Config
from momservice.parts import schema
from momservice.policy import evaluate, load
from momservice.snapshot import Entity, Sample, Snapshot, Value

POLICY = Path(__file__).parent.parent / "data" / "mom.policy"
GUESTS = (1, 100, 1000)
HISTORY = 10
RUNS = 7
GIB_KIB = 1 << 20


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
        sample: Sample = {"libvirt_curmem": GIB_KIB, "libvirt_maxmem": GIB_KIB, "mem_unused": GIB_KIB // 2 + n}
        members.append(Entity(f"00000000-0000-0000-0000-{n:012}", [sample] * HISTORY, {"name": f"vm{n}"}))
    return Snapshot(Entity("host", [host] * HISTORY, {"interval": 10}), members)


def number(value: Value) -> float:
    """The value as a number; a policy's figures are."""
    assert isinstance(value, int | float)
    return value


def mean(samples: list[Value]) -> float:
    """The average of one field's history."""
    return sum(map(number, samples)) / len(samples)


def by_hand(snapshot: Snapshot) -> dict[str, float]:
    """The balloon half of the policy of 2011, as a programmer would write it: guest by guest over rows of samples."""
    host = snapshot.host
    free = mean(host.history("mem_free")) / number(host.newest("mem_available"))
    targets = {}
    for guest in snapshot.guests:
        now, maximum = number(guest.newest("libvirt_curmem")), number(guest.newest("libvirt_maxmem"))
        keep = free - 0.05 if free <= 0.05 else 0.20 * free / 0.20
        used = mean(guest.history("libvirt_curmem")) - mean(guest.history("mem_unused"))
        target = max(now * (1 - 0.05), used + keep * maximum)
        if target <= maximum and abs(target - now) > 0.0025 * now:
            targets[guest.key] = target
    return targets


def median_s(work: Callable[[], object]) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(guests: int) -> dict[str, float]:
    """Seconds of policy and of hand-written code at one size; both must decide the same."""
    snapshot = world(guests)
    program = load({"50_main_": POLICY.read_text()}, schema(Config())).program
    assert program is not None
    decided = {wanted.entity: wanted.value for wanted in evaluate(program, snapshot).controls if wanted.name == "balloon_target"}
    assert decided == by_hand(snapshot), "policy and hand-written code decide differently"
    policy_s = median_s(lambda: evaluate(program, snapshot))
    hand_s = median_s(lambda: by_hand(snapshot))
    return {"seconds": policy_s, "per_guest_us": policy_s / guests * 1e6, "by_hand_seconds": hand_s, "ratio": policy_s / hand_s}


def main() -> dict[str, dict[str, float]]:
    """The figures by number of guests."""
    return {str(guests): measure(guests) for guests in GUESTS}
