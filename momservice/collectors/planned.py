# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest collectors that configurations may name and that aren't built yet: their fields are known to the policy checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from momservice.fields import Field

_CPU_TUNE = (
    Field("vcpu_quota", "int", "us", "scheduler parameter: CPU time of a virtual CPU in each period, -1 for no limit"),
    Field("vcpu_period", "int", "us", "scheduler parameter: the period"),
    Field("vcpu_user_limit", "int", "%", "oVirt's metadata: limit of CPU use, 100 if there is none"),
    Field("vcpu_count", "int", "", "virtual CPUs"),
)
_IO_TUNE = (Field("io_tune", "list", "", "one object per disk: name, path, limits and their setters"),)
_QEMU_AGENT = (
    Field("mem_available", "int", "KiB", "the guest's MemTotal, read through the guest agent"),
    Field("mem_unused", "int", "KiB", "the guest's MemFree"),
    Field("mem_free", "int", "KiB", "what the guest could use without swapping"),
    Field("major_fault", "int", "", "page faults that needed the disk, since the guest started"),
    Field("minor_fault", "int", "", "other page faults, since the guest started"),
    Field("swap_in", "int", "KiB", "swapped in, since the guest started"),
    Field("swap_out", "int", "KiB", "swapped out, since the guest started"),
    Field("swap_total", "int", "KiB", "swap space"),
    Field("swap_usage", "int", "KiB", "used swap space"),
)

PLANNED: Final[Mapping[str, Sequence[Field]]] = {
    "GuestCpuTune": _CPU_TUNE,
    "GuestIoTune": _IO_TUNE,
    "GuestIoTuneOptional": _IO_TUNE,
    "GuestQemuAgent": _QEMU_AGENT,
}
