# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy case expects of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from momservice.decisions import Opaque
from momservice.snapshot import HOST, Entity, Snapshot
from momservice.strict_json import Json, get, only, quoted
from momservice.text import shown

EXPECT: Final[Mapping[str, str]] = {
    "results": "a list: the value of each top-level form",
    "types": "a list: the type of each such value (nil, bool, int, float, str, opaque), or a list of types",
    "controls": "an object: host, an object of controls by name, and guests, either a list of such objects in the order of the guests or an"
    ' object of them by name or UUID. An entity that is left out is not compared. A limit of a disk is called "vda.total_bytes_sec"',
    "vars": "the variables that SetVar keeps, in the same form",
    "partial": "true: controls, variables and failures that aren't listed are not compared; without it they must not be there",
    "error": "an object with class: the code of an error, at load or in the run; results, if given, are compared up to it. null:"
    " no errors but those of failed_forms and dropped_guests",
    "failed_forms": "a list: the top-level forms that fail, counted from 0",
    "dropped_guests": "a list: the guests that an error takes out of the run, by position from 0, name or UUID",
    "failures": "a list of objects, one for each failure of the run; what it has of code, guest (null: none), fragment, line, column and"
    " message (a part of the text) is compared",
}
FAILURE: Final = ("code", "guest", "fragment", "line", "column", "message")
VALUES: Final[Mapping[str, str]] = {
    '{"$approx": 1.5, "within": 0.01}': "a number that differs from this by at most so much (without within: by a billionth of it)",
    '{"$absent": true}': "a control or variable that is not there",
    '{"$float": "nan"}': "nan, inf or -inf",
    '{"$opaque": "guest"}': "a result that is no data: an entity, or an object of a field",
}
# What oVirt's MOM did, in the cases that came from there.
_INFORMATION: Final = frozenset({"writes", "load", "applied"})


class Approx(NamedTuple):
    """Any number that differs from `value` by at most `within`."""

    value: float
    within: float


class Absent:
    """A control or variable that must not be there."""


