# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading and running: `load` makes a `Program` of text, `evaluate` makes `Decisions` of a program and a snapshot."""

from __future__ import annotations

import gc
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Final

from momservice.bus.names import TEXT_BYTES
from momservice.decisions import Decisions, Diagnostic, Failure, Place
from momservice.fields import Schema
from momservice.policy.compiled.build import CompiledProgram, build
from momservice.policy.compiled.run import Run
from momservice.policy.compiled.shape import Abandoned
from momservice.policy.compiler import Compiler
from momservice.policy.diagnostics import FINDINGS
from momservice.policy.flow import Flow
from momservice.policy.kinds import Kinds
from momservice.policy.machine import Code, Machine
from momservice.policy.names import bound_names, first_definitions, parameters
from momservice.policy.reader import Reading, Source, read
from momservice.policy.values import short, typed_like
from momservice.snapshot import Snapshot, Value

# More steps than any run has.
PROVED: Final = 1 << 62
# Errors of a run that other figures can't cure: a policy that has one in its trial is refused.
INCURABLE: Final = frozenset({"name", "arity", "form", "limit", "too-deep", "unknown-field", "unknown-prop"})


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded policy: immutable, to be run any number of times.

    `fragments`: their names, in the order they run. `parameters`: name -> default of each global that `SetParameters` may set.
    `givers`: the fragment that gives each its default.
    """

    fragments: Sequence[str]
    schema: Schema
    parameters: Mapping[str, Value]
    givers: Mapping[str, str]
    code: Code = field(repr=False)
    # Why there is none, where there is none.
    compiled: CompiledProgram | str = field(repr=False)
    sources: Mapping[str, Source] = field(repr=False)

    def line(self, place: Place) -> str:
        """The line of the policy's text that a place is in."""
        return self.sources[place.fragment].line(place.line)

    def coerce_parameter(self, name: str, value: Value) -> Value:
        """The value as the parameter takes it: a bool as 1 or 0 for an integer, any number as a float for a float.

        Raises KeyError for an unknown parameter, ValueError with one line for a value of another type.
        """
        try:
            return typed_like(self.parameters[name], value)
        except ValueError as error:
            raise ValueError(f"parameter '{short(name)}' {error}") from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading: `program` is None if one of the diagnostics is an error."""

    program: Program | None
    diagnostics: Sequence[Diagnostic]


def load(fragments: Mapping[str, str], schema: Schema, limit_bytes: int = TEXT_BYTES) -> Loaded:
    """Parses and checks fragments (name -> text; they run in the order of their names). Raises nothing, whatever the text."""
    names = sorted(fragments)
    ends = list(accumulate(len(fragments[name].encode(errors="surrogatepass")) for name in names))
    if ends and ends[-1] > limit_bytes:
        message = f"the policy has {ends[-1]} bytes in all, more than {limit_bytes}"
        too_long = names[bisect_right(ends, limit_bytes)]
        return Loaded(None, [Diagnostic("error", "limit", Place(too_long, 1, 1), message)])
    sources = _sources([(name, fragments[name]) for name in names])
    with _without_collector:
        return _compile(sources, [read(source) for source in sources], schema)


class _WithoutCollector:
    """Without looks for cyclic garbage: the trees and values of a policy are many objects and no garbage, and looking takes as long.

    There is one collector for all threads, so the last of them to leave turns it on again.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._collecting = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._collecting = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._collecting and not self._inside:
                gc.enable()


_without_collector = _WithoutCollector()


def _sources(texts: Sequence[tuple[str, str]]) -> list[Source]:
    sources: list[Source] = []
    base = 0
    for name, content in texts:
        sources.append(Source(name, content, base))
        # One more than its length: each fragment has a place at its end, and no two begin at the same.
        base += len(content) + 1
    return sources


