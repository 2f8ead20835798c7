# SPDX-License-Identifier: GPL-2.0-or-later
"""What `momctl top` shows: one frame from figures and their history, as lines of spans. Pure."""

from __future__ import annotations

import math
import resource
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from momservice.cli.output import DASH, count, one_line
from momservice.cli.show import state_of
from momservice.client import GuestState, ServiceStatus, Statistics
from momservice.snapshot import EMPTY, Sample, Value

# How a span stands out; how that looks is the screen's business.
Look: TypeAlias = Literal["", "head", "good", "bad"]
Span: TypeAlias = tuple[str, Look]
Line: TypeAlias = list[Span]

BLOCKS: Final = "\N{LOWER ONE EIGHTH BLOCK}▂▃▄▅▆▇█"
ASCII: Final = "_.-~=+*#"
KEPT: Final = 120
GAP: Final = "  "
NUMBER: Final = 7
STATE: Final = (14, 22)
SPARKS: Final = (10, 60)
NAME: Final = (8, 40)
KSM_STATES: Final = ("stopped", "runs", "unmerged")
PAGE_KIB: Final = resource.getpagesize() / 1024


@dataclass(frozen=True, slots=True)
class View:
    """What was asked at one moment. `problem`: why the service doesn't answer; then the rest is what it said last."""

    time_s: float
    status: ServiceStatus
    statistics: Statistics
    names: Mapping[str, str]
    # Of guests whose figures don't say enough.
    states: Mapping[str, GuestState] = field(default_factory=dict)
    problem: str = ""


@dataclass(slots=True)
class History:
    """Figures of the last polls, oldest first; None where there was none."""

    free: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    saved: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    balloons: dict[str, deque[float | None]] = field(default_factory=dict)

    def add(self, view: View) -> None:
        """Take what a poll has given; guests that are gone are forgotten."""
        guests: Mapping[str, Sample] = {} if view.problem else view.statistics.guests
        host = EMPTY if view.problem else view.statistics.host
        self.free.append(_part(host.get("mem_free"), host.get("mem_available")))
        self.saved.append(_number(host.get("ksm_pages_sharing")))
        if not view.problem:
            self.balloons = {uuid: self.balloons.get(uuid) or deque(maxlen=KEPT) for uuid in guests}
        for uuid, balloons in self.balloons.items():
            sample = guests.get(uuid, EMPTY)
            balloons.append(_part(sample.get("balloon_cur"), sample.get("balloon_max")))


SORTS: Final[Mapping[str, Callable[[str, Sample], tuple[object, ...]]]] = {
    "name": lambda name, _: (name,),
    "balloon": lambda name, sample: (-(_number(sample.get("balloon_cur")) or 0), name),
    "free": lambda name, sample: (_part(sample.get("mem_free"), sample.get("mem_available")) or 0, name),
    "rss": lambda name, sample: (-(_number(sample.get("rss")) or 0), name),
}


@dataclass(frozen=True, slots=True)
class Format:
    """How a frame is laid out. `height`: None for as many lines as it takes; `ticks`: the characters of sparklines, low to high."""

    width: int = 80
    height: int | None = None
    ticks: str = BLOCKS
    sort: str = "name"


def frame(view: View, history: History, layout: Format) -> list[Line]:
    """All lines of a frame, none of them wider than asked for."""
    lines = [*_summary(view), *_host(view.statistics.host, history, layout), [], *_guests(view, history, layout)]
    if layout.height is not None and len(lines) > layout.height:
        left_out = len(lines) - layout.height + 1
        lines = [*lines[: layout.height - 1], [(f"... and {left_out} more; --sort shows others first", "head")]]
    return [_cut(line, layout.width) for line in lines]


def _summary(view: View) -> list[Line]:
    status = view.status
    look: Look = "good" if status.status == "active" and not view.problem else "bad"
    took = f"run took {status.evaluation_duration_us / 1000:.1f} ms" if status.last_evaluation_us else "no run yet"
    rest = f"{count(status.guest_count, 'guest')}  generation {status.generation}  {took}"
    clock = time.strftime("%H:%M:%S", time.localtime(view.time_s))
    first: Line = [(f"{clock}  ", ""), ("away" if view.problem else status.status, look), (f"  {rest}", "")]
    reasons = [view.problem] if view.problem else list(status.status_reasons)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return [first, [(one_line(reasons[0]) + more, "bad")]] if reasons else [first]


