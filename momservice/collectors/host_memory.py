# SPDX-License-Identifier: GPL-2.0-or-later
"""HostMemory: the host's memory and swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from momservice.collectors import Moment
from momservice.collectors.files import read_table
from momservice.fields import Field
from momservice.snapshot import Sample


class HostMemory:
    """Memory from /proc/meminfo, swapping from /proc/vmstat, the ZFS cache from its own statistics."""

    NAME: ClassVar[str] = "HostMemory"
    FIELDS: ClassVar[Sequence[Field]] = (
        Field("mem_available", "int", "KiB", "/proc/meminfo MemTotal (the name is historical)"),
        Field("mem_unused", "int", "KiB", "/proc/meminfo MemFree"),
        Field("mem_free", "int", "KiB", "/proc/meminfo MemFree + Buffers + Cached"),
        Field("mem_reclaimable", "int", "KiB", "/proc/meminfo MemAvailable, the ZFS ARC above its minimum (/proc/spl/kstat/zfs/arcstats)"),
        Field("anon_pages", "int", "KiB", "/proc/meminfo AnonPages"),
        Field("swap_total", "int", "KiB", "/proc/meminfo SwapTotal"),
        Field("swap_usage", "int", "KiB", "/proc/meminfo SwapTotal - SwapFree"),
        Field("swap_in", "int", "pages since the last sample", "/proc/vmstat pswpin"),
        Field("swap_out", "int", "pages since the last sample", "/proc/vmstat pswpout"),
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._swapped: Mapping[str, int] = {}

    def collect(self, _moment: Moment) -> Sample:
        """No swap_in and swap_out in the first sample."""
        meminfo = read_table(self._proc / "meminfo")
        sample = {
            "mem_available": meminfo.get("MemTotal"),
            "mem_unused": meminfo.get("MemFree"),
            "mem_free": _sum(meminfo, "MemFree", "Buffers", "Cached"),
            "mem_reclaimable": self._reclaimable(meminfo),
            "anon_pages": meminfo.get("AnonPages"),
            "swap_total": meminfo.get("SwapTotal"),
            "swap_usage": _difference(meminfo.get("SwapTotal"), meminfo.get("SwapFree")),
        }
        sample |= self._swapping()
        return {name: value for name, value in sample.items() if value is not None}

    def _reclaimable(self, meminfo: Mapping[str, int]) -> int | None:
        """MemAvailable doesn't count the ARC, which gives way all the same. Never more than there is."""
        available = meminfo.get("MemAvailable")
        if available is None:
            return None
        arc = read_table(self._proc / "spl/kstat/zfs/arcstats", column=2)
        yielding_kib = max(0, arc.get("size", 0) - arc["c_min"]) // 1024 if "c_min" in arc else 0
        return min(available + yielding_kib, meminfo.get("MemTotal", available + yielding_kib))

    def _swapping(self) -> dict[str, int | None]:
        before, self._swapped = self._swapped, read_table(self._proc / "vmstat")
        return {
            "swap_in": _difference(self._swapped.get("pswpin"), before.get("pswpin")),
            "swap_out": _difference(self._swapped.get("pswpout"), before.get("pswpout")),
        }


def _sum(table: Mapping[str, int], *names: str) -> int | None:
    return sum(table[name] for name in names) if all(name in table for name in names) else None


def _difference(larger: int | None, smaller: int | None) -> int | None:
    """None when one is missing, or when they can't be what they are said to be."""
    return larger - smaller if larger is not None and smaller is not None and larger >= smaller else None
