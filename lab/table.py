# SPDX-License-Identifier: GPL-2.0-or-later
"""The live table of ./dev run: redrawn on a terminal, a line per look elsewhere."""

import sys
from typing import Any

from lab.record import Sample

MIB = 1024 * 1024
COLUMNS = "{:<8} {:>9} {:>12} {:>10}  {}"


class Table:
    """Shows samples, one over the other if standard output is a terminal."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._lines = 0
        self._live = sys.stdout.isatty()

    def show(self, sample: Sample, phase: str, elapsed_s: float) -> None:
        """Show a sample."""
        if self._live:
            lines = full(sample, phase, elapsed_s)
            back = f"\x1b[{self._lines}F" if self._lines else ""
            # Erased line by line while it is written: clearing first would flicker.
            text = back + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
            self._lines = len(lines)
        else:
            text = short(sample, phase, elapsed_s) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()


def full(sample: Sample, phase: str, elapsed_s: float) -> list[str]:
    """The table: service, host, KSM, a row for each guest."""
    rows = [
        f"{elapsed_s:5.0f} s  {phase}  -  momservice is {sample.manager['Status']}  -  Ctrl-C ends it and puts everything back",
        "",
        f"host  free {gib(sample.host.get('mem_free'))} of {gib(sample.host.get('mem_available'))} GiB"
        f"   memory pressure {number(sample.host.get('psi_mem_some_avg10'))} %",
        f"ksm   {ksm(sample)}   sharing {sample.host.get('ksm_pages_sharing', '?')} pages",
        "",
        COLUMNS.format("guest", "used MiB", "balloon MiB", "target MiB", "why"),
    ]
    return rows + [guest_row(name, sample) for name in sorted(sample.balloons)]


def guest_row(name: str, sample: Sample) -> str:
    """One guest. Used: what its balloon leaves it, less what it has unused."""
    fields = sample.guests.get(name, {})
    target, why = sample.controls.get((name, "balloon_target"), ("", ""))
    used = fields["balloon_cur"] - fields["mem_unused"] if {"balloon_cur", "mem_unused"} <= fields.keys() else None
    return COLUMNS.format(name, mib(used), f"{sample.balloons[name] / MIB:.1f}", mib(int(target) if target.isdigit() else None), why)


def short(sample: Sample, phase: str, elapsed_s: float) -> str:
    """All of it in a line."""
    guests = "  ".join(f"{name} {size / MIB:.1f} MiB" for name, size in sorted(sample.balloons.items()))
    return f"{elapsed_s:4.0f} s  {phase:<8}  {sample.manager['Status']}  {ksm(sample)}  {guests}"


def ksm(sample: Sample) -> str:
    """The knobs that the default policies move."""
    return "  ".join(f"{name} {sample.knobs.get(name, '?')}" for name in ("run", "pages_to_scan", "sleep_millisecs"))


def gib(kib: Any) -> str:
    """KiB as GiB."""
    return "?" if kib is None else f"{kib / 1024 / 1024:.1f}"


def mib(kib: Any) -> str:
    """KiB as MiB."""
    return "" if kib is None else f"{kib / 1024:.1f}"


def number(value: Any) -> str:
    """A figure that a kernel may not have."""
    return "?" if value is None else f"{value:.2f}"
