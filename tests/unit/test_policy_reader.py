# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are in a policy, and what reading it refuses."""

from __future__ import annotations

import pytest

from momservice.fields import Names, Schema
from momservice.policy import Diagnostic, Place, excerpt, load
from momservice.policy.tokens import TOKEN

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


def told(text: str) -> list[tuple[str, int, int]]:
    """What loading tells: code, line and column of each finding."""
    return [(found.code, found.place.line, found.place.column) for found in load({"a": text}, SCHEMA).diagnostics]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(+ 12b 007) (+ 1 y)", [("parse", 1, 4), ("parse", 1, 8), ("name", 1, 18)]),
        ("(+ größe 1)\n(- a..b)\n(* 2 z)", [("parse", 1, 6), ("parse", 2, 4), ("name", 3, 6)]),
        ("gr@ße", [("parse", 1, 3)]),
        (";; so (are) others' comments\n(+ 1 y)", [("parse", 1, 1), ("name", 2, 6)]),
        ("(+ 1 ; one\n y 2)\n(- 1 z)", [("parse", 1, 6), ("name", 3, 6)]),
        ("(+ 1; 2)\n(- 1 z)", [("parse", 1, 5), ("name", 2, 6)]),
        ("(+ 1 2])] }\n(- 1 z)", [("parse", 1, 7), ("name", 2, 6)]),
        ("(+ 1 2))\n y)\n(- 1 z)", [("parse", 1, 8), ("name", 3, 6)]),
        ("(def f (x)\n{\n (if x 1 2\n})\n(- 1 z)", [("parse", 4, 1), ("name", 5, 6)]),
        ("(defvar a (+ 1 2)\n(defvar b a)\n[defvar c (* a 2)\n(+ b z)", [("parse", 1, 1), ("parse", 3, 1), ("name", 4, 6)]),
        ("(+ 1 2\n(+ 12b 1)\n(- 1 z)", [("parse", 1, 1), ("parse", 2, 4), ("name", 3, 6)]),
        ("(" * 300 + ")" * 250 + "12b\n(- 1 z)", [("too-deep", 1, 201), ("parse", 1, 551), ("name", 2, 6)]),
        ("(debug 'open)\n(- 1 z)", [("parse", 1, 8), ("name", 2, 6)]),
        ("(debug 'open)\n(debug 'shut')\n(- 1 z)", [("parse", 1, 8), ("name", 3, 6)]),
        ("(debug 'open)\n(debug \"open)\n(- 1 z)", [("parse", 1, 8), ("parse", 2, 8), ("name", 3, 6)]),
        ("# \x00\n(+ \x00 1)\n(- 1 z)", [("parse", 1, 3), ("parse", 2, 4), ("name", 3, 6)]),
        (f"(+ 1 {2**256})\n(- 1 z)", [("value", 1, 6), ("name", 2, 6)]),
    ],
)
def test_reading_goes_on_after_a_fault(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    "binding",
    [
        "(defvar there 12b)",
        "(def there (x 007) x)",
        "(let ((there @)) 1)",
        "(defvar there 1",
        "(debug 'open)\n (defvar there 1)",
        "(}there)",
    ],
)
def test_a_name_that_may_be_bound_in_what_can_t_be_read_is_no_finding(binding: str) -> None:
    for use in ("(+ there 1)", "(there 1 2)", "(set there 1)", "(+ 1 there.name)"):
        assert [code for code, _, _ in told(f"{use}\n{binding}\n{use}")] == ["parse"], use


def test_a_name_from_a_fragment_with_faults_is_no_finding_in_another() -> None:
    found = load({"10": "(defvar there 12b)", "20": "(+ there nowhere)"}, SCHEMA).diagnostics
    assert [str(each.place) for each in found] == ["10:1:15", "20:1:10"]


@pytest.mark.parametrize("text", ["@ " * 1000, ")\n(" * 1000, "12b\n" * 1000, "(+ y 1)\n" * 1000, "(\n" * 1000, "\x00 " * 1000])
def test_no_more_than_a_hundred_findings_are_told(text: str) -> None:
    assert len(told(text)) == 100


def test_errors_are_told_before_warnings_and_all_in_the_order_of_their_places() -> None:
    text = "(defvar on 1)" + "(set on 0)" * 200 + "(+ y 1)" + "(set on 0)" * 200
    loaded = load({"b": text, "a": "(+ z 1)"}, SCHEMA)
    assert loaded.program is None
    assert [str(found.place) for found in loaded.diagnostics if found.severity == "error"] == ["a:1:4", "b:1:2017"]
    places = [(found.place.fragment, found.place.column) for found in loaded.diagnostics]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "text",
    [
        '\\"' * 50_000,
        '("\\"\n' * 20_000,
        '("x\n' * 20_001,
        "(]" * 50_000,
        "(" * 100_000,
        ")" * 100_000,
        "{" * 50_000 + "}" * 50_000,
        "(\n" * 50_000,
        "';" * 50_001,
        "; (" * 30_000,
        "1x" * 50_000,
        "\ud800(" * 50_000,
    ],
)
def test_reading_what_is_full_of_faults_takes_each_token_twice_at_most(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    match = TOKEN.re_match

    def counted(content: str, position: int) -> object:
        nonlocal seen
        found = match(content, position)
        # What it costs to match: the token, or what was looked through for the end of a string.
        seen += len(found.group()) if found else len(content) - position if content[position] in "\"'" else 1
        return found

    monkeypatch.setattr(TOKEN, "re_match", counted)
    assert load({"a": text}, SCHEMA).program is None
    assert seen <= 4 * len(text)
