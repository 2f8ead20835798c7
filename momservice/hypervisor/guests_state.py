# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest record means: whether the guest is held, whether its statistics can be believed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from momservice.hypervisor import JOB_UNKNOWN, GuestRecord

RUNNING = 1
# libvirt's numbers of domain states, in words.
STATES = {2: "blocked", 3: "paused", 4: "shutting down", 5: "shut off", 6: "crashed", 7: "suspended by itself"}
STALE_INTERVALS = 3
NO_STATISTICS = "the guest gives no memory statistics"
OLD_STATISTICS = "the guest's memory statistics are out of date"
NO_BALLOON = "the guest has no balloon device"
STUCK_BALLOON = "the guest's balloon doesn't follow its targets"
# Why a guest's balloon can't be used, in two words.
SHORT = {NO_BALLOON: "no balloon", STUCK_BALLOON: "balloon stuck", NO_STATISTICS: "no figures", OLD_STATISTICS: "old figures"}
State = Literal["managed", "held", "unmanaged"]
# Figures that only a balloon driver inside the guest can have told.
DRIVER_FIGURES = ("available", "unused", "usable")


def held_reason(record: GuestRecord) -> str:
    """Why nothing may be changed in a guest now; "" if it may."""
    if record.state != RUNNING:
        return f"the guest is {STATES.get(record.state, f'in state {record.state}')}"
    if record.job == JOB_UNKNOWN:
        return "the guest's QEMU is busy or doesn't answer"
    return "a job is running in the guest (migration, save, dump...)" if record.job else ""


def stale_reason(record: GuestRecord, wall_s: float, interval_s: float) -> str:
    """Why a guest's memory statistics are no figures; "" if they are fresh: at most three guest intervals old."""
    told_s = record.balloon.get("last-update", 0)
    if not told_s or not any(name in record.balloon for name in DRIVER_FIGURES):
        return NO_STATISTICS
    age_s = wall_s - told_s
    # A stamp of the future says that the host's clock was set; how old the figures are, nobody knows then.
    if abs(age_s) > STALE_INTERVALS * interval_s:
        return f"the guest's memory statistics are {abs(age_s):.0f} s {'old' if age_s > 0 else 'ahead of the clock'}"
    return ""


def capabilities(record: GuestRecord, works: bool | None, wall_s: float, interval_s: float) -> dict[str, str]:
    """What could be done with a guest -> why it can't be, "" if it can. The reasons stay the same as long as nothing changes.

    `works`: whether the balloon followed its targets; None when that hasn't been seen yet.
    """
    stale = stale_reason(record, wall_s, interval_s)
    balloon = "" if record.facts.balloon else NO_BALLOON
    if works is False:
        balloon = balloon or STUCK_BALLOON
    return {
        "balloon": balloon,
        "statistics": OLD_STATISTICS if stale and stale != NO_STATISTICS else stale,
        "ksm": record.facts.unmergeable,
    }


def guest_state(record: GuestRecord, able: Mapping[str, str]) -> tuple[State, list[str]]:
    """A guest's state, and why it is held or unmanaged. `able`: its capabilities."""
    if reason := held_reason(record):
        return "held", [reason]
    reasons = [able[name] for name in ("balloon", "statistics") if able[name]]
    return ("unmanaged" if reasons else "managed"), reasons
