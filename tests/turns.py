# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts how often others of an event loop have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def turns_during(work: Callable[[], Awaitable[T]]) -> tuple[T, int]:
    """What the work gives, and how many turns others had meanwhile."""

    async def scenario() -> tuple[T, int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        given = await work()
        task.cancel()
        return given, turns

    return asyncio.run(scenario())
