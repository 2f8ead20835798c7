# SPDX-License-Identifier: GPL-2.0-or-later
"""Text to tree: tokens by pyparsing, brackets by a stack of our own, so that neither length nor depth can hurt."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import pyparsing as pp

from momservice.policy.decisions import Diagnostic, Place
from momservice.policy.values import INTEGER_BITS, PolicyError, integer, text

NESTING: Final = 200
# No integer of 256 bits is longer, in any base but octal; longer literals are never converted (Python's cost is quadratic).
_DIGITS: Final = 100

_KINDS: Final = {
    "open": r"[(\[{]",
    "close": r"[)\]}]",
    "string": r""""[^"\\]*+(?:\\.[^"\\]*+)*"|'[^'\\]*+(?:\\.[^'\\]*+)*'""",
    "hex": r"0[xX][0-9a-fA-F]++(?![A-Za-z0-9_.])",
    "octal": r"0o[0-7]++(?![A-Za-z0-9_.])",
    "float": r"-?(?:[0-9]*+\.[0-9]++(?:[eE][+-]?[0-9]++)?|(?:0|[1-9][0-9]*+)[eE][+-]?[0-9]++)(?![A-Za-z0-9_.])",
    "integer": r"-?(?:0|[1-9][0-9]*+)(?![A-Za-z0-9_.])",
    "symbol": r"[A-Za-z_][A-Za-z0-9_.-]*+",
    # A minus directly before a digit or a fraction belongs to a number: were it a good one, it would have matched above.
    "operator": r"<<|>>|<=|>=|==|!=|-(?!\.?[0-9])|[+*/<>]",
}
# Runs of characters are possessive: reading is linear in the text, also where it fails. (Groups aren't: early Python 3.11 matches
# possessive ones wrongly.)
_TOKEN: Final = pp.Regex("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), flags=re.DOTALL)
_SPACE: Final = pp.Regex(r"(?:\s++|#[^\n]*+)*")
_BAD_NUMBER: Final = pp.Regex(r"-?\.?[0-9]")
_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}
_BAD_CHARACTER: Final = re.compile(r"[\x00\ud800-\udfff]")

AtomKind: TypeAlias = Literal["literal", "symbol", "operator"]


@dataclass(frozen=True, slots=True)
class Atom:
    """A literal (`value`), a symbol or an operator (`name`). `start` is its offset in the fragment."""

    kind: AtomKind
    start: int
    name: str = ""
    value: int | float | str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A bracketed list; `bracket` is its opening bracket, `start` the bracket's offset in the fragment."""

    bracket: str
    start: int
    items: list[Node] = field(default_factory=list)


Node: TypeAlias = Atom | Group


class Source:
    """One fragment: its name, its text and where its lines begin. `base`: length of all fragments before it."""

    def __init__(self, name: str, content: str, base: int = 0) -> None:
        self.name = name
        self.content = content
        self.base = base
        self._starts = [0, *(match.end() for match in re.finditer("\n", content))]

    def place(self, start: int) -> Place:
        """The place of an offset."""
        line = bisect_right(self._starts, start)
        return Place(self.name, line, start - self._starts[line - 1] + 1)


class _Unreadable(Exception):
    def __init__(self, start: int, message: str, code: str = "parse", hint: str = "") -> None:
        super().__init__(message)
        self.start, self.message, self.code, self.hint = start, message, code, hint


def read(source: Source) -> tuple[Sequence[Node], Diagnostic | None]:
    """The values of a fragment in order; with a diagnostic, what comes before the fault."""
    forms: list[Node] = []
    try:
        _read_into(forms, source.content)
    except _Unreadable as fault:
        return forms, Diagnostic("error", fault.code, source.place(fault.start), fault.message, fault.hint)
    return forms, None


def _read_into(forms: list[Node], content: str) -> None:
    if bad := _BAD_CHARACTER.search(content):
        raise _Unreadable(bad.start(), "not a character that text may hold")
    open_groups: list[Group] = []
    here = forms
    space, token = _SPACE.re_match, _TOKEN.re_match
    position = space(content, 0).end()
    while position < len(content):
        match = token(content, position)
        if match is None:
            raise _no_token(content, position)
        kind, word = match.lastgroup, match.group()
        if kind == "open":
            if len(open_groups) == NESTING:
                raise _Unreadable(position, f"brackets are nested more than {NESTING} deep", "too-deep")
            group = Group(word, position)
            here.append(group)
            open_groups.append(group)
            here = group.items
        elif kind == "close":
            here = _close(open_groups, word, position, forms)
        else:
            here.append(_atom(kind, word, position))
        position = space(content, match.end()).end()
    if open_groups:
        unclosed = open_groups[-1]
        raise _Unreadable(unclosed.start, f"'{unclosed.bracket}' is never closed", hint=f"'{_CLOSES[unclosed.bracket]}' is missing")


def _close(open_groups: list[Group], word: str, position: int, forms: list[Node]) -> list[Node]:
    """Ends the innermost group; gives the list that goes on."""
    if not open_groups:
        raise _Unreadable(position, f"'{word}' closes nothing")
    wanted = _CLOSES[open_groups[-1].bracket]
    if word != wanted:
        raise _Unreadable(position, f"'{word}' where '{wanted}' was expected")
    open_groups.pop()
    return open_groups[-1].items if open_groups else forms


def _atom(kind: str | None, word: str, start: int) -> Atom:
    if kind == "symbol":
        if word.endswith(".") or ".." in word:
            raise _Unreadable(start, "a name neither ends in '.' nor holds '..'")
        return Atom("literal", start) if word == "nil" else Atom("symbol", start, word)
    if kind == "operator":
        return Atom("operator", start, word)
    try:
        return Atom("literal", start, value=_value(kind, word))
    except PolicyError as error:
        raise _Unreadable(start, error.message, error.code) from None


def _value(kind: str | None, word: str) -> int | float | str:
    if kind == "string":
        return text(word[1:-1])
    if kind == "float":
        return float(word)
    digits = word[2:].lstrip("0") if kind in ("hex", "octal") else word
    if len(digits) > _DIGITS:
        raise PolicyError("value", f"an integer of more than {INTEGER_BITS} bits")
    return integer(int(digits or "0", {"hex": 16, "octal": 8}.get(kind or "", 10)))


def _no_token(content: str, position: int) -> _Unreadable:
    """Says what is wrong where no token begins."""
    character = content[position]
    if character in "\"'":
        return _Unreadable(position, "the string is never closed", hint=f"{character} is missing")
    if _BAD_NUMBER.re_match(content, position):
        return _Unreadable(position, "not a number", hint="a letter, digit, '_' or '.' directly after a number isn't part of it")
    shown = repr(character) if character.isprintable() else f"U+{ord(character):04X}"
    hint = {"=": "'==' compares, 'set' assigns", ";": "comments begin with '#'", ",": "values are separated by space"}.get(character, "")
    return _Unreadable(position, f"unknown character {shown}", hint=hint)
