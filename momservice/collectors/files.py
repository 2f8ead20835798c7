# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the kernel's small text files: strictly, bounded, and None for whatever isn't as it should be."""

from __future__ import annotations

from pathlib import Path

# No counter of the kernel goes beyond this, and it fits a 64-bit signed number of the bus.
MAX_INTEGER = 2**63 - 1
MAX_DIGITS = 19
MAX_CHARACTERS = 256 * 1024


def read_text(path: Path) -> str | None:
    """A file's text, where bytes beyond ASCII are no number of any kind; None if it can't be read or is far too long."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError:
        return None
    return text if len(text) <= MAX_CHARACTERS else None


def to_count(text: str) -> int | None:
    """A decimal number that isn't negative; None for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        return None
    number = int(text)
    return number if number <= MAX_INTEGER else None


def to_signed(text: str) -> int | None:
    """A decimal number that may be negative; None for anything else."""
    if not text.startswith("-"):
        return to_count(text)
    number = to_count(text[1:])
    return None if number is None else -number


def read_count(path: Path) -> int | None:
    """The one number in a file."""
    text = read_text(path)
    return None if text is None else to_count(text.strip())


def read_table(path: Path, column: int = 1) -> dict[str, int]:
    """The numbers of a file of lines "name ... number ...", by name without its colon; lines that are otherwise are left out."""
    return to_table(read_text(path) or "", column)


def to_table(text: str, column: int = 1) -> dict[str, int]:
    """The same from text."""
    table: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        number = to_count(words[column]) if len(words) > column else None
        if number is not None:
            table[words[0].removesuffix(":")] = number
    return table
