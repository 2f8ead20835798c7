# SPDX-License-Identifier: GPL-2.0-or-later
"""Work on thousands of guests, some at a time: `in_turns` of it lets the event loop do what else there is to do after each slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from momservice.bus.decoder import Steps, at_once, in_turns

__all__ = ["SLICE", "Steps", "at_once", "each", "in_turns"]

# Guests that are dealt with in one turn of the loop: up to 2 ms, for those that have only just come. An answer takes some turns, in each of
# which others have theirs.
SLICE: Final = 50

T = TypeVar("T")
R = TypeVar("R")


def each(do: Callable[[T], R], items: Iterable[T]) -> Steps[list[R]]:
    """What `do` gives of each item, in their order; one step is a slice of them."""
    done: list[R] = []
    for item in items:
        if done and len(done) % SLICE == 0:
            yield
        done.append(do(item))
    return done
