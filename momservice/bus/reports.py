# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations, decisions and findings as dictionaries on the bus. The interface's XML says what is in them.

momservice.bus.answers is the way back. They are for people and bounded: texts are cut, lists and objects are given as texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final

from momservice.bus.connection import Variant, clean
from momservice.bus.variants import to_variant, to_variants
from momservice.decisions import Call, Decisions, Diagnostic, Failure, Place, Read, Wanted
from momservice.dry_runs import DryRun
from momservice.errors import LimitsExceeded
from momservice.explained import Explanation
from momservice.policy.program import INCURABLE
from momservice.snapshot import Value
from momservice.snapshot_text import encoded
from momservice.text import shown

# Controls of one answer.
MAX_CONTROLS: Final = 10_000
# Findings of one answer.
MAX_FINDINGS: Final = 1000
_CALLS: Final = "a(ssuu)"


def _text(text: str) -> Variant:
    return Variant("s", clean(shown(text)))


def _value(value: Value) -> Variant:
    if isinstance(value, str):
        return _text(value)
    return _text(json.dumps(encoded(value), ensure_ascii=False)) if isinstance(value, Sequence | Mapping) else to_variant(value)


def _values(**values: Value) -> dict[str, Variant]:
    return {name: _value(value) for name, value in values.items() if value is not None}


def _texts(**texts: str) -> dict[str, Variant]:
    return {name: _text(text) for name, text in texts.items() if text}


def _place(place: Place) -> dict[str, Variant]:
    return {"fragment": Variant("s", place.fragment), "line": Variant("u", place.line), "column": Variant("u", place.column)}


def _calls(calls: Sequence[Call]) -> dict[str, Variant]:
    rows = [[clean(shown(call.function, 60)), call.place.fragment, call.place.line, call.place.column] for call in calls]
    return {"calls": Variant(_CALLS, rows)} if rows else {}


# --- diagnostics -------------------------------------------------------------------------------------------------------------------------


def diagnostic(found: Diagnostic) -> dict[str, Variant]:
    """A finding at load."""
    text = {"severity": found.severity, "code": found.code, "message": found.message, "hint": found.hint}
    return to_variants(text) | _place(found.place)


def failure(failed: Failure) -> dict[str, Variant]:
    """A failure of a run as a finding: an error where the service would refuse the policy for it; with the guest that was dropped."""
    severity = "error" if failed.code in INCURABLE else "warning"
    told = to_variants({"severity": severity, "code": failed.code, "message": failed.message, "hint": ""}) | _place(failed.place)
    return told | _calls(failed.calls) | _texts(entity=failed.entity or "")


def findings(run: DryRun) -> Iterator[dict[str, Variant]]:
    """What is to be said of a dry run: the findings at load, then the failures of the run."""
    failures = run.decisions.failures if run.decisions is not None else ()
    return islice(chain(map(diagnostic, run.diagnostics), map(failure, failures)), MAX_FINDINGS)


# --- decisions ---------------------------------------------------------------------------------------------------------------------------


def decisions(decided: Decisions) -> Iterator[dict[str, Variant]]:
    """The controls of a run. Raises LimitsExceeded, at once."""
    if len(decided.controls) > MAX_CONTROLS:
        raise LimitsExceeded(f"these policies set {len(decided.controls)} controls: at most {MAX_CONTROLS} can be told at a time")
    return map(_decision, decided.controls)


def _decision(wanted: Wanted) -> dict[str, Variant]:
    what = {"entity": Variant("s", wanted.entity), "control": _text(wanted.name)}
    return what | _texts(item=wanted.item) | _values(value=wanted.value) | _place(wanted.place) | _calls(wanted.calls)


# --- explanations ------------------------------------------------------------------------------------------------------------------------


def explanation(told: Explanation) -> dict[str, Variant]:
    """One row of an explanation."""
    return {key: variant for part in _parts(told) for key, variant in part.items()}


def _parts(told: Explanation) -> Iterator[dict[str, Variant]]:
    yield {"run": Variant("t", told.run), "time": Variant("t", told.time_us), "generation": Variant("t", told.generation)}
    yield _texts(kind=told.kind, rule=told.rule, text=told.line)
    yield _texts(item=told.item, status=told.status, reason=told.reason, code=told.code, message=told.message)
    yield _values(wanted=told.wanted, applied=told.applied)
    yield _calls(told.calls)
    if told.place is not None:
        yield _place(told.place)
    if told.kind == "control":
        yield {"control": _text(told.control)}
        yield {"inputs": Variant("aa{sv}", [_input(read) for read in told.reads]), "inputs-left-out": Variant("u", told.reads_left_out)}
    if told.kind == "more":
        yield {"more": Variant("u", told.more)}


def _input(read: Read) -> dict[str, Variant]:
    return _texts(kind=read.kind, name=read.name, entity=read.entity) | _values(value=read.value)
