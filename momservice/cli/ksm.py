# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl ksm: what KSM does, saves and costs."""

from __future__ import annotations

import argparse
import resource
from typing import Final

from momservice.cli.output import DASH, Problem, mib, pages_mib, say_json, say_pairs
from momservice.cli.service import connected
from momservice.cli.verbs import Verbs, add_verb
from momservice.snapshot import Sample, Value

MORE = """\
"saved" is what guests would take more without KSM, "profit" what remains of it after KSM's own needs. Figures that this kernel hasn't \
got, or that no configured collector tells, are left out."""
STATES: Final = ("stopped", "runs", "unmerged")
ADVISORS: Final = ("none", "scan-time")
# For programs: name -> field.
PAGES: Final = {
    "saved_bytes": "ksm_pages_sharing",
    "shared_bytes": "ksm_pages_shared",
    "unshared_bytes": "ksm_pages_unshared",
    "volatile_bytes": "ksm_pages_volatile",
    "zero_bytes": "ksm_zero_pages",
}


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    add_verb(verbs, "ksm", "what KSM does, saves and costs", show_ksm, more=MORE, parents=[json_option])


def show_ksm(options: argparse.Namespace) -> int:
    """`momctl ksm`."""
    with connected() as client:
        host = client.host_statistics()
    if options.json:
        say_json(figures(host))
    elif "ksm_run" not in host:
        raise Problem("there are no figures of KSM: it is not in this kernel, HostKSM is no collector, or the service has just started")
    else:
        say_pairs([(name, text) for name, text in pairs(host) if text])
    return 0


def chosen(names: tuple[str, ...], value: Value) -> str:
    """The name that a number stands for; "" for none."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else ""


def figures(host: Sample) -> dict[str, Value]:
    """For programs: figures in bytes, null for those there aren't, and the fields as they are."""
    pages = {name: _times(host.get(field), resource.getpagesize()) for name, field in PAGES.items()}
    return {
        "state": chosen(STATES, host.get("ksm_run")) or None,
        **pages,
        "profit_bytes": host.get("ksm_general_profit"),
        "shareable_bytes": _times(host.get("ksm_shareable"), 1024),
        "ksmd_cpu_percent": host.get("ksmd_cpu_usage"),
        "fields": {name: value for name, value in host.items() if name.startswith("ksm")},
    }


def _times(value: Value, factor: int) -> Value:
    return value * factor if isinstance(value, int) else None


def pairs(host: Sample) -> list[tuple[str, str]]:
    """For people: names and values, "" for those there aren't."""
    mebibytes = {name: _unit(pages_mib(host.get(field)), "MiB") for name, field in PAGES.items()}
    profit, cpu = host.get("ksm_general_profit"), host.get("ksmd_cpu_usage")
    return [
        ("state", chosen(STATES, host.get("ksm_run"))),
        ("saved", mebibytes["saved_bytes"] + _part(host)),
        ("profit", _unit(mib(profit / 1024), "MiB") if isinstance(profit, int) else ""),
        ("shared", mebibytes["shared_bytes"]),
        ("unshared", mebibytes["unshared_bytes"]),
        ("volatile", mebibytes["volatile_bytes"]),
        ("zero pages", mebibytes["zero_bytes"]),
        ("shareable", _unit(mib(host.get("ksm_shareable")), "MiB")),
        ("ksmd", f"{cpu:.1f} % of one CPU" if isinstance(cpu, int | float) else ""),
        ("scan", _scan(host)),
        ("full scans", _text(host.get("ksm_full_scans"))),
        ("advisor", chosen(ADVISORS, host.get("ksm_advisor_mode"))),
        ("smart scan", chosen(("off", "on"), host.get("ksm_smart_scan"))),
        ("across nodes", chosen(("no", "yes"), host.get("ksm_merge_across_nodes"))),
    ]


def _unit(number: str, unit: str) -> str:
    return "" if number == DASH else f"{number} {unit}"


def _text(value: Value) -> str:
    return "" if value is None else str(value)


def _part(host: Sample) -> str:
    """Which part of the memory that could be shared is saved."""
    pages, shareable_kib = host.get("ksm_pages_sharing"), host.get("ksm_shareable")
    if not isinstance(pages, int) or not isinstance(shareable_kib, int) or not shareable_kib:
        return ""
    return f", {100 * pages * resource.getpagesize() / 1024 / shareable_kib:.0f} % of the guests' memory"


def _scan(host: Sample) -> str:
    pages, sleep_ms = host.get("ksm_pages_to_scan"), host.get("ksm_sleep_millisecs")
    return "" if pages is None or sleep_ms is None else f"{pages} pages, then {sleep_ms} ms of sleep"
