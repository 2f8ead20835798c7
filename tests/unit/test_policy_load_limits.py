# SPDX-License-Identifier: GPL-2.0-or-later
"""What loading refuses for its size, at the limit and beyond, and that what it costs grows no faster than the text."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from momservice.bus.names import TEXT_BYTES
from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, evaluate, load
from momservice.policy.reader import NESTING
from momservice.policy.values import INTEGER_BITS, STRING_BYTES
from momservice.snapshot import Snapshot

NOTHING = Names(frozenset(), frozenset(), frozenset(), frozenset())
SCHEMA = Schema(NOTHING, NOTHING)
LARGEST = 2**INTEGER_BITS - 1
MB = 1_000_000


def findings(text: str, limit_bytes: int = TEXT_BYTES) -> list[Diagnostic]:
    return list(load({"a": text}, SCHEMA, limit_bytes).diagnostics)


def nested(depth: int, begin: str, inner: str, end: str) -> str:
    return begin * depth + inner + end * depth


@pytest.mark.parametrize(
    ("good", "bad", "code", "column"),
    [
        (nested(NESTING, "{", "", "}"), nested(NESTING + 1, "{", "", "}"), "too-deep", NESTING + 1),
        (nested(NESTING, "(abs ", "1", ")"), nested(NESTING + 1, "(abs ", "1", ")"), "too-deep", 5 * NESTING + 1),
        (str(LARGEST), str(LARGEST + 1), "value", 1),
        (str(-LARGEST), str(-LARGEST - 1), "value", 1),
        (hex(LARGEST), hex(LARGEST + 1), "value", 1),
        (oct(LARGEST), oct(LARGEST + 1), "value", 1),
        ("0x" + "0" * 1000 + "1", "0x" + "0" * 1000 + hex(LARGEST + 1)[2:], "value", 1),
        ('"' + "a" * STRING_BYTES + '"', '"' + "a" * (STRING_BYTES + 1) + '"', "value", 1),
        ("'" + "é" * (STRING_BYTES // 2) + "'", "'" + "é" * (STRING_BYTES // 2) + "a'", "value", 1),
        ("'" + "\\'" * (STRING_BYTES // 2) + "'", "'" + "\\'" * (STRING_BYTES // 2) + "a'", "value", 1),
        ("#" * TEXT_BYTES, "#" * (TEXT_BYTES + 1), "limit", 1),
        ("#" + "é" * (TEXT_BYTES // 2 - 1) + "a", "#" + "é" * (TEXT_BYTES // 2) + "a", "limit", 1),
    ],
    ids=["brackets", "forms", "integer", "negative", "hex", "octal", "zeros", "string", "wide string", "escapes", "text", "wide text"],
)
def test_what_is_at_a_limit_loads_and_what_is_beyond_is_told(good: str, bad: str, code: str, column: int) -> None:
    assert findings(good) == []
    assert [(found.code, found.severity, found.place.column) for found in findings(bad)] == [(code, "error", column)]


def test_a_text_too_long_is_told_once_and_not_read() -> None:
    found = load({"b": ")" * TEXT_BYTES, "a": "("}, SCHEMA).diagnostics
    assert [(each.code, each.place.fragment) for each in found] == [("limit", "b")]


def test_a_policy_may_have_as_many_forms_as_its_text_holds() -> None:
    for forms in (986, 987, 988, 100_000):
        loaded = load({"a": "(+ 1 2)\n" * forms}, SCHEMA)
        assert loaded.program is not None
        assert evaluate(loaded.program, Snapshot()).results == [3] * forms


def test_a_form_may_be_as_long_as_the_text() -> None:
    for text in ("(max " + "1 " * 400_000 + ")", "{" + "1 " * 400_000 + "}", "(debug '" + "' '" * 300_000 + "')"):
        assert load({"a": text}, SCHEMA).program is not None


def calls(text: str) -> int:
    """How many Python and C functions loading a text calls: its work, but for what single ones do."""
    count = 0

    def counted(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        load({"a": text}, SCHEMA, 1 << 30)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "literal",
    ["{}", "-{}", "0x{}", "0o{}", "{}.5", ".{}", "{}e5", "1e{}", "'{}'", '"{}"', "a{}", "# {}", "{}x", "'{}", "?{}"],
)
def test_a_literal_of_ten_megabytes_costs_no_more_work_than_a_short_one(literal: str) -> None:
    # Python converts no decimal number of this length, so one that were converted would raise.
    short, long = literal.format("1" * 1000), literal.format("1" * 10 * MB)
    assert calls(long) <= calls(short) + 20
    assert [found.code for found in findings(long)] == ["limit"]


@pytest.mark.parametrize(
    "unit",
    [
        "1 ",
        "(+ 1 2) ",
        "(defvar a 1) ",
        "(set nowhere 1) ",
        "(nowhere 1) ",
        "(def f (a) (f a)) ",
        "(let ((a 1) (b a)) {a b}) ",
        "(with Guests g (if (valid g) (g.Control 'c' 1) nil)) ",
        "{{{{{{{{}}}}}}}} ",
        "(or 0 1 (== 1 'a')) ",
        "'a' ",
        "12b ",
        "(defvr a (b)) ",
        "\n(a (b",
        ")",
        "\n(]",
    ],
)
def test_work_is_linear_in_the_text(unit: str) -> None:
    # Names that are known or not, hints and findings are bounded: beyond those, twice the text is twice the work.
    once, twice = calls(unit * 1000), calls(unit * 2000)
    assert twice <= 2.1 * once
