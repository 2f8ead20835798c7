# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's answers -> guest records: the boundary where every value is typed and range-checked. Pure.

Guests tell their own balloon figures, so those are hostile input: what can't be is dropped, as if the guest hadn't told it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from momservice.hypervisor import Facts, GuestRecord
from momservice.hypervisor.facts import MAX_KIB

PREFIX = "balloon."
MAX_COUNT = 2**63 - 1
MAX_NAME_CHARACTERS = 255
# libvirt's own figures: of the machine as it is built, and of the balloon device.
SIZES = frozenset({"current", "maximum", "rss"})
# The guest's figures of its memory: never more than the machine has. A guest that claims more would bend the sums of the whole host.
GUEST_SIZES = frozenset({"available", "unused", "usable", "disk_caches"})
COUNTS = frozenset({"swap_in", "swap_out", "major_fault", "minor_fault", "last-update"})


def clean_balloon(stats: Mapping[str, object]) -> Mapping[str, int]:
    """The balloon figures of one guest's bulk statistics, without their prefix; only plausible integers."""
    told = {name.removeprefix(PREFIX): value for name, value in stats.items() if name.startswith(PREFIX)}
    limits = dict.fromkeys(SIZES, MAX_KIB) | dict.fromkeys(COUNTS, MAX_COUNT)
    figures = {name: value for name, limit in limits.items() if (value := _figure(told, name, limit)) is not None}
    # A machine of no memory is libvirt's way to say that it doesn't know yet.
    for name in ("current", "maximum"):
        if figures.get(name) == 0:
            del figures[name]
    machine_kib = figures.get("maximum", 0)
    figures |= {name: value for name in GUEST_SIZES if (value := _figure(told, name, machine_kib)) is not None}
    return MappingProxyType(figures)


def _figure(told: Mapping[str, object], name: str, limit: int) -> int | None:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit else None


def clean_name(name: str) -> str:
    """A guest's name as it may be shown and logged."""
    return "".join(c if c.isprintable() else "?" for c in name[:MAX_NAME_CHARACTERS])


def make_record(uuid: str, name: str, stats: Mapping[str, object], facts: Facts, job: int, pid: int | None) -> GuestRecord:
    """One guest's record. A state that isn't told is 0 (libvirt: no state)."""
    state, reason = (_figure(stats, f"state.{key}", MAX_COUNT) or 0 for key in ("state", "reason"))
    return GuestRecord(uuid, clean_name(name), state, reason, job, pid, clean_balloon(stats), facts)
