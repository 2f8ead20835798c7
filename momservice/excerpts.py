# SPDX-License-Identifier: GPL-2.0-or-later
"""The line of a policy that a finding points at, with a caret."""

from __future__ import annotations

import unicodedata
from typing import Final

from momservice.decisions import Diagnostic, Failure

# How many columns of a terminal are shown, and how many at most before the caret.
_COLUMNS: Final = 100
_BEFORE: Final = 60


def excerpt(finding: Diagnostic | Failure, text: str) -> str:
    """The line of the fragment's text that a finding points at, and a line with a caret below it: at most 100 columns each.

    Tabs and what can't be printed show as one space, so that the caret stands below its character. Wide characters count twice, and
    combining ones not at all, as terminals show them.
    """
    lines = text.split("\n")
    line = lines[finding.place.line - 1] if finding.place.line <= len(lines) else ""
    column = finding.place.column - 1
    before = _fitting(line[max(0, column - _BEFORE) : column][::-1], _BEFORE)[::-1]
    after = _fitting(line[column : column + _COLUMNS], _COLUMNS - _width(before))
    return f"{_printable(before + after).rstrip()}\n{' ' * _width(before)}^"


def _fitting(part: str, columns: int) -> str:
    """The beginning of a text that fits into so many columns."""
    used = 0
    for index, character in enumerate(part):
        used += _width(character)
        if used > columns:
            return part[:index]
    return part


def _width(part: str) -> int:
    return sum(map(_width_of, _printable(part)))


def _width_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(part: str) -> str:
    return "".join(character if character.isprintable() else " " for character in part)
