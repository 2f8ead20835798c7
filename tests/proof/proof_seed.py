# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of 2011 in tokens and top-level forms, cut by means of its own: what reads policies is under test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

TEXT: Final = (Path(__file__).parents[1] / "data" / "mom.policy").read_text(encoding="utf-8")
_TOKEN: Final = re.compile(r"""#[^\n]*|[(){}\[\]]|"[^"]*"|[^\s(){}\[\]"#]+""")

_WORD: Final = re.compile(r"\(?\s*([\w.-]+)")


@dataclass(frozen=True)
class Token:
    """A token: where it begins and ends, and the number of the top-level form that it is in."""

    start: int
    end: int
    form: int

    @property
    def text(self) -> str:
        """Its characters."""
        return TEXT[self.start : self.end]


def _tokens() -> Sequence[Token]:
    found: list[Token] = []
    depth = form = 0
    for match in _TOKEN.finditer(TEXT):
        word = match.group()
        if word.startswith("#"):
            continue
        found.append(Token(match.start(), match.end(), form))
        depth += (word in "([{") - (word in ")]}")
        form += depth == 0
    return found


TOKENS: Final = _tokens()


@dataclass(frozen=True)
class Mutant:
    """A changed text. The forms that were changed lie between the offsets `first` and `last`; `names` is what they bound."""

    text: str
    first: int
    last: int
    names: frozenset[str]

    def offset(self, line: int, column: int) -> int:
        """The offset of a place."""
        lines = self.text.split("\n")
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1
        return sum(map(len, lines[: line - 1])) + line - 1 + column - 1

    def called(self, offset: int) -> set[str]:
        """The token at an offset, and the name that is called by the list that it begins or is in."""
        depth, before = 0, offset
        while before > 0 and depth <= 0:
            before -= 1
            depth += (self.text[before] in "([") - (self.text[before] in ")]")
        words = (_WORD.match(self.text, place) for place in (offset, before))
        return {word.group(1).split(".")[0] for word in words if word}


def mutant(place: int, kind: str) -> Mutant:
    """The text with a token deleted, swapped with the next one or duplicated."""
    token, after = TOKENS[place], TOKENS[min(place + 1, len(TOKENS) - 1)]
    if kind == "delete":
        text = TEXT[: token.start] + TEXT[token.end :]
    elif kind == "duplicate":
        text = f"{TEXT[: token.end]} {token.text}{TEXT[token.end :]}"
    else:
        text = TEXT[: token.start] + after.text + TEXT[token.end : after.start] + token.text + TEXT[after.end :]
    forms = (token.form, after.form if kind == "swap" else token.form)
    inside = [other for other in TOKENS if other.form in forms]
    bound = frozenset(name.text for form, name in pairwise(inside) if form.text in ("defvar", "def"))
    return Mutant(text, inside[0].start, inside[-1].end + len(text) - len(TEXT), bound)
