# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots as files: the world of one policy run, to be kept, sent and run again off line with the same decisions.

A document is one JSON object on one line, in ASCII, so that a file of several lines can hold a series. `DOCUMENT`, `ENTITY` and `VALUES`
say what is in it; the reader takes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from momservice import strict_json
from momservice.bus.names import UUID
from momservice.fields import Names, Schema
from momservice.policy.values import LIST_DEPTH, PolicyError, integer, text
from momservice.snapshot import HOST, Entity, Snapshot, Value
from momservice.snapshot_text import FORMAT, VERSION
from momservice.strict_json import Json, quoted

_TIME_END: Final = 1 << 63

DOCUMENT: Final[Mapping[str, str]] = {
    "format": f"always {FORMAT}",
    "version": f"of this format: {VERSION}",
    "taken_us": "when it was taken, in microseconds since 1970; information only (default: 0)",
    "host": "the host, an entity",
    "guests": "a list of entities in the order in which policies see them",
    "parameters": "an object: the parameters that were set, by name (default: none)",
    "continues": "in a series: whether its samples are only those that came since the document before (default: false)",
}
ENTITY: Final[Mapping[str, str]] = {
    "key": "a guest's UUID in lower case; the host has no key",
    "properties": "an object: what Prop gives by name, such as a guest's name and uuid (default: none)",
    "samples": "a list of objects, oldest first: the fields' values by name; one that isn't there is nil (default: no sample yet)",
    "variables": "an object: what SetVar has kept from earlier runs (default: none)",
}
VALUES: Final[Mapping[str, str]] = {
    "null, true, false, text": "nil, a boolean, a string of at most 64 KiB",
    "12": "an integer of at most 256 bits",
    "1.5": "a float: any number with a fraction or an exponent",
    '{"$float": "nan"}': "a float that JSON lacks: nan, inf or -inf",
    "[...]": f"a list, at most {LIST_DEPTH} inside each other",
    '{"name": "vda", ...}': "an object of a field, such as a disk of io_tune",
    '{"$object": {...}}': 'the same, for an object with a name that begins with "$"',
}


class Recorded(NamedTuple):
    """A document: its snapshot, and whether that continues the one before."""

    snapshot: Snapshot
    continues: bool


def read_snapshot(path: str | Path) -> Snapshot:
    """The snapshot in a file of at most 64 MiB; "-" is standard input. Raises ValueError, one line that says what is wrong where."""
    text = strict_json.read_text(path, strict_json.FILE_BYTES)
    if is_series(text):
        raise ValueError(f"{path}: a series of snapshots, not a single one: `momctl policy replay` runs policies over it")
    return parse_snapshot(text, str(path))


def is_series(text: str) -> bool:
    """Whether a text is several documents, one a line."""
    first, _, rest = text.partition("\n")
    return first.rstrip().endswith("}") and rest.lstrip().startswith("{")


def parse_snapshot(document: str, where: str) -> Snapshot:
    """The snapshot of one document. Raises ValueError, one line that begins with `where`."""
    return parse_recorded(document, where).snapshot


def parse_recorded(document: str, where: str) -> Recorded:
    """One document of a series. Raises ValueError, one line that begins with `where`."""
    given = strict_json.parse(document, where)
    _check_format(given, where)
    taken_us = strict_json.get(given, "taken_us", int, where, 0)
    if not 0 <= taken_us < _TIME_END:
        raise ValueError(f"{where}: 'taken_us' is not a time in microseconds since 1970")
    host = strict_json.get(given, "host", dict, where)
    if "key" in host:
        raise ValueError(f"{where}: the host has no 'key'")
    snapshot = Snapshot(
        _entity(HOST, host, f"{where}: host"),
        _guests(strict_json.get(given, "guests", list, where), where),
        _values(given, "parameters", where),
        taken_us,
    )
    return Recorded(snapshot, strict_json.get(given, "continues", bool, where, False))


def _check_format(given: Json, where: str) -> None:
    if strict_json.get(given, "format", str, where) != FORMAT:
        raise ValueError(f"{where}: not a snapshot: 'format' is not {FORMAT}")
    version = strict_json.get(given, "version", int, where)
    if version != VERSION:
        raise ValueError(f"{where}: a snapshot of version {version}; this program reads version {VERSION}")
    strict_json.only(given, DOCUMENT, where)


def _guests(given: Sequence[Json], where: str) -> list[Entity]:
    guests: dict[str, Entity] = {}
    for number, guest in enumerate(given, 1):
        place = f"{where}: guest {number}"
        key = strict_json.get(guest, "key", str, place)
        if not UUID.fullmatch(key) or key != key.lower():
            raise ValueError(f"{place}: 'key' is not a UUID in lower case")
        if key in guests:
            raise ValueError(f"{place}: another guest has the key {key}")
        guests[key] = _entity(key, guest, place)
    return list(guests.values())


def _entity(key: str, given: Mapping[str, Json], where: str) -> Entity:
    strict_json.only(given, ENTITY, where)
    samples = strict_json.get(given, "samples", list, where, [])
    return Entity(
        key,
        tuple(values_of(sample, f"{where}: sample {number}") for number, sample in enumerate(samples, 1)),
        _values(given, "properties", where),
        _values(given, "variables", where),
    )


def _values(holder: Json, key: str, where: str) -> dict[str, Value]:
    return values_of(strict_json.get(holder, key, dict, where, {}), f"{where}: {key}")


def values_of(given: Json, where: str) -> dict[str, Value]:
    """The values of an object by their names. Raises ValueError, one line that begins with `where`."""
    if not isinstance(given, dict):
        raise ValueError(f"{where}: not an object")
    values: dict[str, Value] = {}
    for name, value in given.items():
        try:
            values[name] = decoded(value)
        except ValueError as error:
            raise ValueError(f"{where}: {quoted(name)}: {error}") from None
    return values


def decoded(value: Json, depth: int = 0) -> Value:
    """A value of the language from its JSON form. Raises ValueError, one line."""
    if isinstance(value, dict | list):
        if depth == LIST_DEPTH:
            raise ValueError(f"more than {LIST_DEPTH} lists inside each other")
        return [decoded(item, depth + 1) for item in value] if isinstance(value, list) else _object(value, depth)
    try:
        if isinstance(value, str):
            text(value)
        elif isinstance(value, int):
            integer(value)
    except PolicyError as error:
        raise ValueError(error.message) from None
    return value  # type: ignore[no-any-return]  # JSON has no other scalars


def _object(given: dict[str, Json], depth: int) -> Value:
    special = next((name for name in given if name.startswith("$")), None)
    members = given
    if special is not None:
        if special == "$float" and given[special] in ("inf", "-inf", "nan") and len(given) == 1:
            return float(given[special])
        members = given[special]
        if special != "$object" or not isinstance(members, dict) or len(given) > 1:
            raise ValueError(f"{quoted(special)}: only $float (inf, -inf or nan) and $object (an object) begin with '$'")
    return {name: decoded(item, depth + 1) for name, item in members.items()}


def schema_of(snapshot: Snapshot, known: Schema) -> Schema:
    """The names that policies may use on a snapshot: those of a configuration, and every field and property that it holds."""
    return Schema(_names([snapshot.host], known.host), _names(snapshot.guests, known.guest))


def _names(entities: Sequence[Entity], known: Names) -> Names:
    fields = frozenset(name for entity in entities for sample in entity.samples for name in sample)
    properties = frozenset(name for entity in entities for name in entity.properties)
    return Names(known.declared | fields, known.known | fields, known.controls, known.properties | properties)
