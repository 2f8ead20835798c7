# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots, and values of the policy language, as JSON: what recorders write and snapshot_file reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from momservice.snapshot import Entity, Snapshot, Value
from momservice.strict_json import Json

FORMAT: Final = "mom-snapshot"
VERSION: Final = 1


def encoded(value: Value) -> Json:
    """The JSON form of a value; `decoded` gives the same value again (tuples as lists)."""
    match value:
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case list() | tuple():
            return [encoded(item) for item in value]
        case Mapping():
            members = {name: encoded(item) for name, item in value.items()}
            return {"$object": members} if any(name.startswith("$") for name in members) else members
        case _:
            return value


def write_snapshot(snapshot: Snapshot, *, continues: bool = False) -> str:
    """A snapshot as a document: one line of ASCII without its end. `parse_snapshot` gives an equal snapshot."""
    host = _plain(snapshot.host)
    del host["key"]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "taken_us": snapshot.taken_us,
        "host": host,
        "guests": [_plain(guest) for guest in snapshot.guests],
        "parameters": _encoded_values(snapshot.parameters),
        **({"continues": True} if continues else {}),
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _plain(entity: Entity) -> dict[str, Json]:
    return {
        "key": entity.key,
        "properties": _encoded_values(entity.properties),
        "samples": [_encoded_values(sample) for sample in entity.samples],
        "variables": _encoded_values(entity.variables),
    }


def _encoded_values(values: Mapping[str, Value]) -> dict[str, Json]:
    return {name: encoded(value) for name, value in values.items()}
