# SPDX-License-Identifier: GPL-2.0-or-later
"""Large answers are made once for all who ask, until they are outdated."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from turns import turns_during

from momservice.bus.connection import Call, Marshalled
from momservice.bus.manager import Manager
from momservice.bus.policy import Policy
from momservice.bus.shared import SLICE, SLICE_BYTES, SharedAnswer, Statistics, in_slices
from momservice.dry_runs import DryRun
from momservice.explained import Explanation
from momservice.policy import Decisions, Diagnostic, Failure, Place, Wanted

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


def test_a_sample_outdates_all_statistics() -> None:
    async def scenario() -> None:
        figures: dict[str, Any] = {"host": {}, "guests": {}, "names": []}
        engine: Any = SimpleNamespace(statistics=lambda: (figures["host"], figures["guests"]), active_guests=lambda: figures["names"])
        told = Statistics(engine)
        shared = (told.statistics, told.host_statistics, told.active_guests)
        before = [await each.answer(CALL) for each in shared]
        figures.update(host={"mem_free": 1}, guests={"g": {"mem": 2}}, names=[("g", "vm")])
        assert [await each.answer(CALL) for each in shared] == before
        told.sampled(CALL)
        assert all(new != old for new, old in zip([await each.answer(CALL) for each in shared], before, strict=True))

    asyncio.run(scenario())


def test_a_large_answer_lets_others_have_their_turn() -> None:
    async def work() -> None:
        assert await in_slices(b"x" for _ in range(SLICE * 5)) == [b"x"] * SLICE * 5

    assert turns_during(work)[1] >= 5


def test_long_pieces_let_others_have_their_turn() -> None:
    assert turns_during(lambda: in_slices(bytes(SLICE_BYTES) for _ in range(5)))[1] >= 5


def asked(member: str, *args: object) -> Call:
    return Call("", "", "", member, args, False)


def telling(answer: object) -> Any:
    """A store or an explainer that has an answer."""

    async def tell(*_: object) -> object:
        return answer

    return SimpleNamespace(dry_run=tell, validate=tell, explain=tell)


def test_controls_and_failures_of_a_dry_run_are_told_in_turns() -> None:
    place = Place("p", 1, 1)
    wanted = [Wanted("g", "target", number, place) for number in range(SLICE * 3)]
    failures = [Failure("type", "no", place, number) for number in range(SLICE * 3)]
    policy = Policy(telling(DryRun(Decisions([], wanted, {}, failures, [], 1))), CALL, CALL)
    assert turns_during(lambda: policy.evaluate(asked("EvaluateNow", {})))[1] >= 6


def test_findings_are_told_in_turns() -> None:
    policy = Policy(telling([Diagnostic("error", "name", Place("p", 1, 1), "no", "")] * SLICE * 3), CALL, CALL)
    assert turns_during(lambda: policy.validate_policy(asked("ValidatePolicy", {})))[1] >= 3


def test_explanations_are_told_in_turns() -> None:
    manager = Manager(CALL, CALL, CALL, telling([Explanation(1, 2, 3, "nothing")] * SLICE * 3))
    assert turns_during(lambda: manager.explain(asked("Explain", "host", 1)))[1] >= 3
