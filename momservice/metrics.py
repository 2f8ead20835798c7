# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics: one table, from which the text, its check and the reference page derive. Pure.

The text is OpenMetrics, and just as well Prometheus' older text format, which node_exporter's textfile collector reads: only types that
both know, no quotes or backslashes in HELP. There a counter's TYPE and HELP lines name no sample, so counters arrive untyped.
"""

from __future__ import annotations

import math
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal, TypeAlias

from momservice.snapshot import EMPTY, Sample, Value

PREFIX: Final = "mom_"
STATUSES: Final = ("starting", "active", "degraded", "paused")
GUEST_STATES: Final = ("managed", "held", "unmanaged", "unknown")
PAGE_BYTES: Final = resource.getpagesize()

Labels: TypeAlias = tuple[tuple[str, str], ...]
Number: TypeAlias = int | float


@dataclass(slots=True)
class Tally:
    """What a service has counted since it started. `controls`: outcomes by control and status; `targets_kib`: the last balloon target that
    was sent, by UUID.
    """

    runs: int = 0
    failures: int = 0
    controls: Counter[tuple[str, str]] = field(default_factory=Counter)
    targets_kib: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """All that metrics are made of; names and units as on the bus. `tally`: None where it isn't known, over the bus."""

    version: str
    status: str
    generation: int
    interval_ms: int
    hypervisor_connected: bool
    helper_available: bool
    polkit_available: bool
    last_evaluation_us: int
    evaluation_duration_us: int
    host: Sample = field(default_factory=lambda: EMPTY)
    guests: Mapping[str, Sample] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    tally: Tally | None = None

    def of_guest(self, uuid: str) -> Labels:
        """The labels of a guest's metrics."""
        return (("uuid", uuid), ("name", self.names.get(uuid, "")))


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. `name` has neither prefix nor unit nor "_total". `labels`: their names. `take` gives the values there are, by labels.

    `source`: the field that it shows, or what else it is made of. Several rows of one name make one metric.
    """

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    labels: Sequence[str]
    source: str
    doc: str
    take: Callable[[State], Iterable[tuple[Labels, Value]]]

    @property
    def family(self) -> str:
        """The metric's whole name, as TYPE, UNIT and HELP give it."""
        return PREFIX + self.name + (f"_{self.unit}" if self.unit else "")

    @property
    def sample(self) -> str:
        """The name of its samples: what is asked for in queries."""
        return self.family + ("_total" if self.kind == "counter" else "")


# --- the table ---------------------------------------------------------------------------------------------------------------------------

Scale: TypeAlias = tuple[str, Callable[[Number], Number]]
SAME: Final[Scale] = ("", lambda value: value)
BYTES: Final[Scale] = ("bytes", lambda value: value)
KIB: Final[Scale] = ("bytes", lambda kib: kib * 1024)
PAGES: Final[Scale] = ("bytes", lambda pages: pages * PAGE_BYTES)
PERCENT: Final[Scale] = ("ratio", lambda percent: percent / 100)
MILLISECONDS: Final[Scale] = ("seconds", lambda ms: ms / 1000)

ONLY_FILE: Final = "only in the service's file"
GUEST_LABELS: Final = ("uuid", "name")


