# SPDX-License-Identifier: GPL-2.0-or-later
"""Controllers that configurations may name and that aren't built yet: their controls are known to the policy checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from momservice.fields import Control

_CPU_TUNE = (
    Control("vcpu_quota", "guest", "us", 1000, 17592186044415, "CPU time of a virtual CPU a period, -1 for no limit", frozenset({-1})),
    Control("vcpu_period", "guest", "us", 1000, 1000000, "the period"),
)

# IoTune's controls are the setters of the disks in io_tune.
CONTROLLERS: Final[Mapping[str, Sequence[Control]]] = {"CpuTune": _CPU_TUNE, "IoTune": ()}
