# SPDX-License-Identifier: GPL-2.0-or-later
"""How many examples there are, and how one is run: in batches that each have a seed of their own, the same on every run.

MOM_LONG=1 in the environment makes it the long run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from hypothesis.errors import Flaky
from proof_choices import Choices
from proof_policies import policy
from proof_reduce import reduced
from proof_text import Policy
from proof_worlds import World, world

LONG: Final = os.environ.get("MOM_LONG") == "1"
BATCH: Final = 500
# Of policy, world and the check's own choices.
_BYTES: Final = (3600, 430, 600)


def batches(usual: int, long: int) -> range:
    """The seeds of the batches of as many examples."""
    return range((long if LONG else usual) // BATCH)


def for_each(batch: int, check: Callable[[Policy, World, Choices], None], *, examples: int = BATCH, reduce: bool = True) -> None:
    """Checks the examples of a batch. `check` raises AssertionError; the choices are for its own use.

    Raises AssertionError that tells a small example; without `reduce` whatever was found.
    """

    @seed(batch)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategies.binary(min_size=sum(_BYTES), max_size=sum(_BYTES)))
    def examine(entropy: bytes) -> None:
        written, made = policy(Choices(entropy[: _BYTES[0]])), world(Choices(entropy[_BYTES[0] : -_BYTES[2]]))

        def fault(written: Policy, made: World) -> str:
            try:
                check(written, made, Choices(entropy[-_BYTES[2] :]))
            except AssertionError as error:
                return str(error).split("\n", 1)[0]
            except Exception as error:
                return f"{type(error).__name__} is raised: {error}"
            return ""

        if not failed and (told := fault(written, made)):
            small = reduced(written, made, lambda *case: fault(*case) == told) if reduce else (written, made)
            failed.append(f"{told}, with the policy{small[0]}\nand the world\n{small[1]}")
            raise _Found

    failed: list[str] = []
    with suppress(_Found, Flaky):
        examine()
    if failed:
        raise AssertionError(failed[0])


class _Found(Exception):
    """Ends the batch: what was found is in its message already, so hypothesis needn't confirm it."""
