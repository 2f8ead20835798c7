# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine tells others as it happens: signals, explanations, recordings and metrics are made of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from momservice.controllers import Outcome, World
from momservice.policy import Decisions, Program
from momservice.slices import Steps, at_once, in_turns
from momservice.snapshot import Snapshot, Value

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PolicyRun:
    """One run of the policy. `snapshot`: what it saw, with the parameters; `duration_us`: of the evaluation, microseconds.

    `number`: counts the runs of this process. `generation`: of the policies. `outcomes`: what became of its controls, by entity, control
    and item, as controllers tell it.
    """

    number: int
    generation: int
    program: Program
    snapshot: Snapshot
    decisions: Decisions
    duration_us: int
    outcomes: dict[tuple[str, str, str], Outcome] = field(default_factory=dict)


class Watcher:
    """Hears what the engine does, in the event loop; its methods must not take long. What it raises is logged and stops nothing.

    What looks at each of the guests is done in steps, between which the loop does other things, but tells nothing else in steps.
    """

    def sampled(self, world: World) -> Steps[None] | None:
        """The host or the guests have been sampled."""

    def guests_changed(self, added: Sequence[str], removed: Sequence[str]) -> None:
        """Guests, by UUID, have come or gone."""

    def ran(self, run: PolicyRun) -> None:
        """The policy has run; nothing is applied yet."""

    def applied(self, run: PolicyRun, outcomes: Sequence[Outcome]) -> Steps[None] | None:
        """A controller has told what became of its controls of that run (all in `run.outcomes` by now)."""

    def acted(self, run: PolicyRun) -> None:
        """A run is over: controllers have told what became of its controls, but for those that take too long, which tell later."""

    def reasons_changed(self, reasons: Mapping[str, str]) -> None:
        """The status or its reasons, by part, have changed."""

    def policies_changed(self, generation: int, names: Sequence[str]) -> None:
        """Other policies are in force: those of these names, sorted, are new, changed or gone (all others are what they were)."""

    def parameters_changed(self, values: Mapping[str, Value]) -> None:
        """These parameters are new or have another value in force, set or by default. One that is gone with its policy isn't told."""

    def told(self) -> None:
        """Called after each of the others: for those who only want to look again."""


@dataclass(slots=True)
class Watchers:
    """All watchers; each is told everything, whatever another one does."""

    all: list[Watcher] = field(default_factory=list)
    # So that what is told in turns comes in its order.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def tell(self, what: str, *args: object) -> None:
        """Call the method `what` of each."""
        at_once(self._telling(what, *args))

    async def tell_in_turns(self, what: str, *args: object) -> None:
        """The same for what has steps."""
        async with self._turn:
            await in_turns(self._telling(what, *args))

    def _telling(self, what: str, *args: object) -> Steps[None]:
        for watcher in self.all:
            try:
                steps = getattr(watcher, what)(*args)
                if steps is not None:
                    yield from steps
                watcher.told()
            except Exception:
                # It must not stop the engine.
                log.exception("internal error in %s.%s", type(watcher).__name__, what)
