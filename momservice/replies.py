# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client gives for the answers of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from momservice.decisions import Diagnostic, Wanted
from momservice.snapshot import Sample, Value


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The properties of org.ovirt.Mom1.Manager. `_us`: microseconds (`last_evaluation_us` since the epoch, 0 for none yet)."""

    version: str
    api_version: int
    status: str
    status_reasons: Sequence[str]
    generation: int
    interval_ms: int
    guest_count: int
    hypervisor_connected: bool
    helper_available: bool
    polkit_available: bool
    last_evaluation_us: int
    evaluation_duration_us: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """The newest values of the host's fields and of each guest's by UUID, in the units of the field tables; nil fields are left out."""

    host: Sample
    guests: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class GuestState:
    """How a guest is: "managed", "held" or "unmanaged", one line for each reason of it, and capability -> why the guest lacks it, or ""."""

    state: str
    reasons: Sequence[str]
    capabilities: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's value in force (None: nil), who gave it, when (us since the epoch), and the uid of the client that did."""

    value: Value
    origin: str
    time_us: int
    uid: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of policies that were evaluated. `entity`: the guest that was dropped from the run, else ""."""

    diagnostic: Diagnostic
    entity: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What policies decide. `controls`: without inputs; lists as texts. With an error at load among the findings there are none."""

    controls: Sequence[Wanted]
    findings: Sequence[Finding]


# The D-Bus names of the fields of ServiceStatus, in their order.
PROPERTIES = (
    "Version",
    "ApiVersion",
    "Status",
    "StatusReasons",
    "Generation",
    "Interval",
    "GuestCount",
    "HypervisorConnected",
    "HelperAvailable",
    "PolkitAvailable",
    "LastEvaluation",
    "EvaluationDuration",
    "LastError",
)
