# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of the policy language as D-Bus variants, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from momservice.bus.connection import Variant, clean
from momservice.errors import InvalidArgs
from momservice.snapshot import Value

# What a parameter may be.
Scalar: TypeAlias = bool | int | float | str
INT64 = range(-(2**63), 2**63)
INTEGERS = frozenset("ynqiuxt")


def to_variant(value: Value) -> Variant:
    """One value that isn't nil: int `x` (beyond 64 bits `d`), float `d`, bool `b`, text `s`. Raises TypeError for what has no form here."""
    match value:
        case bool():
            return Variant("b", value)
        case int():
            return Variant("x", value) if value in INT64 else Variant("d", float(value))
        case float():
            return Variant("d", value)
        case str():
            return Variant("s", clean(value))
        case _:
            raise TypeError(f"a {type(value).__name__} has no form on the bus")


def to_data(value: Value) -> Variant:
    """As `to_variant`, and lists as `av` or `aa{sv}`, objects as `a{sv}` without nil. Raises TypeError for nil in a list."""
    if isinstance(value, Mapping):
        return Variant("a{sv}", _members(value))
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return Variant("aa{sv}", [_members(item) for item in value])
        return Variant("av", [to_data(item) for item in value])
    return to_variant(value)


def _members(value: Mapping[str, Value]) -> dict[str, Variant]:
    return {name: to_data(member) for name, member in value.items() if member is not None}


def to_variants(values: Mapping[str, Value]) -> dict[str, Variant]:
    """A dictionary `a{sv}`; nil values are left out."""
    return {name: to_variant(value) for name, value in values.items() if value is not None}


def carried(text: str) -> str:
    """The text, if D-Bus can carry it; the bus would end our connection for any other. Raises InvalidArgs."""
    if clean(text) != text:
        raise InvalidArgs("a text with NUL or half a surrogate pair can't be sent")
    return text


def sendable(values: Mapping[str, Scalar]) -> dict[str, Variant]:
    """A client's parameters as `a{sv}`. Raises InvalidArgs for what is no parameter or D-Bus can't carry."""
    return dict(_sendable(name, value) for name, value in values.items())


def _sendable(name: str, value: Scalar) -> tuple[str, Variant]:
    if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
        raise InvalidArgs(f"parameter {name}: a {type(value).__name__} is none of string, number, boolean")
    try:
        return carried(name), to_variant(carried(value) if isinstance(value, str) else value)
    except OverflowError:
        raise InvalidArgs(f"parameter {name}: the number is too large to be sent") from None


def from_variant(name: str, variant: Variant) -> Scalar:
    """The value of the parameter `name` from a client: any D-Bus integer, `d`, `b` or `s`. Raises InvalidArgs for others, inf and NaN."""
    value = variant.value
    match variant.signature:
        case "d" if not math.isfinite(value):
            raise InvalidArgs(f"parameter {name}: {value} is not a finite number")
        case "b" | "d" | "s":
            assert isinstance(value, bool | float | str)
            return value
        case integer if integer in INTEGERS:
            return int(value)
        case other:
            raise InvalidArgs(f"parameter {name}: D-Bus type '{other}' is none of integer, 'd', 'b', 's'")


def plain(variants: Mapping[str, Variant]) -> dict[str, Value]:
    """An `a{sv}` of the service as plain values."""
    return {name: variant.value for name, variant in variants.items()}
