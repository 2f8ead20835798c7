# SPDX-License-Identifier: GPL-2.0-or-later
"""HostKSM: what KSM is set to, what it finds and what it costs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from momservice.collectors import Moment
from momservice.collectors.files import read_count, read_text, to_count, to_signed, to_table
from momservice.fields import Field
from momservice.hypervisor.processes import COMMAND
from momservice.snapshot import Sample, Value

FOLDER = "sys/kernel/mm/ksm"
# Plain counts: the field is the file's name with ksm_ before it.
COUNTS = (
    ("run", "", "0 stopped, 1 runs, 2 unmerged"),
    ("pages_to_scan", "pages", "pages to scan before ksmd sleeps"),
    ("sleep_millisecs", "ms", "how long ksmd sleeps"),
    ("merge_across_nodes", "", "1: pages of different NUMA nodes are merged"),
    ("full_scans", "", "how often all mergeable memory has been scanned"),
    ("pages_shared", "pages", "shared pages in use"),
    ("pages_sharing", "pages", "how many more places share them: what is saved"),
    ("pages_unshared", "pages", "unique pages, checked again and again"),
    ("pages_volatile", "pages", "pages that change too fast"),
    ("pages_skipped", "pages", "pages that smart scan passed over"),
    ("smart_scan", "", "1: pages that never merge are passed over more and more"),
)
MODES = ("none", "scan-time")
KTHREADD_PID = 2
# Where in /proc/PID/stat, counted after the command in parentheses.
PARENT, USER_TICKS, SYSTEM_TICKS = 1, 11, 12


class HostKSM:
    """The kernel's KSM folder, the memory of the guests that it can merge, and ksmd's CPU time."""

    NAME: ClassVar[str] = "HostKSM"
    FIELDS: ClassVar[Sequence[Field]] = (
        *(Field(f"ksm_{name}", "int", unit, f"/{FOLDER}/{name}: {meaning}") for name, unit, meaning in COUNTS),
        Field("ksm_zero_pages", "int", "pages", f"/{FOLDER}/ksm_zero_pages: empty pages merged with the kernel's own"),
        Field("ksm_general_profit", "int", "bytes", f"/{FOLDER}/general_profit: what KSM saves less what it takes; may be negative"),
        Field("ksm_advisor_mode", "int", "", f"/{FOLDER}/advisor_mode: 0 none, 1 scan-time"),
        Field("ksm_shareable", "int", "KiB", "sum of RssAnon in /proc/PID/status of the QEMU processes of mergeable guests"),
        Field("ksmd_cpu_usage", "float", "% of one CPU", "/proc/PID/stat of ksmd, over the time since the last sample"),
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc, self._folder = root / "proc", root / FOLDER
        self._ksmd = Ksmd(self._proc)

    def collect(self, moment: Moment) -> Sample:
        """Files that this kernel lacks are left out; no ksmd_cpu_usage in the first sample."""
        sample: dict[str, Value] = {f"ksm_{name}": read_count(self._folder / name) for name, _, _ in COUNTS}
        sample["ksm_zero_pages"] = read_count(self._folder / "ksm_zero_pages")
        sample["ksm_general_profit"] = to_signed((read_text(self._folder / "general_profit") or "").strip())
        sample["ksm_advisor_mode"] = _to_mode(read_text(self._folder / "advisor_mode") or "")
        sample["ksm_shareable"] = self._shareable_kib({g.pid for g in moment.guests if g.pid is not None and not g.facts.unmergeable})
        sample["ksmd_cpu_usage"] = self._ksmd.usage_percent(moment.monotonic_s)
        return {name: value for name, value in sample.items() if value is not None}

    def _shareable_kib(self, pids: Iterable[int]) -> int:
        return sum(self._rss_anon_kib(pid) for pid in pids)

    def _rss_anon_kib(self, pid: int) -> int:
        """0 for a process that has gone, and for one that took over the number of a QEMU that has gone."""
        status = read_text(self._proc / str(pid) / "status") or ""
        name = status.partition("\n")[0].removeprefix("Name:").strip()
        return to_table(status).get("RssAnon", 0) if name.startswith(COMMAND) else 0


class Ksmd:
    """The CPU time of the kernel's ksmd. A kernel thread never ends, so it is searched once; in a process namespace there may be none."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._stat: Path | None = None
        self._searched = False
        self._before: tuple[float, int] | None = None

    def usage_percent(self, now_s: float) -> float | None:
        """Per cent of one CPU since the last call; None at the first, and without ksmd."""
        if not self._searched:
            self._stat, self._searched = self._search(), True
        ticks = _ksmd_ticks(read_text(self._stat) or "") if self._stat is not None else None
        before, self._before = self._before, None if ticks is None else (now_s, ticks)
        if ticks is None or before is None or now_s <= before[0] or ticks < before[1]:
            return None
        return 100 * (ticks - before[1]) / os.sysconf("SC_CLK_TCK") / (now_s - before[0])

    def _search(self) -> Path | None:
        """Kernel threads start early and have the lowest numbers, so this seldom looks far."""
        pids = sorted(pid for entry in self._entries() if (pid := to_count(entry)) is not None)
        stats = (self._proc / str(pid) / "stat" for pid in pids)
        return next((stat for stat in stats if _ksmd_ticks(read_text(stat) or "") is not None), None)

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self._proc)  # noqa: PTH208 - names are all that is needed, thousands of them
        except OSError:
            return []


def _ksmd_ticks(stat: str) -> int | None:
    """CPU time so far in clock ticks; None if this isn't the kernel's ksmd but something that took its name or its number."""
    head, _, tail = stat.rpartition(")")
    words = tail.split()
    if head.partition("(")[2] != "ksmd" or len(words) <= SYSTEM_TICKS or words[PARENT] != str(KTHREADD_PID):
        return None
    user, system = to_count(words[USER_TICKS]), to_count(words[SYSTEM_TICKS])
    return None if user is None or system is None else user + system


def _to_mode(text: str) -> int | None:
    """The chosen one of "[none] scan-time" as a number."""
    chosen = text.partition("[")[2].partition("]")[0]
    return MODES.index(chosen) if chosen in MODES else None