def _compile(sources: Sequence[Source], readings: Sequence[Reading], schema: Schema) -> Loaded:
    pairs = list(zip(sources, readings, strict=True))
    everything = [form for reading in readings for form in reading.forms]
    defaults = parameters(everything)
    bound = bound_names(everything, {name for reading in readings for name in reading.unread})
    compiler = Compiler(sources, schema, bound, frozenset(defaults))
    flow = Flow(compiler.checks, schema, Kinds(everything, bound.unread, defaults))
    for source, reading in pairs:
        compiler.fragment(source, reading.forms)
        flow.fragment(reading.forms)
    errors = [*(fault for reading in readings for fault in reading.faults), *compiler.checks.errors]
    found = _in_order([*errors[:FINDINGS], *compiler.checks.warnings][:FINDINGS])
    if errors:
        return Loaded(None, found)
    code = compiler.code()
    placed = [(form, source.base) for source, reading in pairs for form in reading.forms]
    compiled = build(placed, schema, defaults, code.place)
    by_name = {source.name: source for source in sources}
    # The first fragment with such a definition comes last here, and holds.
    givers = {name: source.name for source, reading in pairs[::-1] for name in first_definitions(reading.forms) if name in defaults}
    return Loaded(Program(tuple(by_name), schema, MappingProxyType(defaults), MappingProxyType(givers), code, compiled, by_name), found)


def _in_order(found: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Findings in the order of their places: fragments run, and so are sorted, in the order of their names."""
    return sorted(found, key=lambda each: (each.place.fragment, each.place.line, each.place.column))


def evaluate(program: Program, snapshot: Snapshot, *, trace: bool = False) -> Decisions:
    """Runs a program on a snapshot. Pure: the same program and snapshot give the same decisions. Raises nothing.

    With `trace` each control carries the inputs read on the way to it; nothing else differs but `steps`. A parameter of the snapshot that
    the program doesn't have, or has with another type, isn't bound: the program's default holds.
    """
    with _without_collector:
        return _decide(program, snapshot, trace=trace)


def decide(program: Program, snapshot: Snapshot) -> Decisions:
    """As `evaluate`, with all controls made at once and not when they are asked for: for threads, lest the event loop make thousands."""
    with _without_collector:
        decisions = _decide(program, snapshot, trace=False)
        len(decisions.controls)
    return decisions


def _decide(program: Program, snapshot: Snapshot, *, trace: bool) -> Decisions:
    bound = _bound_parameters(program, snapshot)
    decisions, abandoned = _compiled(program, snapshot, bound)
    if decisions is not None and not trace:
        return decisions
    # What the compiled form can finish is within its limits, however many steps the other evaluator counts.
    steps = None if decisions is None else PROVED
    traced = Machine(program.code, program.schema, snapshot, bound, trace=trace, steps=steps).run()
    return traced._replace(abandoned=abandoned) if abandoned else traced


def _compiled(program: Program, snapshot: Snapshot, parameters: Mapping[str, Value]) -> tuple[Decisions | None, str]:
    """What the compiled form decides; None, and why, where it can't."""
    if isinstance(program.compiled, str):
        return None, program.compiled
    try:
        return Run(program.compiled, program.schema, snapshot, parameters).run(), ""
    except Abandoned as why:
        return None, str(why)
    except Exception as error:  # whatever generated code does wrong, the other evaluator decides
        return None, f"{type(error).__name__}: {error}"


def _bound_parameters(program: Program, snapshot: Snapshot) -> dict[str, Value]:
    bound: dict[str, Value] = {}
    for name, value in snapshot.parameters.items():
        try:
            bound[name] = program.coerce_parameter(name, value)
        except (KeyError, ValueError):
            continue
    return bound


def trial_errors(decisions: Decisions) -> list[Failure]:
    """The failures of a trial run for which a policy is refused: those that no other figures would cure."""
    return [failure for failure in decisions.failures if failure.code in INCURABLE]


def trial_warnings(decisions: Decisions) -> list[Failure]:
    """The other failures of a trial run: isolated in a live run, and given as warnings."""
    return [failure for failure in decisions.failures if failure.code not in INCURABLE]
