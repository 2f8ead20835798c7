# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus interfaces org.ovirt.Mom1.Host and org.ovirt.Mom1.Ksm over the newest sample of the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from momservice.collectors.host_ksm import MODES
from momservice.controllers import World
from momservice.pressure import Pressure
from momservice.snapshot import EMPTY, Sample
from momservice.watching import Watcher

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Counters of the kernel are below 2^63: times a size they may not be.
MAX_UINT32, MAX_UINT64 = 2**32 - 1, 2**64 - 1

_Form = Callable[[Any], Any]


def _times(unit_bytes: int) -> _Form:
    return lambda number: min(number * unit_bytes, MAX_UINT64)


def _knob(number: int) -> int:
    return min(number, MAX_UINT32)


def _same(number: Any) -> Any:
    return number


# Property -> the host's field, the form that the property has, and what it reads when the field has no value.
_Table = Mapping[str, tuple[str, _Form, Any]]
HOST_FIELDS: Final[_Table] = {
    "MemoryTotal": ("mem_available", _times(1024), 0),
    "MemoryFree": ("mem_unused", _times(1024), 0),
    "MemoryAvailable": ("mem_reclaimable", _times(1024), 0),
    "AnonymousMemory": ("anon_pages", _times(1024), 0),
    "SwapTotal": ("swap_total", _times(1024), 0),
    "SwapUsed": ("swap_usage", _times(1024), 0),
    "PressureSomeAvg10": ("psi_mem_some_avg10", _same, 0.0),
    "PressureSomeAvg60": ("psi_mem_some_avg60", _same, 0.0),
    "PressureFullAvg10": ("psi_mem_full_avg10", _same, 0.0),
    "PressureFullAvg60": ("psi_mem_full_avg60", _same, 0.0),
}
KSM_FIELDS: Final[_Table] = {
    "Run": ("ksm_run", _knob, 0),
    "PagesToScan": ("ksm_pages_to_scan", _knob, 0),
    "SleepMillisecs": ("ksm_sleep_millisecs", _knob, 0),
    "MergeAcrossNodes": ("ksm_merge_across_nodes", bool, False),
    "SmartScan": ("ksm_smart_scan", bool, False),
    "AdvisorMode": ("ksm_advisor_mode", MODES.__getitem__, ""),
    "FullScans": ("ksm_full_scans", _same, 0),
    "ShareableBytes": ("ksm_shareable", _times(1024), 0),
    "SharedBytes": ("ksm_pages_shared", _times(PAGE_BYTES), 0),
    "SharingBytes": ("ksm_pages_sharing", _times(PAGE_BYTES), 0),
    "ProfitBytes": ("ksm_general_profit", _same, 0),
    "KsmdCpu": ("ksmd_cpu_usage", _same, 0.0),
}


def _properties(table: _Table, sample: Sample) -> dict[str, Any]:
    told = {name: (sample.get(field), form, missing) for name, (field, form, missing) in table.items()}
    values = {name: missing if value is None else form(value) for name, (value, form, missing) in told.items()}
    return {**values, "Unknown": [name for name, (value, _, _) in told.items() if value is None]}


class HostObject(Watcher):
    """What the host was when it was last sampled."""

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._sample: Sample = EMPTY

    def sampled(self, world: World) -> None:
        """See Watcher."""
        self._sample = world.host

    def host_properties(self) -> Mapping[str, Any]:
        """All properties of org.ovirt.Mom1.Host, plain."""
        return {**_properties(HOST_FIELDS, self._sample), "PressureLevel": self._pressure.level}

    def ksm_properties(self) -> Mapping[str, Any]:
        """All properties of org.ovirt.Mom1.Ksm, plain."""
        return _properties(KSM_FIELDS, self._sample)
