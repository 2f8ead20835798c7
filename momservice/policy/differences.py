# SPDX-License-Identifier: GPL-2.0-or-later
"""How what a run decided differs from what a policy case expects of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from momservice.decisions import Decisions, Diagnostic, Failure, Opaque
from momservice.policy.expected import ABSENT, Absent, Approx, Entities, Expected
from momservice.snapshot import Value
from momservice.snapshot_text import encoded
from momservice.strict_json import Json
from momservice.text import shown

_TYPE_NAMES: Final = {bool: "bool", int: "int", float: "float", str: "str", type(None): "nil", Opaque: "opaque"}
_SHOWN: Final = 300
_NOTHING: Final = "nothing"


class Difference(NamedTuple):
    """One thing that isn't as expected, each part on one line."""

    what: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.what}: got {self.got}, expected {self.expected}"


def refused(expected: Expected, errors: Sequence[Diagnostic]) -> Iterator[Difference]:
    """The differences for a policy that doesn't load."""
    if expected.error is None:
        yield Difference("load", _several(errors), "a policy that loads")
    elif expected.error not in [found.code for found in errors]:
        yield Difference("error", _several(errors), f"an error of class {expected.error}")


def differences(expected: Expected, decisions: Decisions) -> Iterator[Difference]:
    """The differences for a run."""
    if expected.error is not None:
        yield from _error(expected, expected.error, decisions)
        return
    yield from _isolated(expected, decisions)
    yield from _failed(expected, decisions)
    yield from _compare("results", decisions.results, expected.results)
    yield from _compare("types", [_type_name(result) for result in decisions.results], expected.types)
    controls: dict[str, dict[str, Value]] = {}
    for wanted in decisions.controls:
        controls.setdefault(wanted.entity, {})[f"{wanted.item}.{wanted.name}" if wanted.item else wanted.name] = wanted.value
    yield from _compare_entities(expected, "controls", controls, expected.controls)
    yield from _compare_entities(expected, "vars", decisions.variables, expected.variables)


def _several(found: Sequence[Diagnostic | Failure]) -> str:
    return "; ".join(str(each) for each in found[:3]) or _NOTHING


def _error(expected: Expected, code: str, decisions: Decisions) -> Iterator[Difference]:
    if code not in [failure.code for failure in decisions.failures]:
        yield Difference("error", _several(decisions.failures), f"an error of class {code}")
    if expected.results is not None:
        results = decisions.results[: min((failure.form for failure in decisions.failures), default=None)]
        yield from _compare("results", results[: len(expected.results)], expected.results)


def _isolated(expected: Expected, decisions: Decisions) -> Iterator[Difference]:
    forms = sorted(failure.form for failure in decisions.failures if failure.entity is None)
    yield from _told("failed_forms", forms, expected.failed_forms, decisions, str)
    order = list(expected.guests)
    guests = sorted((failure.entity for failure in decisions.failures if failure.entity is not None), key=order.index)
    yield from _told("dropped_guests", guests, expected.dropped_guests, decisions, expected.guests.__getitem__)


def _told(
    part: str, got: list[Json], wanted: Sequence[Json] | None, decisions: Decisions, title: Callable[[Json], str]
) -> Iterator[Difference]:
    if wanted is not None and sorted(got) != sorted(wanted):
        why = f" ({_several(decisions.failures)})" if decisions.failures else ""
        yield Difference(part, _listed(map(title, got)) + why, _listed(map(title, wanted)))


def _listed(titles: Iterator[str]) -> str:
    return shown(", ".join(titles), _SHOWN) or "none"


def _failed(expected: Expected, decisions: Decisions) -> Iterator[Difference]:
    if expected.failures is None:
        return
    left = list(decisions.failures)
    for wanted in expected.failures:
        found = next((failure for failure in left if _is(failure, wanted)), None)
        if found is None:
            yield Difference("failures", _several(left), _failure_title(wanted, expected))
        else:
            left.remove(found)
    if left and not expected.partial:
        yield Difference("failures", _several(left), "no more of them")


def _is(failure: Failure, wanted: Mapping[str, Json]) -> bool:
    place = failure.place
    has = {"code": failure.code, "guest": failure.entity, "fragment": place.fragment, "line": place.line, "column": place.column}
    return all(value in failure.message if key == "message" else has[key] == value for key, value in wanted.items())


def _failure_title(wanted: Mapping[str, Json], expected: Expected) -> str:
    parts = {key: expected.guests.get(value, "none") if key == "guest" else value for key, value in wanted.items()}
    return shown(", ".join(f"{key} {value}" for key, value in parts.items()), _SHOWN) or "a failure"


def _type_name(value: object) -> Json:
    return [_type_name(item) for item in value] if isinstance(value, list) else _TYPE_NAMES[type(value)]


def _compare(what: str, got: object, wanted: Sequence[Json] | None) -> Iterator[Difference]:
    if wanted is not None and not _same(got, wanted):
        yield Difference(what, _shown(got), _shown(wanted))


def _compare_entities(
    expected: Expected, part: str, got: Entities | Mapping[str, Mapping[str, Value]], wanted: Entities
) -> Iterator[Difference]:
    for key, values in wanted.items():
        there = got.get(key, {})
        names = [*values, *(() if expected.partial else (name for name in there if name not in values))]
        for name in names:
            has, wants = there.get(name, ABSENT), values.get(name, ABSENT)
            if not _same(has, wants):
                yield Difference(f"{part} of {expected.guests.get(key, 'the host')}: {shown(name, 60)}", _shown(has), _shown(wants))


def _same(got: object, wanted: object) -> bool:
    """Whether two values are the same: type and value, nan the same as nan, opaque ones whatever they are."""
    if isinstance(wanted, Approx):
        return isinstance(got, int | float) and not isinstance(got, bool) and abs(got - wanted.value) <= wanted.within
    if isinstance(got, list | tuple) and isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(_same, got, wanted))
    if isinstance(got, float) and isinstance(wanted, float) and math.isnan(got):
        return math.isnan(wanted)
    return type(got) is type(wanted) and (isinstance(got, Opaque | Absent) or got == wanted)


def _shown(value: object) -> str:
    return _NOTHING if isinstance(value, Absent) else shown(json.dumps(_written(value), ensure_ascii=False), _SHOWN)


def _written(value: Json) -> Json:
    """A value as a case has it."""
    if isinstance(value, Approx):
        return {"$approx": value.value, "within": value.within}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return {"$opaque": value.kind} if isinstance(value, Opaque) else encoded(value)
