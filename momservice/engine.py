# SPDX-License-Identifier: GPL-2.0-or-later
"""The cycle: collect -> evaluate -> apply -> publish.

Three rounds on clocks of their own (host, guests, policy) and a tick that looks after them, all in one event loop. Each round is a
firewall: whatever goes wrong in it is reported, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from momservice.acting import Actor
from momservice.chosen import Parts
from momservice.config import Config, ConfigError, needs_restart
from momservice.controllers import HelperUnavailable
from momservice.errors import InvalidConfiguration
from momservice.hypervisor.workers import Workers
from momservice.pausing import Pausing
from momservice.policy import Decisions, Program, decide
from momservice.reasons import Reasons
from momservice.sampling import Hypervisor, Sampling
from momservice.snapshot import EMPTY, Sample, Snapshot, Value
from momservice.store import PolicyStore
from momservice.text import fault, shown
from momservice.watching import PolicyRun

log = logging.getLogger(__name__)

# The watchdog is fed at least so often, whatever the intervals.
MAX_TICK_S = 5
# As many as can be explained.
KEPT_RUNS = 10
# A round that has not ended for so many of its intervals, and so many seconds, is stuck.
STUCK_INTERVALS, STUCK_S = 3, 60


class Engine:
    """Runs the rounds and tells how they go. Public attributes are what `org.ovirt.Mom1.Manager` shows."""

    def __init__(
        self, config: Config, parts: Parts, configure: Callable[[], tuple[Config, Parts]], store: PolicyStore, hypervisor: Hypervisor
    ) -> None:
        """`configure` reads the configuration anew, for `reload`."""
        self._config, self._parts, self._configure = config, parts, configure
        self._store = store
        self._hypervisor = hypervisor
        # Who wants to hear what happens, here and in the store.
        self.watchers = store.watchers
        # The last runs, newest last.
        self.runs: deque[PolicyRun] = deque(maxlen=KEPT_RUNS)
        self._run_number = 0
        self._reasons = Reasons(changed=partial(self.watchers.tell, "reasons_changed"))
        self._sampling = Sampling(config, parts, hypervisor, self._reasons, self.watchers)
        self._actor = Actor(parts.controllers, self._reasons, self.watchers)
        self._thread = Workers(1, "run")
        self._pausing = Pausing(self._paused_or_resumed)
        # Why the last run wasn't the compiled form's.
        self._abandoned = ""
        self._beats: dict[str, tuple[float, int]] = {}
        self._wake = asyncio.Event()
        self.last_evaluation_us = 0
        self.evaluation_duration_us = 0

    # What clients see

    @property
    def metrics_file(self) -> Path | None:
        """Where the configuration in force wants metrics; None: nowhere."""
        return self._config.metrics_file

    @property
    def interval_ms(self) -> int:
        """The interval of policy runs."""
        return self._config.policy_engine_interval_s * 1000

    @property
    def hypervisor_connected(self) -> bool:
        """Whether libvirt answers."""
        return self._hypervisor.connected

    @property
    def helper_available(self) -> bool:
        """Whether the helpers answered when they were last needed."""
        return self._actor.helpers_available

    @property
    def last_error(self) -> str:
        """The last error of any part, one line; "" for none."""
        return self._reasons.last_error

    def status(self) -> tuple[str, list[str]]:
        """("starting" | "active" | "degraded" | "paused", reasons)."""
        reasons = [*self._store.problems, *self._reasons.lines.values()]
        if self._pausing.reason:
            return "paused", [self._pausing.reason, *reasons]
        if not self.last_evaluation_us:
            return "starting", reasons
        return ("degraded" if reasons else "active"), reasons

    def set_reason(self, part: str, reason: str) -> None:
        """Say why another part (polkit) isn't well; "" when it is."""
        self._reasons.set(part, reason)

    def statistics(self) -> tuple[Sample, dict[str, Sample]]:
        """The newest values of the host's fields and of each guest's by UUID."""
        host = self._sampling.history.host[-1] if self._sampling.history.host else EMPTY
        return host, self._sampling.history.newest()

    def active_guests(self) -> list[tuple[str, str]]:
        """UUID and name of each guest, by name."""
        return [(record.uuid, record.name) for record in self._sampling.history.guests.values()]

    def pause(self, reason: str, seconds: int) -> None:
        """Stop deciding for so long, 0: until `resume`."""
        self._pausing.begin(reason, seconds)

    def resume(self) -> None:
        """End a pause. Without one nothing happens."""
        self._pausing.end()

    def _paused_or_resumed(self) -> None:
        self.watchers.tell("reasons_changed", self._reasons.lines)
        if not self._pausing.reason:
            self.wake()

    def set_verbosity(self, level: int) -> None:
        """Log from this level of the logging module on, until the configuration is read again."""
        logging.getLogger().setLevel(level)
        log.info("the verbosity is %s from now on", logging.getLevelName(level).lower())

    def wake(self) -> None:
        """Run the policy now rather than at the end of the interval."""
        self._wake.set()

    def snapshot(self) -> Snapshot | None:
        """The world now; None before the first host sample."""
        if not self._sampling.history.host:
            return None
        return self._sampling.history.snapshot(self._config.policy_engine_interval_s, time.time_ns() // 1000)

    @property
    def variables(self) -> Mapping[str, Mapping[str, Value]]:
        """What policies have kept, by entity. Set once, before the first run, to what they had kept in the process before."""
        return self._sampling.history.variables

    @variables.setter
    def variables(self, kept: Mapping[str, Mapping[str, Value]]) -> None:
        self._sampling.history.variables = kept

    # The rounds

    async def run(self, feed_watchdog: Callable[[], None]) -> None:
        """Run until cancelled."""
        await self._actor.ask_ksm(self._parts.begin)
        self._beats = {name: (time.monotonic(), MAX_TICK_S) for name in ("host", "guests", "lease", "policy")}
        await asyncio.gather(
            self._every("host", lambda: self._config.host_monitor_interval_s, self._sampling.host_round),
            self._every("guests", lambda: self._config.guest_monitor_interval_s, self._sampling.guest_round),
            self._every("lease", lambda: MAX_TICK_S, self._lease_round),
            self._policy_rounds(),
            self._ticks(feed_watchdog),
        )

    async def _every(self, name: str, interval_s: Callable[[], int], work: Callable[[], Awaitable[None]]) -> None:
        due = time.monotonic()
        while True:
            await self._guarded(name, interval_s(), work)
            # Rounds keep their beat; one that took longer than its interval isn't made up for.
            due = max(due + interval_s(), time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _policy_rounds(self) -> None:
        while not self._sampling.begun:
            await asyncio.sleep(0.05)
        while True:
            interval_s = self._config.policy_engine_interval_s
            self._wake.clear()
            await self._guarded("policy", interval_s, self._policy_round)
            try:
                await asyncio.wait_for(self._wake.wait(), interval_s)
            except TimeoutError:
                continue

    async def _guarded(self, name: str, interval_s: int, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self._reasons.set(f"round {name}", "")
        except Exception as error:
            log.debug("round %s", name, exc_info=True)
            self._reasons.set(f"round {name}", f"internal error in the {name} round: {fault(error)}")
        self._beats[name] = (time.monotonic(), interval_s)

    async def _ticks(self, feed_watchdog: Callable[[], None]) -> None:
        while True:
            if not self.stuck():
                feed_watchdog()
            await asyncio.sleep(min(self._config.main_loop_interval_s, MAX_TICK_S))

    def stuck(self) -> list[str]:
        """The rounds that haven't ended for far too long."""
        now = time.monotonic()
        return [name for name, (then, interval_s) in self._beats.items() if now - then > interval_s * STUCK_INTERVALS + STUCK_S]

    async def _lease_round(self) -> None:
        await self._actor.ask_for_missed()
        await self._actor.ask_ksm(self._parts.renew)

    async def _policy_round(self) -> None:
        world = self.snapshot()
        if self._pausing.reason or world is None:
            return
        world = replace(world, parameters=self._store.values)
        program, generation = self._store.program, self._store.generation
        # In a thread: a policy may take a second.
        decisions, took_us = await self._thread.run(partial(_timed, program, world), None)
        if self._pausing.reason or generation != self._store.generation:
            # It was overtaken: by a pause, or by other policies or parameters, whose run is next.
            return
        self.last_evaluation_us, self.evaluation_duration_us = world.taken_us, took_us
        self._run_number += 1
        run = PolicyRun(self._run_number, generation, program, world, decisions, took_us)
        self.runs.append(run)
        self._take(decisions)
        self.watchers.tell("ran", run)
        await self._actor.apply(run, self._sampling.world(), self._config.policy_engine_interval_s / 2)
        self.watchers.tell("acted", run)

    def _take(self, decisions: Decisions) -> None:
        self._sampling.history.take(decisions.variables)
        for text in decisions.debug:
            log.debug("policy: %s", shown(text, 1000))
        self._reasons.set("policy", self._trouble(decisions))
        if decisions.abandoned != self._abandoned and decisions.abandoned not in ("", "limit"):
            log.warning("the policy runs slower than it could, for it can't be compiled: %s", shown(decisions.abandoned))
        self._abandoned = decisions.abandoned

    def _trouble(self, decisions: Decisions) -> str:
        """What went wrong in a run, one line; "" for nothing."""
        if not decisions.failures:
            return ""
        first, more = decisions.failures[0], len(decisions.failures) - 1
        guest = self._sampling.history.guests.get(first.entity or "")
        line = f"policy run: {f'guest {shown(guest.name)}: ' if guest else ''}{first}{f' (and {more} more)' if more else ''}"
        return line + ("; the run was ended and no control of it is applied" if decisions.ended else "")

    # Changes of the whole

    async def reload(self) -> None:
        """Read configuration and policies again. Raises InvalidPolicy or InvalidConfiguration, before anything changes."""
        try:
            config, parts = self._configure()
        except ConfigError as error:
            for problem in error.problems:
                log.error("not reloaded: %s", problem)
            text = "the configuration can't be used and nothing is changed: momservice --check-config says why"
            raise InvalidConfiguration(text) from None
        await self._store.reload(config, parts.schema)
        for key in needs_restart(self._config, config):
            log.warning("%s takes effect at the next start of the service", key)
        for warning in config.warnings:
            log.warning("%s", warning)
        logging.getLogger().setLevel(config.verbosity)
        self._config, self._parts = config, parts
        self._sampling.use(config, parts)
        self._actor.use(parts.controllers)
        log.info("configuration and policies reloaded")
        self.wake()

    async def stop(self) -> None:
        """Put the knobs back; whatever can't be done in time the helper does by itself."""
        try:
            await self._parts.restore()
        except HelperUnavailable as error:
            log.warning("the helper will put the knobs back by itself: %s", error)


def _timed(program: Program, world: Snapshot) -> tuple[Decisions, int]:
    """What a program decides, and how long that took, in microseconds."""
    begin = time.perf_counter()
    decisions = decide(program, world)
    return decisions, int((time.perf_counter() - begin) * 1e6)
