# SPDX-License-Identifier: GPL-2.0-or-later
"""The dearest runs that the budgets allow, with 5000 guests: each kind spends all that it can of one thing that policies do.

Shown: median seconds of a run, its steps, and microseconds for each. What is dear for its steps is charged too little.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from momservice.fields import Names, Schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.policy.program import TEXT_BYTES
from momservice.policy.state import RUN_STEPS
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

GUESTS: Final = 5000
RUNS: Final = 3
HISTORY: Final = 1000
FIELDS: Final = frozenset({"mem", "none", "list", "long", "wide", "disks"})
_NAMES: Final = Names(FIELDS, FIELDS, frozenset({"t", "u"}), frozenset({"name"}))
SCHEMA: Final = Schema(_NAMES, _NAMES)

_DISK: Final[Value] = {"name": "vda", "current": {"total_bytes_sec": 5}, "maximum": {"total_bytes_sec": 9}}
_SAMPLE: Final[Sample] = {
    **{"mem": 5, "list": list(range(150)), "long": "x" * 15_000, "wide": "\U0001f600" * 8000, "disks": [_DISK] * 4},
}
_SAMPLES: Final = [_SAMPLE] * HISTORY
WORLD: Final = Snapshot(
    Entity(HOST, _SAMPLES, {"name": "here"}),
    [Entity(f"00000000-0000-0000-0000-{number:012}", _SAMPLES, {"name": f"vm{number}"}) for number in range(GUESTS)],
)


def each_guest(body: str) -> str:
    """The body in a round of each guest."""
    return f"(with Guests g {{{body}}})"


def repeated(form: str, times: int) -> str:
    """The same form several times."""
    return form * times


def full(form: str) -> str:
    """As many top-level forms as a policy's text holds."""
    return form * (TEXT_BYTES // len(form) - 40)


def numbered(form: str, times: int) -> str:
    """Forms that name something of their own each."""
    return "".join(form.replace("#", str(number)) for number in range(times))


TREE: Final = "(def f (n) (if (< n 1) 1 (+ (f (- n 1)) (f (- n 1)))))"
DOWN: Final = "(def d (n) (if (< n 1) {BODY} (d (- n 1))))"
# What each kind does, and all of its policy.
KINDS: Final[Mapping[str, str]] = {
    "recursion in rounds": TREE + each_guest("(f 6)"),
    "recursion in forms": TREE + repeated("(f 9)", 1500),
    "deep recursion": "(def r (n) (if (< n 1) 1 (+ 1 (r (- n 1)))))" + each_guest("(r 140)"),
    "loops in rounds": each_guest("(with g.list x (+ x 1))" * 2),
    "loops over all guests in rounds": each_guest("(with Guests h h.mem)"),
    "arithmetic": each_guest("(+ (* g.mem 2) (- g.mem 1))" * 100),
    "comparisons": each_guest("(if (and (< g.mem 9) (or nil (> g.mem 1))) 1 0)" * 80),
    "scopes": each_guest("(let ((a 1) (b 2) (c 3)) (set a (+ b c)))" * 60),
    "definitions": each_guest(numbered("(defvar a# 1)", 250) + numbered("(set a# 2)", 250)),
    "functions defined": each_guest("(def w (a) a)(w 1)" * 100),
    "strings": each_guest("(+ g.long 'x')"),
    "strings in wide characters": each_guest("(+ g.wide 'x')"),
    "strings compared": each_guest("(== g.long g.long)"),
    "lists joined": each_guest("(+ g.list g.list)" * 2),
    "lists compared": each_guest("(== g.list g.list)" * 2),
    "lists read": each_guest("g.list " * 10),
    "fields read": each_guest("g.mem " * 400),
    "properties read": each_guest("(g.Prop 'name')" * 250),
    "averages": each_guest("(g.StatAvg 'mem')" * 10),
    "averages without data": each_guest("(g.StatAvg 'none')"),
    "controls": each_guest(numbered("(g.Control 'c#' 1)", 200)),
    "controls of the host": each_guest("(Host.Control 't' 1)" * 200),
    "controls deep in calls": DOWN.replace("BODY", "(Host.Control 't' 1)" * 200) + each_guest("(d 10)"),
    "controls read": each_guest("(g.Control 't' 1)" + "(g.GetControl 't')" * 250),
    "variables kept": each_guest(numbered("(g.SetVar 'v#' 1)", 200)),
    "lists kept": each_guest("(g.SetVar 'v' g.list)" * 4),
    "variables read": each_guest("(g.SetVar 'v' 1)" + "(g.GetVar 'v')" * 250),
    "disks": each_guest("(with g.disks d {(d.setTotalBytesSec 7) d.current.total_bytes_sec d.maximum.total_bytes_sec})" * 8),
    "debug": each_guest("(debug " + "g.long " * 1 + ")") + "(debug " + "1 " * 100 + ")",
    "rounds that fail at once": each_guest("(+ g.none 1)"),
    "rounds that fail deep in calls": DOWN.replace("BODY", "(+ g.none 1)") + each_guest("(d 100)"),
    "rounds that undo a lot": each_guest(numbered("(defvar a# 1)", 150) + "(Host.Control 't' 1)" * 100 + "(+ g.none 1)"),
    "forms that fail": full("(+ Host.none 1)"),
    "forms that fail deep in calls": DOWN.replace("BODY", "(+ Host.none 1)") + full("(d 12)"),
    "forms without number": full("1 "),
    "forms that give lists": full("Guests "),
    "loops without number": "(defvar l (with Guests g 1))" + full("(with Host.list x 1)"),
}


def program(text: str) -> Program:
    """The loaded policy. Raises ValueError if it doesn't load: then it costs no run anything."""
    loaded = load({"50_main_": text}, SCHEMA)
    if loaded.program is None:
        raise ValueError(str(loaded.diagnostics[0]))
    return loaded.program


def median_s(work: Callable[[], Decisions]) -> float:
    """Median seconds of a run."""
    times: list[float] = []
    for _ in range(RUNS):
        gc.collect()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(text: str) -> dict[str, float]:
    """Seconds of one kind, its steps as the language counts them, and what a step costs."""
    loaded = program(text)
    steps = evaluate(loaded, WORLD, trace=True).steps
    assert 0 < steps <= RUN_STEPS
    seconds = median_s(lambda: evaluate(loaded, WORLD))
    return {"seconds": seconds, "steps": steps, "us_per_step": seconds / steps * 1e6}


def main(kinds: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """The figures by kind, and the largest seconds of all."""
    figures = {kind: measure(KINDS[kind]) for kind in kinds or KINDS}
    return {**figures, "largest": {"seconds": max(figure["seconds"] for figure in figures.values())}}
