# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations, decisions and findings as a client makes them of what the service answers; momservice.bus.reports is the other side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from momservice.bus.connection import Variant
from momservice.bus.variants import plain
from momservice.decisions import Call, Diagnostic, Place, Read, Wanted
from momservice.explained import Explanation


def to_diagnostic(found: Mapping[str, Variant]) -> Diagnostic:
    """A finding from the bus."""
    row = plain(found)
    place = Place(row["fragment"], row["line"], row["column"])  # type: ignore[arg-type]  # typed by the XML
    return Diagnostic(row["severity"], row["code"], place, row["message"], row["hint"])  # type: ignore[arg-type]  # as above


def to_wanted(decision: Mapping[str, Variant]) -> Wanted:
    """A control from the bus."""
    row: Mapping[str, Any] = plain(decision)
    place = Place(row["fragment"], row["line"], row["column"])
    return Wanted(row["entity"], row["control"], row.get("value"), place, _called(row), row.get("item", ""))


def to_explanation(told: Mapping[str, Variant]) -> Explanation:
    """A row from the bus."""
    row: Mapping[str, Any] = plain(told)
    return Explanation(
        row["run"],
        row["time"],
        row["generation"],
        row["kind"],
        Place(row["fragment"], row["line"], row["column"]) if "fragment" in row else None,
        row.get("text", ""),
        _called(row),
        row.get("control", ""),
        row.get("item", ""),
        row.get("wanted"),
        row.get("applied"),
        row.get("status", ""),
        row.get("reason", ""),
        tuple(_to_read(plain(given)) for given in row.get("inputs", ())),
        row.get("inputs-left-out", 0),
        row.get("code", ""),
        row.get("message", ""),
        row.get("more", 0),
    )


def _to_read(row: Mapping[str, Any]) -> Read:
    return Read(row["entity"], row["kind"], row["name"], row.get("value"))


def _called(row: Mapping[str, Any]) -> tuple[Call, ...]:
    return tuple(Call(function, Place(*place)) for function, *place in row.get("calls", ()))