ABSENT: Final = Absent()
Entities = Mapping[str, Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case expects. None is not compared; entities and guests are keys of the snapshot."""

    guests: Mapping[str, str]
    results: Sequence[Json] | None = None
    types: Sequence[Json] | None = None
    controls: Entities = field(default_factory=dict)
    variables: Entities = field(default_factory=dict)
    partial: bool = False
    error: str | None = None
    failed_forms: Sequence[int] | None = None
    dropped_guests: Sequence[str] | None = None
    failures: Sequence[Mapping[str, Json]] | None = None


def read_expected(given: Mapping[str, Json], snapshot: Snapshot, where: str) -> Expected:
    """The expectations of a case on a world. Raises ValueError, one line that begins with `where`."""
    only({key: value for key, value in given.items() if key not in _INFORMATION}, EXPECT, where)
    guests = _Guests(snapshot.guests, where)
    error = given.get("error")
    if "failures" in given and "error" in given:
        raise ValueError(f"{where}: 'failures' and 'error' don't go together")
    no_errors = "error" in given and error is None
    return Expected(
        guests={guest.key: _title(number, guest) for number, guest in enumerate(snapshot.guests)},
        results=_list(given, "results", where),
        types=_list(given, "types", where),
        controls=_entities(given, "controls", guests, where),
        variables=_entities(given, "vars", guests, where),
        partial=get(given, "partial", bool, where, False),
        error=None if error is None else get(error, "class", str, f"{where}: 'error'"),
        failed_forms=_forms(given, where, [] if no_errors else None),
        dropped_guests=_dropped(given, guests, where, [] if no_errors else None),
        failures=_failures(given, guests, where),
    )


def _list(given: Mapping[str, Json], key: str, where: str) -> list[Json] | None:
    return [_value(item, where) for item in get(given, key, list, where)] if key in given else None


def _forms(given: Mapping[str, Json], where: str, default: list[int] | None) -> list[int] | None:
    forms = _list(given, "failed_forms", where)
    if forms is not None and any(type(form) is not int for form in forms):
        raise ValueError(f"{where}: 'failed_forms' is not a list of integers")
    return default if forms is None else forms


def _title(number: int, guest: Entity) -> str:
    name = guest.properties.get("name")
    return f"guest {number}" if name is None else f"guest {number} ({shown(str(name), 60)})"


class _Guests:
    """The guests of a world, to be found by position, name or UUID."""

    def __init__(self, guests: Sequence[Entity], where: str) -> None:
        self._guests = guests
        self._where = where

    def key(self, reference: Json) -> str:
        """The key of a guest."""
        if isinstance(reference, int) and not isinstance(reference, bool):
            if not 0 <= reference < len(self._guests):
                raise ValueError(
                    f"{self._where}: there is no guest {reference}: they are counted from 0, and there are {len(self._guests)}"
                )
            return self._guests[reference].key
        if not isinstance(reference, str):
            raise ValueError(f"{self._where}: a guest is told by its position, name or UUID")
        found = [guest.key for guest in self._guests if reference in (guest.key, guest.properties.get("name"))]
        if not found:
            raise ValueError(f"{self._where}: there is no guest {quoted(reference)}")
        if len(found) > 1:
            raise ValueError(f"{self._where}: {len(found)} guests are called {quoted(reference)}; use the UUID")
        return found[0]


def _dropped(given: Mapping[str, Json], guests: _Guests, where: str, default: list[str] | None) -> list[str] | None:
    references = _list(given, "dropped_guests", where)
    return default if references is None else [guests.key(reference) for reference in references]


def _entities(given: Mapping[str, Json], part: str, guests: _Guests, where: str) -> Entities:
    of_part = get(given, part, dict, where, {})
    where = f"{where}: {quoted(part)}"
    only(of_part, ("host", "guests"), where)
    found = [(HOST, get(of_part, "host", dict, where))] if "host" in of_part else []
    of_guests = of_part.get("guests", [])
    if not isinstance(of_guests, list | dict):
        raise ValueError(f"{where}: 'guests' is neither a list nor an object")
    named = of_guests.items() if isinstance(of_guests, dict) else enumerate(of_guests)
    found += [(guests.key(reference), values) for reference, values in named]
    if not all(isinstance(values, dict) for _, values in found):
        raise ValueError(f"{where}: a guest is not an object")
    if len({key for key, _ in found}) < len(found):
        raise ValueError(f"{where}: a guest is there twice, by name and by UUID")
    return {key: {name: _named_value(value, f"{where}: {quoted(name)}") for name, value in values.items()} for key, values in found}


def _failures(given: Mapping[str, Json], guests: _Guests, where: str) -> list[dict[str, Json]] | None:
    if "failures" not in given:
        return None
    failures: list[dict[str, Json]] = []
    for failure in get(given, "failures", list, where):
        place = f"{where}: 'failures'"
        if not isinstance(failure, dict):
            raise ValueError(f"{place}: not an object")
        only(failure, FAILURE, place)
        failures.append({key: _failure_value(failure, key, guests, place) for key in failure})
    # Those that say most find theirs first.
    return sorted(failures, key=len, reverse=True)


def _failure_value(failure: Mapping[str, Json], key: str, guests: _Guests, where: str) -> Json:
    if key == "guest":
        return None if failure[key] is None else guests.key(failure[key])
    return get(failure, key, int, where) if key in ("line", "column") else get(failure, key, str, where)


def _named_value(value: Json, where: str) -> Json:
    return ABSENT if value == {"$absent": True} else _value(value, where)


def _value(value: Json, where: str) -> Json:
    """An expected value, with what JSON lacks in its place."""
    if isinstance(value, list):
        return [_value(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$opaque": str() as kind, **rest} if not rest:
            return Opaque(kind)
        case {"$float": "inf" | "-inf" | "nan" as name, **rest} if not rest:
            return float(name)
        case {"$approx": int() | float() as number, **rest} if not rest:
            return Approx(number, abs(number) * 1e-9)
        case {"$approx": int() | float() as number, "within": int() | float() as within, **rest} if not rest and within >= 0:
            return Approx(number, within)
    raise ValueError(f"{where}: an expected value can't be {shown(json.dumps(value), 60)}; objects are {', '.join(VALUES)}")
