# SPDX-License-Identifier: GPL-2.0-or-later
"""From decisions to deeds: hands each control to its controller, and says what became of it.

Each controller is a firewall of its own, and none is waited for longer than a part of the cycle: a helper that is gone or hangs costs its
own controls only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from momservice.bus.refusals import untold
from momservice.controllers import SENT, Controller, HelperUnavailable, Outcome, World
from momservice.policy import Decisions, Wanted
from momservice.reasons import Reasons
from momservice.slices import Steps, each, in_turns
from momservice.text import fault, shown
from momservice.watching import PolicyRun, Watchers

log = logging.getLogger(__name__)

# The controller whose helper wants to be told that the service lives.
LEASED = "KSM"
# What begins the name of a missed helper, or of a controller that fails, among the reasons.
HELPER, CONTROLLER = "helper ", "controller "

# By entity and control, what became of it and why.
News = dict[tuple[str, str], tuple[str, str]]


class Actor:
    """Applies decisions."""

    def __init__(self, controllers: Sequence[Controller], reasons: Reasons, watchers: Watchers) -> None:
        self._controllers = controllers
        self._reasons = reasons
        self._watchers = watchers
        self._running: dict[str, asyncio.Future[None]] = {}
        self._news: dict[str, News] = {}
        self._stray: list[str] = []

    @property
    def helpers_available(self) -> bool:
        """Whether the helpers answered when they were last needed."""
        return not any(part.startswith(HELPER) for part in self._reasons.lines)

    def use(self, controllers: Sequence[Controller]) -> None:
        """Have others from the next cycle on."""
        for name in {part.NAME for part in self._controllers} - {part.NAME for part in controllers}:
            # Nobody else would ever say that it is well.
            self._reasons.set(CONTROLLER + name, "")
            self._reasons.set(HELPER + name, "")
        self._controllers = controllers

    async def apply(self, run: PolicyRun, world: World, limit_s: float) -> None:
        """Begin to apply what a run decided; gives up waiting, not applying, after `limit_s`.

        A controller still busy with the last cycle is passed over.
        """
        decisions = run.decisions
        self._warn_of_stray(decisions)
        for part in self._controllers:
            if part.NAME in self._running and not self._running[part.NAME].done():
                log.debug("%s: the last cycle's controls are still under way", part.NAME)
                continue
            mine = {control.name for control in part.CONTROLS}
            wanted = [control for control in decisions.controls if control.name in mine]
            self._running[part.NAME] = asyncio.ensure_future(self._apply_one(part, run, wanted, world))
        if self._running:
            await asyncio.wait(self._running.values(), timeout=limit_s)

    def _warn_of_stray(self, decisions: Decisions) -> None:
        known = {control.name for part in self._controllers for control in part.CONTROLS}
        stray = sorted({wanted.name for wanted in decisions.controls} - known)
        if stray and stray != self._stray:
            log.warning("no controller is configured for %s: the policy sets it in vain", shown(", ".join(stray)))
        self._stray = stray

    async def _apply_one(self, part: Controller, run: PolicyRun, wanted: Sequence[Wanted], world: World) -> None:
        try:
            outcomes = await part.apply(wanted, world)
        except HelperUnavailable as error:
            self._miss(part.NAME, error)
            return
        except Exception as error:
            log.debug("controller %s", part.NAME, exc_info=True)
            self._reasons.set(CONTROLLER + part.NAME, f"controller {part.NAME} failed: {fault(error)}")
            return
        self._reasons.set(CONTROLLER + part.NAME, "")
        if any(outcome.status in SENT for outcome in outcomes):
            self._reasons.set(HELPER + part.NAME, "")
        run.outcomes.update({(outcome.entity, outcome.control, outcome.item): outcome for outcome in outcomes})
        await self._watchers.tell_in_turns("applied", run, outcomes)
        await in_turns(self._report(part.NAME, outcomes, wanted, world))

    def _report(self, part: str, outcomes: Sequence[Outcome], wanted: Sequence[Wanted], world: World) -> Steps[None]:
        places = {(control.entity, control.name): control.place for control in wanted}
        before, now = self._news.get(part, {}), News()

        def report(outcome: Outcome) -> None:
            key = (outcome.entity, outcome.control)
            now[key] = (outcome.status, outcome.reason)
            # A control that is sent is news each time, one that isn't only when that changes.
            level = logging.INFO if outcome.status in SENT or before.get(key) != now[key] else logging.DEBUG
            guest = world.guests.get(outcome.entity)
            log.log(
                level,
                "%s: %s %s (wanted %s) by %s: %s%s",
                guest.name if guest else outcome.entity,
                outcome.control,
                outcome.applied,
                shown(str(outcome.wanted)),
                places.get(key, "?"),
                outcome.status,
                f": {shown(outcome.reason)}" if outcome.reason else "",
            )
            if outcome.status in ("failed", "refused"):
                self._reasons.last_error = f"{outcome.control} of {outcome.entity}: {shown(outcome.reason)}"

        yield from each(report, outcomes)
        self._news[part] = now

    # Helpers

    async def ask_for_missed(self) -> None:
        """Ask for each helper that was missed, also when nothing is wanted of it any more, so that its return is seen."""
        for part in self._controllers:
            if HELPER + part.NAME in self._reasons.lines:
                with suppress(HelperUnavailable):
                    await part.probe()
                    self._reasons.set(HELPER + part.NAME, "")

    async def ask_ksm(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask something of KSM's helper beside the cycle."""
        try:
            await ask()
        except HelperUnavailable as error:
            self._miss(LEASED, error)

    def _miss(self, part: str, error: HelperUnavailable) -> None:
        self._reasons.set(HELPER + part, f"{part} is unavailable: {error}", untold(error.__cause__))
