# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal for programs that fill it: its other screen, no cursor, no echo - and everything as it was at the end."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from momservice.cli.frames import Line

ENTER: Final = "\x1b[?1049h\x1b[?25l"
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW, PLAIN = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[0m"
LOOKS: Final[Mapping[str, str]] = {"head": "\x1b[1m", "good": "\x1b[32m", "bad": "\x1b[33m"}


def can_steer() -> bool:
    """Whether standard output is a terminal that understands escape codes."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def may_color() -> bool:
    """Whether the user wants colors (no-color.org)."""
    return not os.environ.get("NO_COLOR")


def plain(line: Line) -> str:
    """A line without looks."""
    return "".join(text for text, _ in line).rstrip()


class Screen:
    """The terminal, as a context manager."""

    def __init__(self) -> None:
        self._color = may_color()
        self._before: list[Any] | None = None

    def __enter__(self) -> Screen:
        self.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    def enter(self) -> None:
        """Take the terminal."""
        if sys.stdin is not None and sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._write(ENTER)

    def leave(self) -> None:
        """Give it back; a terminal that has gone has no use for it."""
        with suppress(OSError, termios.error):
            if self._before is not None:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
            self._write(LEAVE)

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines, which must fit, and nothing else."""
        rows = [self._looking(line) + CLEAR_LINE for line in lines]
        self._write(HOME + "\r\n".join(rows) + CLEAR_BELOW)

    def _looking(self, line: Line) -> str:
        if not self._color:
            return _harmless(plain(line))
        return "".join(f"{LOOKS[look]}{_harmless(text)}{PLAIN}" if look else _harmless(text) for text, look in line)

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _harmless(text: str) -> str:
    """The text without anything that could steer the terminal: names may come from anybody."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
