# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds that sample the host and the guests. Each collector is a firewall of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from momservice.chosen import Parts
from momservice.collectors import Moment
from momservice.config import Config
from momservice.controllers import World
from momservice.history import History
from momservice.hypervisor import GuestRecord, HypervisorUnavailable
from momservice.hypervisor.guests_state import STALE_INTERVALS
from momservice.reasons import Reasons
from momservice.slices import each, in_turns
from momservice.snapshot import EMPTY, Sample, Value
from momservice.text import fault
from momservice.watching import Watchers

log = logging.getLogger(__name__)


class Hypervisor(Protocol):
    """Where guests are learned of."""

    @property
    def connected(self) -> bool:
        """Whether it answers."""

    async def guests(self) -> Sequence[GuestRecord]:
        """The guests that there are now, by name, then UUID. Raises HypervisorUnavailable."""


class Sampling:
    """Samples into `history`, and tells the watchers."""

    def __init__(self, config: Config, parts: Parts, hypervisor: Hypervisor, reasons: Reasons, watchers: Watchers) -> None:
        self._config, self._parts = config, parts
        self._hypervisor, self._reasons, self._watchers = hypervisor, reasons, watchers
        self.history = History(config.history_length)
        self._unseen: Sample = EMPTY
        self._settling: asyncio.Future[None] | None = None
        self._seen_s = time.monotonic()
        self._asked = False

    def use(self, config: Config, parts: Parts) -> None:
        """Sample as another configuration says, from the next round on."""
        for kind in ("host", "guest"):
            # Of a collector that isn't used any more nobody else would ever say that it is well.
            for reason in _collectors(self._parts, kind).keys() - _collectors(parts, kind).keys():
                self._reasons.set(reason, "")
        self._config, self._parts = config, parts
        self.history.resize(config.history_length)

    @property
    def begun(self) -> bool:
        """Whether there are the first samples, of guests as well if libvirt is there."""
        return bool(self.history.host) and self._asked

    def world(self) -> World:
        """What controllers see: the newest figures of the host, and the guests that libvirt last told of."""
        host = {**(self.history.host[-1] if self.history.host else EMPTY), **self._unseen}
        return World(host, self.history.guests, time.monotonic(), time.time(), self._config.guest_monitor_interval_s)

    async def host_round(self) -> None:
        """Sample the host."""
        moment = self._moment()
        problems: dict[str, str] = {}
        self.history.host.append(self._collect([(part.NAME, partial(part.collect, moment)) for part in self._parts.host], problems))
        self._unseen = self._collect([(part.NAME, partial(part.collect, moment)) for part in self._parts.unseen], problems)
        await self._watchers.tell_in_turns("sampled", self.world())
        self._blame("host", problems)

    async def guest_round(self) -> None:
        """List the guests and sample each."""
        try:
            records = await self._hypervisor.guests()
        except HypervisorUnavailable as error:
            self._asked = True
            self._reasons.set("hypervisor", f"libvirt is unavailable: {error}")
            # No news isn't "no guests", for which variables from before this process wait; but old figures must not look fresh.
            known = [*self.history.guests.values()]
            if known and time.monotonic() - self._seen_s > STALE_INTERVALS * self._config.guest_monitor_interval_s:
                await self._sample_guests(known)
            return
        self._reasons.set("hypervisor", "")
        self._seen_s = time.monotonic()
        before = self.history.guests.keys()
        try:
            await self._sample_guests(records)
        finally:
            # Not earlier: the first run waits for it.
            self._asked = True
        now = self.history.guests.keys()
        if before != now:
            self._watchers.tell("guests_changed", sorted(now - before), sorted(before - now))
        # In a task of its own: a helper that hangs must not hold up the next sample.
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._parts.settle(records, self.world()))

    def _forget(self, uuid: str) -> None:
        for part in (*self._parts.guest, *self._parts.controllers):
            if forget := getattr(part, "forget", None):
                forget(uuid)

    async def _sample_guests(self, records: Sequence[GuestRecord]) -> None:
        moment, parts = self._moment(), self._parts.guest
        problems: dict[str, str] = {}

        def sample(record: GuestRecord) -> Sample:
            return self._collect([(part.NAME, partial(part.collect, record, moment)) for part in parts], problems)

        here = {record.uuid: record for record in records}
        row = await in_turns(each(sample, here.values()))
        # Guests and their samples at once: a run may come between two turns.
        for uuid in self.history.keep([*here.values()]):
            self._forget(uuid)
        self.history.sample(row)
        await self._watchers.tell_in_turns("sampled", self.world())
        self._blame("guest", problems)

    @staticmethod
    def _collect(sources: Sequence[tuple[str, Callable[[], Sample]]], problems: dict[str, str]) -> Sample:
        """One sample from several sources; one that fails costs its own fields and is noted."""
        sample: dict[str, Value] = {}
        for name, collect in sources:
            try:
                sample |= collect()
            except Exception as error:
                log.debug("collector %s", name, exc_info=True)
                problems.setdefault(name, f"collector {name} failed: {fault(error)}")
        return sample

    def _blame(self, kind: str, problems: Mapping[str, str]) -> None:
        """Only those that are in use now: a round may have begun before a reload."""
        for reason, name in _collectors(self._parts, kind).items():
            self._reasons.set(reason, problems.get(name, ""))

    def _moment(self) -> Moment:
        return Moment(time.monotonic(), time.time(), self._config.guest_monitor_interval_s, list(self.history.guests.values()))


def _collectors(parts: Parts, kind: str) -> dict[str, str]:
    """The names of the collectors in use, each by what its reason is called."""
    used = (*parts.host, *parts.unseen) if kind == "host" else parts.guest
    return {f"{kind} collector {part.NAME}": part.NAME for part in used}
