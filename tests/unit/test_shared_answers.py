# SPDX-License-Identifier: GPL-2.0-or-later
"""Large answers are made once for all who ask, until they are outdated."""

from __future__ import annotations

import asyncio
from typing import Any

from momservice.bus.connection import Marshalled
from momservice.bus.shared import SLICE, SharedAnswer, in_slices

CALL: Any = None


def test_all_who_ask_until_it_is_outdated_share_one_answer() -> None:
    async def scenario() -> None:
        made: list[Marshalled] = []

        async def make() -> Marshalled:
            answer = Marshalled(bytes([len(made)]))
            made.append(answer)
            await asyncio.sleep(0)
            return answer

        shared = SharedAnswer(make)
        together = await asyncio.gather(*(shared.answer(CALL) for _ in range(20)), shared.answer(CALL))
        assert {id(answer) for answer in [*together, await shared.answer(CALL)]} == {id(made[0])}
        shared.outdate()
        late = asyncio.ensure_future(shared.answer(CALL))
        await asyncio.sleep(0)
        shared.outdate()
        # What it was being given is outdated by now.
        assert (await late, await shared.answer(CALL)) == (made[2], made[2])
        assert len(made) == 3

    asyncio.run(scenario())


def test_a_caller_that_goes_takes_nothing_from_the_others() -> None:
    async def scenario() -> None:
        ready = asyncio.Event()

        async def make() -> Marshalled:
            await ready.wait()
            return Marshalled(b"x")

        shared = SharedAnswer(make)
        first, second = (asyncio.ensure_future(shared.answer(CALL)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        ready.set()
        assert await second == b"x"

    asyncio.run(scenario())


def test_a_large_answer_lets_others_have_their_turn() -> None:
    async def scenario() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        assert await in_slices(b"x" for _ in range(SLICE * 5)) == [b"x"] * SLICE * 5
        assert turns >= 5
        task.cancel()

    asyncio.run(scenario())