def _number(value: Value, scale: Callable[[Number], Number]) -> Value:
    return scale(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _host(name: str, source: str, scale: Scale, doc: str, kind: Literal["gauge", "counter"] = "gauge", labels: Labels = ()) -> Metric:
    unit, to_base = scale
    keys = [key for key, _ in labels]
    return Metric(name, kind, unit, keys, source, doc, lambda state: [(labels, _number(state.host.get(source), to_base))])


def _guest(name: str, source: str, scale: Scale, doc: str, kind: Literal["gauge", "counter"] = "gauge") -> Metric:
    unit, to_base = scale

    def take(state: State) -> Iterator[tuple[Labels, Value]]:
        for uuid, sample in state.guests.items():
            yield state.of_guest(uuid), _number(sample.get(source), to_base)

    return Metric(f"guest_{name}", kind, unit, GUEST_LABELS, source, doc, take)


def _service(name: str, unit: str, source: str, doc: str, take: Callable[[State], Value]) -> Metric:
    return Metric(name, "gauge", unit, (), source, doc, lambda state: [((), take(state))])


def _statuses(state: State) -> Iterator[tuple[Labels, Value]]:
    for status in STATUSES:
        yield (("status", status),), int(state.status == status)


def _guest_states(state: State) -> Iterator[tuple[Labels, Value]]:
    states = [_guest_state(sample) for sample in state.guests.values()]
    for name in GUEST_STATES:
        yield (("state", name),), states.count(name)


def _guest_state(sample: Sample) -> str:
    if sample.get("held"):
        return "held"
    if sample.get("balloon_works") is False:
        return "unmanaged"
    return "managed" if "held" in sample else "unknown"


def _runs(state: State) -> Iterable[tuple[Labels, Value]]:
    return [((), state.tally.runs)] if state.tally else ()


def _failures(state: State) -> Iterable[tuple[Labels, Value]]:
    return [((), state.tally.failures)] if state.tally else ()


def _controls(state: State) -> Iterator[tuple[Labels, Value]]:
    for (control, status), number in sorted(state.tally.controls.items()) if state.tally else ():
        yield (("control", control), ("status", status)), number


def _targets(state: State) -> Iterator[tuple[Labels, Value]]:
    targets = state.tally.targets_kib if state.tally else {}
    for uuid in state.guests:
        if uuid in targets:
            yield state.of_guest(uuid), targets[uuid] * 1024


TABLE: Final[Sequence[Metric]] = (
    Metric("build_info", "gauge", "", ["version"], "Version", "1; its label says which version runs",
           lambda state: [((("version", state.version),), 1)]),
    Metric("status", "gauge", "", ["status"], "Status", "1 for the status that the service has, 0 for the others", _statuses),
    _service("libvirt_up", "", "HypervisorConnected", "whether libvirt answers", lambda state: state.hypervisor_connected),
    _service("helpers_up", "", "HelperAvailable", "whether both helpers answered when last needed", lambda state: state.helper_available),
    _service("polkit_up", "", "PolkitAvailable", "whether polkit answered when last asked; without it only root may change anything",
             lambda state: state.polkit_available),
    _service("policy_generation", "", "Generation", "the generation of policies and parameters in force", lambda state: state.generation),
    _service("policy_interval", "seconds", "Interval", "how often the policy runs", lambda state: state.interval_ms / 1000),
    _service("last_evaluation_timestamp", "seconds", "LastEvaluation", "when the last policy run began, since the epoch",
             lambda state: state.last_evaluation_us / 1e6 if state.last_evaluation_us else None),
    _service("last_evaluation_duration", "seconds", "EvaluationDuration", "how long the last policy run took",
             lambda state: state.evaluation_duration_us / 1e6 if state.last_evaluation_us else None),
    Metric("policy_runs", "counter", "", (), ONLY_FILE, "policy runs", _runs),
    Metric("policy_failures", "counter", "", (), ONLY_FILE, "failures in policy runs: of a form, or of a guest's round", _failures),
    Metric("controls", "counter", "", ["control", "status"], ONLY_FILE,
           "what became of controls: applied, clamped, unchanged, held, refused or failed", _controls),
    _host("host_memory_size", "mem_available", KIB, "all of the host's memory"),
    _host("host_memory_unused", "mem_unused", KIB, "memory that holds nothing"),
    _host("host_memory_free", "mem_free", KIB, "unused memory, buffers and page cache"),
    _host("host_memory_reclaimable", "mem_reclaimable", KIB, "what the host could really hand out"),
    _host("host_memory_anonymous", "anon_pages", KIB, "anonymous memory of all processes"),
    _host("host_swap_size", "swap_total", KIB, "the host's swap space"),
    _host("host_swap_used", "swap_usage", KIB, "the host's used swap space"),
    *(_host("host_memory_pressure", f"psi_mem_{kind}_avg{window}", PERCENT, "part of the time lost to want of memory (PSI)",
            labels=(("kind", kind), ("window", f"{window}s"))) for kind in ("some", "full") for window in (10, 60)),
    _host("host_cpus", "cpu_count", SAME, "CPUs that are online"),
    _host("ksm_run", "ksm_run", SAME, "0 stopped, 1 runs, 2 unmerged"),
    _host("ksm_pages_to_scan", "ksm_pages_to_scan", SAME, "pages to scan before ksmd sleeps"),
    _host("ksm_sleep", "ksm_sleep_millisecs", MILLISECONDS, "how long ksmd sleeps"),
    _host("ksm_merge_across_nodes", "ksm_merge_across_nodes", SAME, "1: pages of different NUMA nodes are merged"),
    _host("ksm_smart_scan", "ksm_smart_scan", SAME, "1: pages that never merge are passed over more and more"),
    _host("ksm_advisor_mode", "ksm_advisor_mode", SAME, "0 none, 1 scan-time"),
    _host("ksm_full_scans", "ksm_full_scans", SAME, "scans of all mergeable memory", "counter"),
    _host("ksm_pages_skipped", "ksm_pages_skipped", SAME, "pages that smart scan passed over", "counter"),
    _host("ksm_shared", "ksm_pages_shared", PAGES, "shared memory in use"),
    _host("ksm_sharing", "ksm_pages_sharing", PAGES, "memory that is saved: how much more would be in use without KSM"),
    _host("ksm_unshared", "ksm_pages_unshared", PAGES, "unique memory, checked again and again"),
    _host("ksm_volatile", "ksm_pages_volatile", PAGES, "memory that changes too fast to be merged"),
    _host("ksm_zero", "ksm_zero_pages", PAGES, "empty memory merged with the kernel's own page"),
    _host("ksm_profit", "ksm_general_profit", BYTES, "what KSM saves less what it takes; may be negative"),
    _host("ksm_shareable", "ksm_shareable", KIB, "anonymous memory of mergeable guests"),
    _host("ksm_ksmd_cpu", "ksmd_cpu_usage", PERCENT, "part of one CPU that ksmd takes"),
    Metric("guests", "gauge", "", ["state"], "held and balloon_works",
           "guests by state: held, unmanaged if the balloon can't be used, managed, or unknown where no collector tells", _guest_states),
    _guest("balloon_size", "balloon_cur", KIB, "memory that the balloon leaves to the guest"),
    _guest("balloon_min", "balloon_min", KIB, "the guest's guaranteed minimum"),
    _guest("balloon_max", "balloon_max", KIB, "all memory of the guest's machine"),
    Metric("guest_balloon_target", "gauge", "bytes", GUEST_LABELS, ONLY_FILE, "the balloon size that was last asked for", _targets),
    _guest("balloon_works", "balloon_works", SAME, "whether the guest's balloon follows its targets"),
    _guest("held", "held", SAME, "1: the guest is paused, migrating or otherwise not to be touched"),
    _guest("mergeable", "mergeable", SAME, "whether KSM can merge the guest's memory"),
    _guest("state", "libvirt_state", SAME, "libvirt's domain state: 1 running, 3 paused, 4 shutting down"),
    _guest("memory_size", "mem_available", KIB, "the guest's MemTotal"),
    _guest("memory_unused", "mem_unused", KIB, "the guest's MemFree"),
    _guest("memory_free", "mem_free", KIB, "what the guest could use without swapping"),
    _guest("resident", "rss", PAGES, "resident memory of the guest's QEMU process"),
    _guest("swap_size", "swap_total", KIB, "the guest's swap space"),
    _guest("swap_used", "swap_usage", KIB, "the guest's used swap space"),
    _guest("swapped_in", "swap_in", KIB, "swapped in by the guest since it started", "counter"),
    _guest("swapped_out", "swap_out", KIB, "swapped out by the guest since it started", "counter"),
    _guest("major_faults", "major_fault", SAME, "the guest's page faults that needed the disk", "counter"),
    _guest("minor_faults", "minor_fault", SAME, "the guest's other page faults", "counter"),
)  # fmt: skip

# Fields that are no metrics, by kind of entity, and why.
SINCE_LAST: Final = "it counts since the last sample only"
SETTING: Final = "it is a setting"
SAME_AS: Final = "it has the same value under another name"
LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "host": {"swap_in": SINCE_LAST, "swap_out": SINCE_LAST},
    "guest": {
        **dict.fromkeys(("libvirt_curmem", "libvirt_maxmem"), SAME_AS),
        **dict.fromkeys(("host_minor_faults", "host_major_faults"), SINCE_LAST),
        **dict.fromkeys(("shares", "balloon_enabled", "ksm_enabled", "swap_limit"), SETTING),
    },
}


