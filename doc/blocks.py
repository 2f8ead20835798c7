# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages as a sequence of blocks, written as roff for man and as Markdown for forges.

Text between backticks is literal: names, policies, commands. All else is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from momservice import __version__


@dataclass(frozen=True, slots=True)
class Section:
    """The beginning of a section."""

    title: str


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a part of a section. The title shows as it is: it may be a name."""

    title: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list: a literal term, a paragraph, and one more for each of `more`."""

    term: str
    text: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that show as they are."""

    text: str


Block: TypeAlias = Section | Part | Text | Entry | Code
_LITERAL: Final = re.compile("`([^`]*)`")


def section(title: str, *blocks: Block) -> Sequence[Block]:
    """A section with what is in it."""
    return [Section(title), *blocks]


def part(title: str, *blocks: Block) -> Sequence[Block]:
    """A part of a section with what is in it."""
    return [Part(title), *blocks]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the manual: `name` in `section`, what it is in half a sentence, and what it says."""

    name: str
    section: int
    what: str
    blocks: Iterable[Block]


# --- roff --------------------------------------------------------------------------------------------------------------------------------

# Characters that roff takes for requests, or that troff shows as others of their kind.
_ROFF: Final = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq", "`": r"\(ga"})


def roff(page: Page) -> str:
    """A page for man."""
    title = f'.TH {_plain(page.name.upper())} {page.section} "" "mom {__version__}"'
    head = [title, ".SH NAME", f"{_plain(page.name)} \\- {_plain(page.what)}"]
    return "\n".join([*head, *(line for block in page.blocks for line in _ROFF_BLOCKS[type(block)](block))]) + "\n"


def _plain(text: str) -> str:
    """Text as it is; no line is taken for a request."""
    return "\n".join("\\&" + line if line.startswith(".") else line for line in text.translate(_ROFF).splitlines())


def _marked(text: str) -> str:
    """Text whose literals are bold."""
    parts = [_plain(part) if number % 2 == 0 else f"\\fB{_plain(part)}\\fR" for number, part in enumerate(_LITERAL.split(text))]
    return "".join(parts)


def _roff_entry(entry: Entry) -> Iterator[str]:
    yield from (".TP", f"\\fB{_plain(entry.term)}\\fR", _marked(entry.text))
    for text in entry.more:
        yield from (".br", _marked(text))


_ROFF_BLOCKS: Final[Mapping[type, Callable[[Any], Iterable[str]]]] = {
    Section: lambda block: [f'.SH "{_plain(block.title.upper())}"'],
    Part: lambda block: [f'.SS "{_plain(block.title)}"'],
    Text: lambda block: [".PP", _marked(block.text)],
    Entry: _roff_entry,
    Code: lambda block: [".PP", ".RS 4", ".nf", *map(_code_line, block.text.splitlines()), ".fi", ".RE"],
}


def _code_line(line: str) -> str:
    # Without it roff takes leading space for a break, and an empty line for a paragraph.
    return f"\\&{line.translate(_ROFF)}"


# --- Markdown ----------------------------------------------------------------------------------------------------------------------------

_MARKDOWN: Final = re.compile(r"([\\*_<>\[\]|#])")
# The pages that a forge shows as well.
_SIBLING: Final = re.compile(r"\b(mom-[a-z-]+)(\([57]\))")


def markdown(page: Page) -> str:
    """A page for a forge."""
    head = [
        "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->",
        f"<!-- Made by doc/pages.py --markdown {page.name}.{page.section}: change the tables, not this file. -->",
        f"# {page.name}: {_escaped(page.what)}",
    ]
    return "\n".join([*head, *(line for block in page.blocks for line in _MARKDOWN_BLOCKS[type(block)](block))]) + "\n"


def _escaped(text: str) -> str:
    """Plain text, literals aside."""
    parts = [_MARKDOWN.sub(r"\\\1", part) if number % 2 == 0 else f"`{part}`" for number, part in enumerate(_LITERAL.split(text))]
    return _SIBLING.sub(r"[\1\2](\1.md)", "".join(parts))


def _markdown_entry(entry: Entry) -> Iterator[str]:
    yield from ("", f"* `{entry.term}`<br>{_escaped(entry.text)}")
    for text in entry.more:
        yield f"  <br>{_escaped(text)}"


_MARKDOWN_BLOCKS: Final[Mapping[type, Callable[[Any], Iterable[str]]]] = {
    Section: lambda block: ["", f"## {_escaped(block.title)}"],
    Part: lambda block: ["", f"### {_escaped(block.title)}"],
    Text: lambda block: ["", _escaped(block.text)],
    Entry: _markdown_entry,
    Code: lambda block: ["", "```", block.text.rstrip("\n"), "```"],
}
