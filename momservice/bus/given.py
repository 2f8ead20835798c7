# SPDX-License-Identifier: GPL-2.0-or-later
"""A world that a caller thought up, from the arguments of `Evaluate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from momservice.bus.connection import Variant
from momservice.bus.names import UUID
from momservice.bus.variants import INTEGERS
from momservice.errors import InvalidArgs, LimitsExceeded
from momservice.fields import GUEST_PROPERTIES, HOST_PROPERTIES, Names, Schema
from momservice.policy.values import LIST_DEPTH, PolicyError, text
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value
from momservice.text import shown

MAX_GUESTS: Final = 5000
MAX_HISTORY: Final = 1000
# Values of the whole world: beyond what a message can carry of real figures.
MAX_VALUES: Final = 500_000
# Beside fields and properties; the last is the host's alone.
HISTORY, PROPERTIES, VARIABLES, PARAMETERS = "@history", "@props", "@vars", "@parameters"
# What the host has when nothing else is said.
INTERVAL_S: Final = 5

Given = Mapping[str, Variant]


def given_world(host: Given, guests: Sequence[Given], schema: Schema) -> Snapshot:
    """The snapshot. `schema`: the names that there are. Raises InvalidArgs and LimitsExceeded, one line that says what is wrong where."""
    if len(guests) > MAX_GUESTS:
        raise LimitsExceeded(f"{len(guests)} guests: at most {MAX_GUESTS} are allowed")
    reader = _Reader()
    parameters = reader.named(host, PARAMETERS, "the host")
    rest = {name: variant for name, variant in host.items() if name != PARAMETERS}
    the_host = reader.entity(HOST, rest, "the host", {"interval": INTERVAL_S}, HOST_PROPERTIES, schema.host)
    found: dict[str, Entity] = {}
    for number, guest in enumerate(guests, 1):
        where = f"guest {number}"
        key = _uuid(guest, number, where)
        if key in found:
            raise InvalidArgs(f"{where}: another guest has the UUID {key}")
        found[key] = reader.entity(key, guest, where, {"name": f"vm{number}", "uuid": key}, GUEST_PROPERTIES, schema.guest)
    return Snapshot(the_host, list(found.values()), parameters)


def _uuid(guest: Given, number: int, where: str) -> str:
    variant = guest.get("uuid")
    if variant is None:
        return f"00000000-0000-0000-0000-{number:012d}"
    if variant.signature != "s" or not UUID.fullmatch(variant.value):
        raise InvalidArgs(f"{where}: 'uuid' is not a UUID in lower case")
    return str(variant.value)


class _Reader:
    """Reads values, and counts them."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def entity(
        self, key: str, given: Given, where: str, defaults: Sample, properties: Mapping[str, str], names: Names
    ) -> Entity:  # fmt: skip
        """The host or a guest."""
        for name in given:
            if name.startswith("@") and name not in (HISTORY, PROPERTIES, VARIABLES):
                raise InvalidArgs(f"{where}: there is no '{shown(name, 60)}'")
        newest = {name: variant for name, variant in given.items() if not name.startswith("@") and name not in properties}
        own = {name: variant for name, variant in given.items() if name in properties}
        older = self._typed(given, HISTORY, "aa{sv}", where, ())
        if len(older) >= MAX_HISTORY:
            raise LimitsExceeded(f"{where}: {len(older)} older samples: at most {MAX_HISTORY - 1} are allowed")
        return Entity(
            key,
            tuple(self._sample(sample, where, names) for sample in (*older, newest)),
            {**defaults, **self.values(own, where), **self.named(given, PROPERTIES, where)},
            self.named(given, VARIABLES, where),
        )

    def _sample(self, given: Given, where: str, names: Names) -> Sample:
        unknown = sorted(given.keys() - names.known)
        if unknown:
            raise InvalidArgs(f"{where}: there is no field '{shown(unknown[0], 60)}'")
        return self.values(given, where)

    def named(self, given: Given, key: str, where: str) -> Sample:
        """The values under one of the special keys."""
        return self.values(self._typed(given, key, "a{sv}", where, {}), f"{where}: {key}")

    @staticmethod
    def _typed(given: Given, key: str, signature: str, where: str, default: Any) -> Any:
        if key not in given or not given[key].value:
            return default
        if given[key].signature != signature:
            raise InvalidArgs(f"{where}: '{key}' is of D-Bus type '{shown(given[key].signature, 20)}', not '{signature}'")
        return given[key].value

    def values(self, given: Given, where: str) -> dict[str, Value]:
        """Values by name."""
        read: dict[str, Value] = {}
        for name, variant in given.items():
            try:
                read[name] = self._value(variant.signature, variant.value, 0)
            except PolicyError as error:
                raise InvalidArgs(f"{where}: '{shown(name, 60)}': {error.message}") from None
        return read

    def _value(self, signature: str, value: Any, depth: int) -> Value:
        """One value by its D-Bus type. Raises PolicyError for what the language has no type for, LimitsExceeded for too many."""
        self._left -= 1
        if self._left < 0:
            raise LimitsExceeded(f"more than {MAX_VALUES} values")
        if depth > LIST_DEPTH:
            raise PolicyError("value", f"more than {LIST_DEPTH} lists inside each other")
        if signature == "v":
            return self._value(value.signature, value.value, depth)
        if signature == "a{sv}":
            return {name: self._value("v", member, depth + 1) for name, member in value.items()}
        if signature.startswith("a") and not signature.startswith(("a{", "a(", "ay")):
            return [self._value(signature[1:], item, depth + 1) for item in value]
        return _scalar(signature, value)


def _scalar(signature: str, value: Any) -> Value:
    if signature in INTEGERS:
        return int(value)
    if signature == "d" and math.isfinite(value):
        return float(value)
    if signature == "b":
        return bool(value)
    if signature == "s":
        return text(str(value))
    what = f"{value} is not a finite number" if signature == "d" else f"a value of D-Bus type '{shown(signature, 20)}' can't be given"
    raise PolicyError("value", what)
