# SPDX-License-Identifier: GPL-2.0-or-later
"""The formatter: the same tokens and comments in the same order, with spaces and line breaks as the house has them.

Line breaks of the author stay; those that a line of over 100 columns needs are added. What follows the head of a form on lines of its own
is indented by 4, operands of an operator stand below each other, and so do the bindings of `let`. A block that isn't on one line has its
values on lines of their own. Several blank lines become one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from momservice.policy.forms import FORMS
from momservice.policy.tokens import SPACE, TOKEN

WIDTH: Final = 100
STEP: Final = 4
# Nothing is indented further, so that the text stays small however deep it nests.
DEEPEST: Final = 60
# How many values of a form stay on its first line when it is broken; of others it is the head and the first operand.
_HEADERS: Final = {"def": 3, "defun": 3, "with": 3, "eval": 1}
_BODIES: Final = frozenset({"def", "defun", "defvar", "set", "setq", "let", "if", "with", "eval"})
_FUNCTIONS: Final = frozenset({"def", "defun"})
_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(slots=True)
class _Gap:
    """What stands between two tokens: a comment behind the first, lines of comments ("" for a blank one), and whether a line ends."""

    tail: str = ""
    lines: Sequence[str] = ()
    broken: bool = False

    @property
    def comments(self) -> bool:
        return bool(self.tail) or any(self.lines)


@dataclass(slots=True)
class _Item:
    """A token, or a group with its values.

    `whole`: nothing forbids to have it on one line; `flat`: its text there, "" for a group that is too wide for any.
    """

    gap: _Gap
    text: str
    whole: bool
    flat: str
    items: list[_Item] | None = None
    end: _Gap = field(default_factory=_Gap)


def formatted(content: str) -> str:
    """The text of a policy, formatted; formatting it again changes nothing. The text must be one that reads without errors."""
    items, end = _parsed(content)
    writer = _Writer()
    for number, item in enumerate(items):
        writer.gap(item.gap, 0, blank=number > 0)
        writer.item(item, 0)
    writer.end(end, blank=bool(items))
    return writer.text()


# --- reading -----------------------------------------------------------------------------------------------------------------------------


def _parsed(content: str) -> tuple[list[_Item], _Gap]:
    """The top-level values, and what comes after the last."""
    top: list[_Item] = []
    groups: list[_Item] = []
    here = top
    # As if a line had ended before the text: a comment on its first line isn't behind anything.
    position, gap = _gap(content, 0, "\n")
    while position < len(content):
        match = TOKEN.re_match(content, position)
        assert match is not None, "the text has been read"
        word = match.group()
        if match.lastgroup == "close":
            _finish(groups.pop(), gap)
            here = _values(groups[-1]) if groups else top
        else:
            here.append(_Item(gap, word, "\n" not in word, word))
        if match.lastgroup == "open":
            groups.append(here[-1])
            groups[-1].items = here = []
        position, gap = _gap(content, match.end())
    return top, gap


def _values(group: _Item) -> list[_Item]:
    assert group.items is not None, "a group has a list, if only an empty one"
    return group.items


def _gap(content: str, start: int, before: str = "") -> tuple[int, _Gap]:
    match = SPACE.re_match(content, start)
    assert match is not None, "space may be empty"
    tail, *lines = (_comment(line) for line in (before + match.group()).split("\n"))
    # The last line has the next token, or nothing.
    own = lines if match.end() == len(content) else lines[:-1]
    return match.end(), _Gap(tail, [line for line, same in itertools.groupby(own) for line in (same if line else [""])], bool(lines))


def _comment(line: str) -> str:
    start = line.find("#")
    return line[start:].rstrip() if start >= 0 else ""


def _finish(group: _Item, end: _Gap) -> None:
    """Sets what depends on all of a group, when all of it is there."""
    group.end = end
    items = _values(group)
    if items and group.text != "{" and not items[0].gap.comments:
        # The head stands beside its bracket.
        items[0].gap = _Gap()
    group.whole = not end.comments and all(item.whole and not item.gap.broken for item in items)
    flat = ""
    if group.whole and all(item.flat for item in items) and sum(len(item.flat) + 1 for item in items) < WIDTH:
        flat = f"{group.text}{' '.join(item.flat for item in items)}{_CLOSES[group.text]}"
    group.flat = flat


# --- writing -----------------------------------------------------------------------------------------------------------------------------


class _Writer:
    """The text that has been written; `column` is where it ends, `indent` that of its last line."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.column = 0
        self.indent = 0

    def text(self) -> str:
        """All of it; its last line is ended."""
        return "".join([*self._parts, "\n" if self._parts else ""])

    def put(self, text: str) -> None:
        self._parts.append(text)
        _, line_break, last = text.rpartition("\n")
        self.column = len(last) if line_break else self.column + len(text)

    def line(self, indent: int) -> None:
        """Begins a line."""
        self.indent = min(indent, DEEPEST)
        self.put(("\n" if self._parts else "") + " " * self.indent)

    def gap(self, gap: _Gap, indent: int, *, blank: bool) -> None:
        """Comments, each on its line, then the line that the next token is on. `blank`: whether a blank line may come first."""
        self._comments(gap, indent, blank=blank)
        self.line(indent)

    def end(self, gap: _Gap, indent: int = 0, *, blank: bool = True) -> None:
        """The comments after the last value of a group or of the text."""
        lines = list(gap.lines)
        if lines and not lines[-1]:
            lines.pop()
        self._comments(_Gap(gap.tail, lines), indent, blank=blank)

    def _comments(self, gap: _Gap, indent: int, *, blank: bool) -> None:
        if gap.tail:
            self.put(f"  {gap.tail}")
        for number, line in enumerate(gap.lines):
            if line:
                self.line(indent)
                self.put(line)
            elif number or blank:
                self.put("\n")

    def item(self, item: _Item, follows: int) -> None:
        """A value. `follows`: how many closing brackets come right after it."""
        if item.items is None or (item.flat and self.column + len(item.flat) + follows <= WIDTH):
            self.put(item.flat)
            return
        block = item.text == "{"
        base = self.indent if block else self.column
        self.put(item.text)
        inner = self._values(item, base, 0 if block else follows + 1)
        if item.end.comments:
            self.end(item.end, inner, blank=bool(item.items))
        if item.end.comments or block:
            self.line(base)
        self.put(_CLOSES[item.text])

    def _values(self, group: _Item, base: int, follows: int) -> int:
        """The values of a group that isn't on one line; gives their indentation. `follows`: as of `item`, after the last of them."""
        items, breaks, aligned = _values(group), _breaks(group), _aligned(group)
        inner = base + STEP
        for index, item in enumerate(items):
            last = index == len(items) - 1
            behind = follows if last and not group.end.comments else 0
            indent = base if last and item.text == "{" and _head(group) in _FUNCTIONS else inner
            if breaks[index] or (index > 0 and self._too_far(item, behind, indent)):
                self.gap(item.gap, indent, blank=index > 0)
            else:
                self.put(" " if index else "")
                inner = self.column if index == aligned else inner
            self.item(item, behind)
        return inner

    def _too_far(self, item: _Item, follows: int, indent: int) -> bool:
        """Whether an item has no room on this line, and more on the next."""
        fits = item.flat and self.column + 1 + len(item.flat) + follows <= WIDTH
        return item.whole and not fits and min(indent, DEEPEST) <= self.column


def _head(group: _Item) -> str:
    items = _values(group)
    return items[0].text if items else ""


def _aligned(group: _Item) -> int:
    """The index of the value below which the next ones stand; -1: they are indented."""
    head = _head(group)
    if head in _CLOSES:
        return 0 if group.text != "{" else -1
    return 1 if head in FORMS and head not in _BODIES and group.text != "{" else -1


def _breaks(group: _Item) -> list[bool]:
    """Before which values of a group that isn't on one line a line ends: where the author has it, else all that follow the first line's."""
    items = _values(group)
    if group.text == "{":
        return [True] * len(items)
    if not group.whole or all(item.items is None for item in items):
        return [item.gap.broken for item in items]
    header = 1 if _head(group) in _CLOSES else _HEADERS.get(_head(group), 2)
    return [index >= header for index in range(len(items))]
