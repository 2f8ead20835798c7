# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt: the read-only connection, bulk statistics, and what is known of each guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# The job of a guest whose jobs can't be asked, because its QEMU doesn't answer: it may have one.
JOB_UNKNOWN = -1


class HypervisorUnavailable(Exception):
    """libvirt doesn't answer: "no news", never "no guests". One line of text says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a guest's domain XML says; changes only with the guest's definition.

    `min_guarantee_kib`: the balloon's floor (oVirt metadata minGuaranteedMemoryMb, else memtune min_guarantee, else 0).
    `unmergeable`: why KSM can't merge the guest's memory ("nosharepages", "hugepages", "shared memory", "encrypted"), "" if it can.
    """

    balloon: bool = True
    min_guarantee_kib: int = 0
    unmergeable: str = ""


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """What libvirt says of one running guest at one moment.

    `state`, `reason`: libvirt's domain state and reason. `job`: type of the running job, 0 for none, or JOB_UNKNOWN. `pid`: the QEMU
    process, None if unknown. `balloon`: the bulk statistics without their prefix ("current", "maximum", "available", "unused", "usable",
    "swap_in", "last-update", ... in libvirt's units: KiB, last-update in seconds since the epoch); range-checked integers only.
    """

    uuid: str
    name: str
    state: int
    reason: int = 0
    job: int = 0
    pid: int | None = None
    balloon: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    facts: Facts = field(default_factory=Facts)
