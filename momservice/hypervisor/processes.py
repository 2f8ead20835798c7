# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process is a guest's QEMU, and what /proc/PID/stat says of it. Readable by any user; nothing here blocks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# libvirt's QEMU driver keeps its pid files here. swtpm's are elsewhere, and its command is another.
RUN_DIR = Path("/run/libvirt/qemu")
COMMAND = "qemu"
# A pid file is written after its process started; the kernel tells the start in ticks, and the boot time in whole seconds.
CLOCK_SLACK_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Some of /proc/PID/stat. `start_ticks` (since boot) tells a process from a later one with the same id."""

    command: str
    state: str
    minor_faults: int
    major_faults: int
    start_ticks: int
    rss_pages: int


def read_stat(pid: int) -> ProcessStat | None:
    """What the kernel says of a process; None when there is none, or only its remains (a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command is in parentheses and may hold any character, parentheses included.
    command = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    stat = ProcessStat(command, fields[0], int(fields[7]), int(fields[9]), int(fields[19]), int(fields[21]))
    return None if stat.state in "ZX" else stat


def find_qemu(name: str, run_dir: Path = RUN_DIR) -> int | None:
    """The process id of a guest's QEMU, by libvirt's pid file; None if that doesn't tell, or tells of another program's process."""
    if "/" in name:
        return None
    try:
        with (run_dir / f"{name}.pid").open(encoding="ascii") as file:
            pid = int(file.read(32))
            written_s = os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError):
        return None
    stat = read_stat(pid)
    if stat is None or not stat.command.startswith(COMMAND):
        return None
    return pid if _boot_time_s() + stat.start_ticks / os.sysconf("SC_CLK_TCK") <= written_s + CLOCK_SLACK_S else None


def _boot_time_s() -> float:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
