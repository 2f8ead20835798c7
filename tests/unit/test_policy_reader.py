# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are in a policy, and what reading it refuses."""

from __future__ import annotations

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, Place, excerpt, load

NOTHING = Names(frozenset(), frozenset(), frozenset(), frozenset())
SCHEMA = Schema(NOTHING, NOTHING)


def first_error(text: str, name: str = "a") -> Diagnostic:
    loaded = load({name: text}, SCHEMA)
    assert loaded.program is None
    return loaded.diagnostics[0]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("1 @ 2", 1, 3),
        ("# one\n# two\n  %", 3, 3),
        ('"a\nb\nc" ;', 3, 4),
        ("(+ 1\n   (* 2 3)", 1, 1),
        ("(+ 1\n   (* 2 3", 2, 4),
        ("(+ 1 2]", 1, 7),
        ("\n)", 2, 1),
        ("1 'open", 1, 3),
        ("1\t12b", 1, 3),
        ("\u00a0é", 1, 2),
        ("a..b", 1, 1),
        ("1.5.25", 1, 1),
        ("(- -0x10 1)", 1, 4),
        ("#\x00", 1, 2),
        ("'\ud800'", 1, 2),
    ],
)
def test_a_parse_error_names_line_and_column(text: str, line: int, column: int) -> None:
    error = first_error(text)
    assert (error.code, error.place) == ("parse", Place("a", line, column))


def test_an_error_names_its_fragment_and_every_broken_fragment_is_told() -> None:
    loaded = load({"20_b": "1\n (", "10_a": "1 @", "30_c": "1"}, SCHEMA)
    assert [str(error.place) for error in loaded.diagnostics] == ["10_a:1:3", "20_b:2:2"]


def test_carriage_returns_and_missing_final_newlines_between_fragments_do_no_harm() -> None:
    assert first_error("1\r\n2\r\n?").place == Place("a", 3, 1)
    assert load({"a": "1 # comment", "b": "2"}, SCHEMA).program is not None


def test_brackets_nest_to_200_and_no_deeper() -> None:
    assert load({"a": "{" * 200 + "}" * 200}, SCHEMA).program is not None
    error = first_error("{" * 201 + "}" * 201)
    assert (error.code, error.place) == ("too-deep", Place("a", 1, 201))


def test_the_text_limit_counts_bytes_of_all_fragments() -> None:
    assert load({"a": "#" * 50, "b": "#" * 50}, SCHEMA, 100).program is not None
    assert load({"a": "#" * 50, "b": "#é" * 25}, SCHEMA, 100).diagnostics[0].code == "limit"
    assert load({"a": " " * 1024 * 1024}, SCHEMA).program is not None
    assert load({"a": " " * (1024 * 1024 + 1)}, SCHEMA).diagnostics[0].code == "limit"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (str(2**256 - 1), str(2**256)),
        (hex(2**256 - 1), hex(2**256)),
        (str(1 - 2**256), str(-(2**256))),
        ("'" + "a" * 65536 + "'", "'" + "a" * 65537 + "'"),
        ("'" + "é" * 32768 + "'", "'" + "é" * 32769 + "'"),
    ],
    ids=["integer", "hex", "negative", "string", "string in bytes"],
)
def test_literals_have_limits(good: str, bad: str) -> None:
    assert load({"a": good}, SCHEMA).program is not None
    assert first_error(bad).code == "value"


def test_an_excerpt_puts_the_caret_below_the_character() -> None:
    text = "1\n\t(+\t1 @)\n2"
    line, caret = excerpt(first_error(text), text).split("\n")
    assert (line, caret) == (" (+ 1 @)", "      ^")


def test_an_excerpt_of_an_endless_line_is_short() -> None:
    text = "1 " * 5000 + "@" + " 1" * 5000
    line, caret = excerpt(first_error(text), text).split("\n")
    assert len(line) <= 100
    assert line[caret.index("^")] == "@"
