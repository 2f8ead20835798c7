# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of arguments that clients make as well, before they call. Raises as momservice.bus.arguments, which has the others."""

from __future__ import annotations

from momservice.bus.names import MAX_RUNS, POLICY_NAME
from momservice.errors import InvalidArgs, OutOfRange
from momservice.text import shown

SHOWN_CHARACTERS = 40
# What the bus can carry.
MAX_SECONDS = (1 << 32) - 1


def quoted(text: str) -> str:
    """A text from elsewhere, in a message."""
    return f"'{shown(text, SHOWN_CHARACTERS)}'"


def checked_name(name: str) -> str:
    """The name of a policy."""
    if not POLICY_NAME.fullmatch(name):
        raise InvalidArgs(
            f"{quoted(name)} can't name a policy: a letter, digit or _ can, followed by up to 63 of letters, digits, '.', '_', '-'"
        )
    return name


def checked_seconds(number: int) -> int:
    """How long a pause is to last."""
    if not 0 <= number <= MAX_SECONDS:
        raise OutOfRange(f"a pause can't last {number} s: 0 (until it is ended) to {MAX_SECONDS} can be asked for")
    return number


def checked_runs(number: int) -> int:
    """How many of the last runs."""
    if not 1 <= number <= MAX_RUNS:
        raise OutOfRange(f"{number} runs can't be explained: 1 to {MAX_RUNS} can")
    return number
