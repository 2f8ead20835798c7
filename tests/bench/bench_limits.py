# SPDX-License-Identifier: GPL-2.0-or-later
"""The dearest runs that the budgets allow, with 5000 guests: each kind does one thing in round after round until all budgets are spent.

The compiled form runs until it can't prove any more that it ends in time, then the evaluator that counts starts over and runs until the run
ends: that is what a greedy policy costs each cycle, on a history as long as can be configured. seconds: the median of three runs, or one
run where it is far from the dearest; steps: as the evaluator counted that decided; abandoned: why the compiled form didn't decide.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

from momservice.bus.names import TEXT_BYTES
from momservice.columns import GuestTable
from momservice.fields import Names, Schema
from momservice.policy import Decisions, Program, evaluate, load
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

GUESTS: Final = 5000
RUNS: Final = 3
HISTORY: Final = 1000
LOOPS: Final = 200
# What takes less than this part of the dearest kind is measured once.
CHEAP: Final = 0.85
# Fields of one kind of value each, so that policies can average one after the other; of `some` every other guest has none.
NUMBERED: Final[Mapping[str, Value]] = {
    **{f"{prefix}{number}": value for prefix, value in (("int", 7), ("float", 0.5), ("nil", None), ("some", 7)) for number in range(12)},
}
FIELDS: Final = frozenset({"mem", "none", "list", "long", "wide", "disks", *NUMBERED})
_NAMES: Final = Names(FIELDS, FIELDS, frozenset({"t", "u"}), frozenset({"name"}))
SCHEMA: Final = Schema(_NAMES, _NAMES)

_DISK: Final[Value] = {"name": "vda", "current": {"total_bytes_sec": 5}, "maximum": {"total_bytes_sec": 9}}
_SAMPLE: Final[Sample] = {
    **{"mem": 5, "list": list(range(150)), "long": "x" * 15_000, "wide": "\U0001f600" * 8000, "disks": [_DISK] * 4, **NUMBERED},
}
_OTHER: Final[Sample] = {**_SAMPLE, **{name: None for name in NUMBERED if name.startswith("some")}}
_SAMPLES: Final = [_SAMPLE] * HISTORY
_HOST: Final = Entity(HOST, _SAMPLES, {"name": "here"})
_KEYS: Final = [f"00000000-0000-0000-0000-{number:012}" for number in range(GUESTS)]
_PROPERTIES: Final[Sequence[Mapping[str, Value]]] = [{"name": f"vm{number}"} for number in range(GUESTS)]
_ROWS: Final = [[_SAMPLE, _OTHER] * (GUESTS // 2)] * HISTORY


def world() -> Snapshot:
    """The guests as the service has them when a policy is new: no policy has read anything of their samples yet."""
    return Snapshot(_HOST, GuestTable(_KEYS, _PROPERTIES, _ROWS))


def loops(body: str, number: int = LOOPS) -> str:
    """The body in a round of each guest, again and again; `#` in it is the number of the loop."""
    return numbered(f"(with Guests g {{{body}}})", number)


def full(form: str) -> str:
    """As many top-level forms as a policy's text holds."""
    return form * (TEXT_BYTES // len(form) - 40)


def numbered(form: str, times: int) -> str:
    """Forms that name something of their own each."""
    return "".join(form.replace("#", str(number)) for number in range(times))


def unknown(body: str) -> str:
    """The body in a function of which the compiled form can't know before the run that it is called."""
    return f"(def u (g) {{{body}}})" * 2 + loops("(u g)")


TREE: Final = "(def f (n) (if (< n 1) 1 (+ (f (- n 1)) (f (- n 1)))))"
DOWN: Final = "(def d (n) (if (< n 1) {BODY} (d (- n 1))))"
MANY: Final = "(def many (a b c d) 1)" * 2
SEE: Final = "(def see () {" + "a b c d " * 5 + "})(def see () {" + "a b c d " * 5 + "})"
LIMITS: Final = "(d.setTotalBytesSec 7) d.current.total_bytes_sec d.maximum.total_bytes_sec"
# What each kind does, and all of its policy. The dearest first, so that most others are measured once.
KINDS: Final[Mapping[str, str]] = {
    "averages of floats": loops("(g.StatAvg 'float#')", 12),
    "averages of integers": loops("(g.StatAvg 'int#')", 12),
    "averages of nothing": loops("(if 0 (g.StatAvg 'nil#') 1)", 12),
    "averages of some": loops("(if 0 (g.StatAvg 'some#') 1)", 12),
    "averages of lists": loops("(if 0 (g.StatAvg 'disks') 1)", 12),
    "averages of one field": loops("(g.StatAvg 'mem')" * 3),
    "averages in functions": unknown("(g.StatAvg 'int0')(g.StatAvg 'float0')(g.StatAvg 'float1')"),
    "disks": loops("(with g.disks d {" + LIMITS + "})"),
    "disks in functions": unknown("(with g.disks d {" + LIMITS + "})"),
    "disks read and set again": loops("(with g.disks d {" + "d.current " * 20 + "(d.setTotalBytesSec 7)" * 20 + "})"),
    "controls": loops("(g.Control 'a#' 1)(g.Control 'b#' 1)(g.Control 'c#' 1)(g.Control 'd#' 1)"),
    "controls of the host": loops("(Host.Control 'a#' 1)(Host.Control 'b#' 1)"),
    "controls in functions": unknown("(Host.Control 'a' 1)(g.Control 'b' 1)(g.Control 'c' 1)"),
    "controls deep in calls": DOWN.replace("BODY", "(Host.Control 't' 1)" * 20) + loops("(d 10)"),
    "controls read": loops("(g.Control 'a#' 1)" + "(g.GetControl 'a#')" * 5),
    "functions defined": loops("(def w (a) a)(w 1)" * 2),
    "functions not known": MANY + loops("(many 1 2 3 4)"),
    "functions that see much": SEE + loops("(let ((a 1) (b 2) (c 3) (d 4)) (see))"),
    "recursion in rounds": TREE + loops("(f 3)"),
    "deep recursion": "(def r (n) (if (< n 1) 1 (+ 1 (r (- n 1)))))" + loops("(r 60)"),
    "recursion in forms": TREE + "(f 9)" * 1500,
    "operands of any type": "(defvar n nil)" + loops("(valid" + " n" * 20 + ")"),
    "strings of any length": loops("(let ((s (g.Prop 'name'))) {(min s s) (< s s) (== s s)})"),
    "properties": loops("(g.Prop 'name')" * 4),
    "members": "(defvar h Host)" + loops("h.mem " * 8),
    "variables kept": loops("(g.SetVar 'v#' 1)" * 2),
    "lists kept": loops("(g.SetVar 'v' g.list)"),
    "lists kept anew": loops("(g.SetVar 'v' g.list)", 40) + loops("(g.SetVar 'w' g.list)"),
    "many lists kept": loops("(g.SetVar 'v#' g.list)", 50) + loops("(g.SetVar 'w' g.list)"),
    "variables read": loops("(g.GetVar 'v')" * 5),
    "lists read": loops("g.list (with g.list x (with g.disks d 1))"),
    "lists joined": loops("(+ g.list g.list)"),
    "lists gone through": loops("(with g.list x (+ x 1))"),
    "all guests in rounds": loops("(with Guests h h.mem)"),
    "strings": loops("(+ g.wide 'x')(== g.long g.long)"),
    "arithmetic": loops("(+ (* g.mem 2) (- g.mem 1))" * 3),
    "scopes": loops("(let ((a 1) (b 2) (c 3)) (set a (+ b c)))"),
    "scopes in functions": unknown("(let ((a 1) (b 2) (c 3)) (set a (+ b c)))" * 3),
    "definitions": loops("(defvar a# 1)(set a# 2)" * 3),
    "debug": loops("(debug " + "g.mem " * 40 + ")"),
    "rounds that fail deep in calls": DOWN.replace("BODY", "(+ g.none 1)") + loops("(d 150)"),
    "rounds that undo a lot": loops(numbered("(g.SetVar 'v#' 1)", 50) + "(+ g.none 1)", 1),
    "forms that fail": full("(+ Host.none 1)"),
    "forms that fail deep in calls": DOWN.replace("BODY", "(+ Host.none 1)") + full("(d 12)"),
    "forms without number": full("1 "),
    "forms that give lists": full("Guests "),
    "loops without number": full("(with Host.list x 1)"),
}


def program(text: str) -> Program:
    """The loaded policy. Raises ValueError if it doesn't load: then it costs no run anything."""
    loaded = load({"50_main_": text}, SCHEMA)
    if loaded.program is None:
        raise ValueError(str(loaded.diagnostics[0]))
    return loaded.program


def timed(loaded: Program) -> tuple[float, Decisions]:
    """The seconds of a run, and what it decides: all controls, which the service asks for."""
    snapshot = world()
    gc.collect()
    begin = time.perf_counter()
    decisions = evaluate(loaded, snapshot)
    controls = [*decisions.controls]
    seconds = time.perf_counter() - begin
    assert not (decisions.ended and controls)
    return seconds, decisions


def measure(text: str, dearest: float) -> dict[str, float | int | str]:
    """The figures of one kind; `dearest`: the seconds of the dearest so far."""
    loaded = program(text)
    seconds, decisions = timed(loaded)
    if seconds > CHEAP * dearest:
        seconds = statistics.median([seconds, *(timed(loaded)[0] for _ in range(RUNS - 1))])
    return {"seconds": seconds, "steps": decisions.steps, "abandoned": decisions.abandoned}


def main(kinds: Sequence[str] = ()) -> dict[str, dict[str, float | int | str]]:
    """The figures by kind, and the largest seconds of all."""
    figures: dict[str, dict[str, float | int | str]] = {}
    dearest = 0.0
    for kind in kinds or KINDS:
        figures[kind] = measure(KINDS[kind], dearest)
        dearest = max(dearest, float(figures[kind]["seconds"]))
    return {**figures, "largest": {"seconds": dearest}}
