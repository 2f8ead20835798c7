# SPDX-License-Identifier: GPL-2.0-or-later
"""What momctl prints: aligned tables and human units, or JSON."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from momservice.options import drop
from momservice.snapshot import Sample, Value

GAP = "  "
DASH = "-"


class Problem(Exception):
    """Something that the user can put right: one line, exit status 1. `more`: lines that show it, "" for none."""

    def __init__(self, text: str, more: str = "") -> None:
        super().__init__(text)
        self.more = more


class Usage(Problem):
    """Arguments that don't go together: exit status 2."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines, on standard output if not told otherwise. On a terminal nothing can reach it but text: names and policies may come from
    anybody.
    """
    out = stream or sys.stdout
    if out.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    out.write(text if text.endswith("\n") or not text else text + "\n")


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"momctl: {one_line(text)}\n")


def hold_complaints() -> None:
    """Have nothing fail that is written to standard error, until `let_go`: it may be closed, or a file on a full disk."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="ascii", errors="replace")  # noqa: SIM115 - as long as the program runs
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(line_buffering=False, write_through=False)


def let_go() -> None:
    """Write what is held, as far as that can be."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            drop(stream)


def one_line(text: str) -> str:
    """The text without anything that could break a line or steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def say_json(value: Any) -> None:
    """Print JSON."""
    say(json.dumps(finite(value), indent=2))


def finite(value: Any) -> Any:
    """The value with null for infinite numbers and NaN, which JSON lacks."""
    match value:
        case dict():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def say_done(options: argparse.Namespace, text: str = "", **told: Any) -> None:
    """Says that something has been done: a line, if there is something to say, or as JSON what is `told`."""
    if options.json:
        say_json(told)
    elif text:
        say(text)


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """Print rows below a header in aligned columns, those in `right` to the right. On a terminal lines are cut to its width."""
    lines = [[one_line(cell) or DASH for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        cells = [cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))]
        say(GAP.join(cells).rstrip()[:limit])


def say_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        say(f"{name.ljust(width)}{GAP}{one_line(value) or DASH}")


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def mib(kib: Value) -> str:
    """A size in KiB as MiB, "-" for nil."""
    return f"{kib / 1024:.1f}" if isinstance(kib, int | float) else DASH


def pages_mib(pages: Value) -> str:
    """A number of pages as MiB, "-" for nil."""
    return mib(pages * resource.getpagesize() / 1024) if isinstance(pages, int | float) else DASH


def shown(value: Value, unit: str = "") -> str:
    """A value of a field with its unit: sizes as MiB."""
    match value:
        case None:
            return "nil"
        case bool():
            return "true" if value else "false"
        case int() | float() if unit == "KiB":
            return f"{mib(value)} MiB"
        case int() | float() if unit == "bytes":
            return f"{mib(value / 1024)} MiB"
        case float():
            return f"{value:.2f} {unit}".rstrip()
        case _:
            return f"{value} {unit}".rstrip()


def say_fields(sample: Sample, units: Mapping[str, str]) -> None:
    """Print all fields of a sample by name."""
    say_pairs([(name, shown(sample[name], units.get(name, ""))) for name in sorted(sample)])


def local_time(time_us: int) -> str:
    """A time in local terms; "-" for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_us / 1e6)) if time_us else DASH
