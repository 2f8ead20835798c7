# SPDX-License-Identifier: GPL-2.0-or-later
"""Text to tree: tokens by pyparsing, brackets by a stack of our own, so that neither length nor depth can hurt.

A fault ends neither the reading nor, as a rule, the form that has it: reading goes on at the next token, or, where the brackets don't
pair, at the next line that begins with '(' or '['. Forms with faults are left out of what is checked.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Final, Literal, NamedTuple, TypeAlias

from momservice.decisions import Diagnostic, Place
from momservice.policy.diagnostics import FINDINGS
from momservice.policy.tokens import BAD_CHARACTERS, QUOTES, SPACE, SYMBOL, TOKEN, Fault, literal, no_token, symbol

NESTING: Final = 200
_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}
# Where forms usually begin: reading finds its way again there. Blocks, which begin with '{', are more often parts of forms.
_NEW_FORM: Final = re.compile(r"\n(?=[(\[])")

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

    def line(self, number: int) -> str:
        """A line of the text, without its end; they count from 1."""
        start = self._starts[number - 1]
        end = self._starts[number] - 1 if number < len(self._starts) else len(self.content)
        return self.content[start:end]


class Reading(NamedTuple):
    """What came of reading a fragment.

    `forms`: its values in order, without those that have faults. `faults`: at most `FINDINGS`. `unread`: names in what has faults; any of
    them may be bound there.
    """

    forms: list[Node]
    faults: list[Diagnostic]
    unread: set[str]


def read(source: Source) -> Reading:
    """Reads a fragment. Linear in its length, whatever is wrong with it."""
    reader = _Reader(source)
    reader.run()
    faults = sorted([*_bad_characters(source.content), *reader.faults], key=lambda fault: fault.start)[:FINDINGS]
    found = [Diagnostic("error", fault.code, source.place(fault.start), fault.message, fault.hint) for fault in faults]
    return Reading(sorted(reader.forms, key=lambda form: form.start) if found else reader.forms, found, reader.unread)


def _bad_characters(content: str) -> Iterator[Fault]:
    for found in islice(BAD_CHARACTERS.finditer(content), FINDINGS):
        yield Fault(found.start(), "not a character that text may hold")


class _Reader:
    """The state of reading one fragment."""

    def __init__(self, source: Source) -> None:
        self.forms: list[Node] = []
        self.faults: list[Fault] = []
        self.unread: set[str] = set()
        self._source = source
        self._content = source.content
        self._open: list[Group] = []
        # Opening brackets beyond the deepest that is kept.
        self._excess = 0
        # The groups with faults in them, by offset.
        self._spoiled: set[int] = set()
        # Whether brackets don't pair: nothing counts until a new form begins.
        self._lost = False
        # The first string that looks as if its end were missing: where it begins, its outermost form, and the new form within it.
        self._suspect: tuple[int, int, int] | None = None
        self._reread = False
        # The kinds of quotes that no later quote closes.
        self._unclosed: set[str] = set()

    def run(self) -> None:
        content = self._content
        space, token = SPACE.re_match, TOKEN.re_match
        position = space(content, 0).end()
        while position < len(content) and len(self.faults) < FINDINGS:
            match = None if content[position] in self._unclosed else token(content, position)
            if match is None:
                end = self._no_token(position)
            else:
                self._token(match.lastgroup, match.group(), position)
                end = match.end()
            position = space(content, end).end()
        self._forget_text(position, len(content))
        self._finish()

    def _token(self, kind: str | None, word: str, start: int) -> None:
        if kind == "open":
            self._begin(word, start)
        elif kind == "close":
            self._close(word, start)
        else:
            self._atom(kind, word, start)

    # --- atoms -------------------------------------------------------------------------------------------------------------------------

    def _atom(self, kind: str | None, word: str, start: int) -> None:
        try:
            if kind == "symbol":
                name = symbol(word, start)
                atom = Atom("literal", start) if name == "nil" else Atom("symbol", start, name)
            elif kind == "operator":
                atom = Atom("operator", start, word)
            else:
                if kind == "string" and self._suspect is None:
                    self._suspect_string(word, start)
                atom = Atom("literal", start, value=literal(kind, word, start))
        except Fault as fault:
            self._fault(fault)
            return
        if self._open:
            self._open[-1].items.append(atom)
        elif self._lost:
            self._forget(atom)
        else:
            self.forms.append(atom)

    def _suspect_string(self, word: str, start: int) -> None:
        if new_form := _NEW_FORM.search(word):
            self._suspect = (start, self._open[0].start if self._open else start, start + new_form.end())

    # --- brackets ------------------------------------------------------------------------------------------------------------------------

    def _begin(self, bracket: str, start: int) -> None:
        if self._lost and self._begins_line(bracket, start):
            self._abandon()
            self._lost = False
        if len(self._open) == NESTING:
            if not self._lost:
                self._lose(Fault(start, f"brackets are nested more than {NESTING} deep", "too-deep"))
            self._excess += 1
            return
        group = Group(bracket, start)
        if self._open:
            self._open[-1].items.append(group)
        self._open.append(group)

    def _begins_line(self, bracket: str, start: int) -> bool:
        return bracket != "{" and (start == 0 or self._content[start - 1] == "\n")

    def _close(self, bracket: str, start: int) -> None:
        if self._excess:
            self._excess -= 1
        elif self._open and bracket == _CLOSES[self._open[-1].bracket]:
            group = self._open.pop()
            if not self._open:
                self._complete(group)
        elif not self._lost:
            self._lose(self._mismatch(bracket, start))

    def _mismatch(self, bracket: str, start: int) -> Fault:
        if not self._open:
            return Fault(start, f"'{bracket}' closes nothing")
        unclosed = self._open[-1]
        place = self._source.place(unclosed.start)
        hint = f"'{unclosed.bracket}' in line {place.line}, column {place.column} is still open"
        return Fault(start, f"'{bracket}' where '{_CLOSES[unclosed.bracket]}' was expected", hint=hint)

    def _complete(self, form: Node) -> None:
        """Takes a form that is read to its end, or what its faults leave of it."""
        if self._lost or form.start in self._spoiled:
            self._forget(form)
        else:
            self.forms.append(form)

    def _finish(self) -> None:
        """The end of the text, or of what is read of it: tells of the brackets that are still open, the innermost of each form."""
        if not self._lost and len(self.faults) < FINDINGS:
            for group, inner in zip_longest(self._open, self._open[1:]):
                if inner is None or self._begins_line(inner.bracket, inner.start):
                    closes = _CLOSES[group.bracket]
                    self.faults.append(Fault(group.start, f"'{group.bracket}' is never closed", hint=f"'{closes}' is missing"))
        self._abandon()

    def _abandon(self) -> None:
        """Gives up the groups that are open. Complete forms that they have swallowed count, if they look like new ones."""
        unclosed = {group.start for group in self._open}
        for group in self._open:
            for item in group.items:
                if item.start in unclosed:
                    continue
                if isinstance(item, Group) and self._begins_line(item.bracket, item.start) and item.start not in self._spoiled:
                    self.forms.append(item)
                else:
                    self._forget(item)
        self._open.clear()
        self._excess = 0

    # --- faults --------------------------------------------------------------------------------------------------------------------------

    def _fault(self, fault: Fault) -> None:
        self.faults.append(fault)
        self._spoiled.update(group.start for group in self._open)

    def _lose(self, fault: Fault) -> None:
        """A fault of brackets: that others don't pair until the next form begins is no finding of its own."""
        self._fault(fault)
        self._lost = True

    def _no_token(self, start: int) -> int:
        """Reports what is wrong where no token begins; gives where to go on."""
        if self._content[start] in QUOTES:
            return self._open_string(start)
        fault = no_token(self._content, start, inside=bool(self._open))
        last = self.forms[-1] if self.forms and not self._open else None
        if isinstance(last, Atom) and last.start + len(last.name) == start:
            # The beginning of a word that isn't one.
            self._forget(self.forms.pop())
        if BAD_CHARACTERS.match(self._content, start):
            self._spoiled.update(group.start for group in self._open)
        else:
            self._fault(fault)
        self._forget_text(start, fault.end)
        return fault.end

    def _open_string(self, start: int) -> int:
        quote = self._content[start]
        self._unclosed.add(quote)
        if self._suspect is not None and not self._reread and self._content[self._suspect[0]] == quote:
            return self._go_back(*self._suspect)
        fault = Fault(start, "the string is never closed", hint=f"{quote} is missing")
        self._lose(fault)
        new_form = _NEW_FORM.search(self._content, start)
        end = new_form.end() if new_form else len(self._content)
        self._forget_text(start, end)
        return end

    def _go_back(self, start: int, form: int, end: int) -> int:
        """Takes an earlier string, which goes on over lines that look like forms, for the one that isn't closed: reads from there again.

        Once in a fragment, so that reading stays linear.
        """
        self._reread = True
        self._unclosed.clear()
        quote = self._content[start]
        self.forms = [other for other in self.forms if other.start < form]
        self.faults = [other for other in self.faults if other.start < form]
        self._spoiled = {other for other in self._spoiled if other < form}
        self._open.clear()
        self._excess = 0
        self._lose(Fault(start, "the string is never closed, or goes on over lines that look like forms", hint=f"{quote} is missing"))
        self._forget_text(form, end)
        return end

    # --- names in what is left out -------------------------------------------------------------------------------------------------------

    def _forget(self, node: Node) -> None:
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Group):
                waiting.extend(node.items)
            elif node.kind == "symbol":
                self.unread.add(node.name.split(".")[0])
            elif isinstance(node.value, str) and "\n" in node.value:
                # Forms may be in there whose quotes are at fault.
                self.unread.update(_names(node.value, 0, len(node.value)))

    def _forget_text(self, start: int, end: int) -> None:
        self.unread.update(_names(self._content, start, end))


def _names(content: str, start: int, end: int) -> Iterator[str]:
    return (found.group().split(".")[0] for found in SYMBOL.finditer(content, start, end))
