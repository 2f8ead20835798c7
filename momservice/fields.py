# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy can read and set: the shapes of the tables that collectors and controllers declare.

A collector declares its fields and a controller its controls in a table of these; the load checks, the boundary checks and the reference
pages derive from the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

EntityKind = Literal["host", "guest"]
FieldType = Literal["int", "float", "bool", "str", "list"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an entity, as a policy names it.

    `unit` is text for people ("KiB", "%", "pages", "" for a plain count); `doc` says the source.
    """

    name: str
    type: FieldType
    unit: str
    doc: str


@dataclass(frozen=True, slots=True)
class Control:
    """One control of an entity. `minimum` and `maximum` bound what is sent after rounding down; beyond them a value is clamped."""

    name: str
    entity: EntityKind
    unit: str
    minimum: int
    maximum: int
    doc: str
    # Values below `minimum` that mean something of their own (vcpu_quota's -1: no limit).
    also: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one kind of entity.

    `declared`: fields of the configured collectors; `known`: those of every collector there is (superset of `declared`): a known field
    that isn't declared is nil with a warning at load, any other is an error.
    """

    declared: frozenset[str]
    known: frozenset[str]
    controls: frozenset[str]
    properties: frozenset[str]


NO_NAMES = Names(frozenset(), frozenset(), frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class Schema:
    """All names a policy may use, by kind of entity."""

    host: Names = NO_NAMES
    guest: Names = NO_NAMES


# Name and meaning.
HOST_PROPERTIES: Mapping[str, str] = {"interval": "how often the policy runs, in seconds"}
GUEST_PROPERTIES: Mapping[str, str] = {"name": "the domain's name", "uuid": "the domain's UUID, in lower case"}


def names(declared: Iterable[Field], known: Iterable[Field], controls: Iterable[Control], properties: Iterable[str]) -> Names:
    """The names in the tables of one kind of entity."""
    here = frozenset(f.name for f in declared)
    return Names(here, here | {f.name for f in known}, frozenset(c.name for c in controls), frozenset(properties))
