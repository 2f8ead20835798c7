# SPDX-License-Identifier: GPL-2.0-or-later
"""Choices read from bytes that hypothesis draws: the first of each list is the simplest, and what bytes that have run out choose.

Many small draws would be varied by hypothesis a few at a time, so that most examples were nearly the same; and cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    """A choice takes one byte."""

    def __init__(self, entropy: bytes) -> None:
        self._entropy = iter(entropy)

    def below(self, end: int) -> int:
        """A number from 0 to `end` - 1; `end` is at most 256."""
        return next(self._entropy, 0) * end >> 8

    def pick(self, items: Sequence[Item]) -> Item:
        """One of at most 256 items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True so often; False is the simpler."""
        return self.below(100) >= 100 - percent


def weighted(*table: tuple[int, Item]) -> tuple[Item, ...]:
    """Items, each as often as its weight says, to be picked from."""
    return tuple(item for weight, item in table for _ in range(weight))