# --- the text ----------------------------------------------------------------------------------------------------------------------------


def families(state: State) -> Iterator[tuple[Metric, list[tuple[Labels, Number]]]]:
    """Each metric with the samples that it has now; those without any are left out."""
    for _, rows in groupby(TABLE, key=lambda row: row.name):
        first, *more = rows
        taken = [sample for row in (first, *more) for sample in row.take(state)]
        samples = [(labels, value) for labels, value in taken if isinstance(value, int | float)]
        if samples:
            yield first, samples


def text(state: State) -> str:
    """The metrics as a client of Prometheus exposes them."""
    written: dict[Labels, str] = {}
    lines: list[str] = []
    for metric, samples in families(state):
        lines.append(f"# TYPE {metric.family} {metric.kind}")
        if metric.unit:
            lines.append(f"# UNIT {metric.family} {metric.unit}")
        lines.append(f"# HELP {metric.family} {metric.doc}")
        name = metric.sample
        for labels, value in samples:
            if labels not in written:
                written[labels] = _labels(labels)
            lines.append(f"{name}{written[labels]} {int(value) if isinstance(value, bool) else value!r}")
    return "\n".join([*lines, "# EOF\n"])


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    """A label's value: it may come from anybody. No reader is to take a part of it for the end of a line."""
    if not value.isprintable():
        value = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    return value.replace("\\", r"\\").replace('"', r"\"")
