# SPDX-License-Identifier: GPL-2.0-or-later
"""The lexical rules: what a token is, what it is worth, and what is wrong where none begins."""

from __future__ import annotations

import re
from typing import Final

import pyparsing as pp

from momservice.policy.values import INTEGER_BITS, PolicyError, integer, text

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
TOKEN: Final = pp.Regex("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), flags=re.DOTALL)
SPACE: Final = pp.Regex(r"(?:\s++|#[^\n]*+)*")
SYMBOL: Final = re.compile(_KINDS["symbol"])
QUOTES: Final = frozenset("\"'")
# What no text holds, not even in a comment.
BAD_CHARACTERS: Final = re.compile(r"[\x00\ud800-\udfff]++")
_BAD_NUMBER: Final = re.compile(r"-?\.?[0-9]")
_WORD: Final = re.compile(r"""[^\s()\[\]{}"'#]++""")
_REST_OF_LINE: Final = re.compile(r"[^\n]*+")


class Fault(Exception):
    """What is wrong with the text at an offset; `end` is where reading goes on."""

    def __init__(self, start: int, message: str, code: str = "parse", hint: str = "", end: int = 0) -> None:
        super().__init__(message)
        self.start, self.message, self.code, self.hint, self.end = start, message, code, hint, end


def symbol(word: str, start: int) -> str:
    """The name that a symbol is. Raises Fault."""
    if word.endswith(".") or ".." in word:
        raise Fault(start, "a name neither ends in '.' nor holds '..'")
    return word


def literal(kind: str | None, word: str, start: int) -> int | float | str:
    """The value of a literal. Raises Fault where it is beyond a limit."""
    try:
        return _value(kind, word)
    except PolicyError as error:
        raise Fault(start, error.message, error.code) from None


def _value(kind: str | None, word: str) -> int | float | str:
    if kind == "string":
        return text(word[1:-1])
    if kind == "float":
        return float(word)
    digits = word[2:].lstrip("0") if kind in ("hex", "octal") else word
    if len(digits) > _DIGITS:
        raise PolicyError("value", f"an integer of more than {INTEGER_BITS} bits")
    return integer(int(digits or "0", {"hex": 16, "octal": 8}.get(kind or "", 10)))


def no_token(content: str, start: int, *, inside: bool) -> Fault:
    """What is wrong where no token and no string begins. `inside`: within brackets."""
    word = _WORD.match(content, start)
    end = word.end() if word else start + 1
    if _BAD_NUMBER.match(content, start):
        return Fault(start, "not a number", hint="a letter, digit, '_' or '.' directly after a number isn't part of it", end=end)
    character = content[start]
    shown = repr(character) if character.isprintable() else f"U+{ord(character):04X}"
    hint = {"=": "'==' compares, 'set' assigns", ";": "comments begin with '#'", ",": "values are separated by space"}.get(character, "")
    if character == ";":
        end = _end_of_comment(content, start, end, inside=inside)
    return Fault(start, f"unknown character {shown}", hint=hint, end=end)


def _end_of_comment(content: str, start: int, end: int, *, inside: bool) -> int:
    """Where a comment that another language's sign begins ends, if it is one: no brackets are lost with it."""
    rest = _REST_OF_LINE.match(content, start)
    if rest is None or (inside and any(bracket in rest.group() for bracket in "()[]{}")):
        return end
    return rest.end()