def _host(host: Sample, history: History, layout: Format) -> list[Line]:
    share = _part(host.get("mem_free"), host.get("mem_available"))
    total, swap = _size(host.get("mem_available")), _size(host.get("swap_usage"))
    free = f"{100 * share:5.1f} % of {total} free" if share is not None else "no figures yet"
    saved = _number(host.get("ksm_pages_sharing"))
    run, cpu, pressure = host.get("ksm_run"), _number(host.get("ksmd_cpu_usage")), _number(host.get("psi_mem_some_avg10"))
    state = KSM_STATES[run] if isinstance(run, int) and run in range(len(KSM_STATES)) else DASH
    most = max((value for value in history.saved if value is not None), default=0) or 1
    width = 16
    return [
        [
            (f"host  {_fit(free, 26)}  ", ""),
            (sparkline(history.free, width, 1, layout.ticks), ""),
            (f"  pressure {_percent(pressure)}  swap {swap}", ""),
        ],
        [
            (f"KSM   {_fit(f'{state}, saves {_size(None if saved is None else saved * PAGE_KIB)}', 26)}  ", ""),
            (sparkline(history.saved, width, most, layout.ticks), ""),
            (f"  ksmd {_percent(cpu)}", ""),
        ],
    ]


def _guests(view: View, history: History, layout: Format) -> list[Line]:
    guests = view.statistics.guests
    if not guests:
        return [[("no guests", "")]]
    states = {uuid: state_of(sample, view.states.get(uuid)) for uuid, sample in guests.items()}
    state_width = min(max(STATE[0], *map(len, states.values())), STATE[1])
    fixed = 4 * (NUMBER + len(GAP)) + state_width + 2 * len(GAP)
    name_width = min(max(NAME[0], layout.width - fixed - SPARKS[0]), NAME[1])
    sparks = min(max(SPARKS[0], layout.width - fixed - name_width), SPARKS[1])
    cells = [_fit("GUEST", name_width), *(title.rjust(NUMBER) for title in ("BALLOON", "MAX", "FREE", "RSS MiB"))]
    lines: list[Line] = [[(GAP.join([*cells, _fit("HISTORY", sparks), "STATE"]), "head")]]
    names = {uuid: one_line(view.names.get(uuid) or uuid) for uuid in guests}
    for uuid in sorted(guests, key=lambda uuid: SORTS[layout.sort](names[uuid], guests[uuid])):
        sample = guests[uuid]
        rss = _number(sample.get("rss"))
        sizes = [sample.get("balloon_cur"), sample.get("balloon_max"), sample.get("mem_free"), None if rss is None else rss * PAGE_KIB]
        cells = [_fit(names[uuid], name_width), *(_mib(size).rjust(NUMBER) for size in sizes)]
        look: Look = "" if states[uuid] == "running" else "bad"
        line = GAP.join([*cells, sparkline(history.balloons.get(uuid, ()), sparks, 1, layout.ticks), ""])
        lines.append([(line, ""), (states[uuid], look)])
    return lines


# --- figures -----------------------------------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float | None], width: int, most: float, ticks: str) -> str:
    """The last values between 0 and `most` as one character each, the newest at the right; a blank where there is none."""
    last = [*values][-width:]
    marks = ["" if value is None else ticks[min(max(int(value / most * len(ticks)), 0), len(ticks) - 1)] for value in last]
    return "".join(mark or " " for mark in marks).rjust(width)


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _part(value: Value, whole: Value) -> float | None:
    part, all_of_it = _number(value), _number(whole)
    return part / all_of_it if part is not None and all_of_it else None


def _mib(kib: Value) -> str:
    number = _number(kib)
    return DASH if number is None else f"{number / 1024:.0f}"


def _size(kib: Value) -> str:
    number = _number(kib)
    if number is None:
        return DASH
    return f"{number / (1 << 20):.1f} GiB" if number >= 1 << 20 else f"{number / 1024:.0f} MiB"


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f} %"


# --- columns of a terminal ---------------------------------------------------------------------------------------------------------------


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _begin(text: str, width: int) -> tuple[str, int]:
    """As much of a text as fits, and how wide that is."""
    used = 0
    for index, character in enumerate(text):
        if used + _columns(character) > width:
            return text[:index], used
        used += _columns(character)
    return text, used


def _fit(text: str, width: int) -> str:
    """The text, cut or filled up to a width."""
    begin, used = _begin(text, width)
    return begin + " " * (width - used)


def _cut(line: Line, width: int) -> Line:
    cut: Line = []
    for text, look in line:
        begin, used = _begin(text, width)
        width -= used
        cut.append((begin, look))
    return cut
