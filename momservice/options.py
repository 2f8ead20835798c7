# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines: how what they print ends where nobody takes it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

UNWRITABLE = "cannot write the output"


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program as argparse does; with 1 and one line where help can't be written, and no line for a closed pipe."""
    try:
        try:
            return parser.parse_args(argv)
        except SystemExit:
            # Here, not in Python's own last flush, which would complain in its own words.
            if sys.stdout is not None:
                sys.stdout.flush()
            raise
    except OSError as error:
        drop(sys.stdout)
        sys.exit(1 if isinstance(error, BrokenPipeError) else f"{parser.prog}: {UNWRITABLE}: {error.strerror or error}")


def drop(stream: TextIO) -> None:
    """Let go of what couldn't be written: Python's last flush must not complain of it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
