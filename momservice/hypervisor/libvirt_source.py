# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests as libvirt tells them, over its read-only connection.

One bulk call a pass tells states and balloon figures of all guests. It never waits for a QEMU that is busy, but it may wait for ever for
one that hangs and that nobody has asked yet: so every call runs in a thread of its own with a deadline. After a missed deadline the thread
and its connection are abandoned - libvirt then knows that this QEMU is busy - and a fresh connection tells of all others at once, of that
guest only what libvirt knows by itself (state, size of the balloon).

No event says that a job (migration, save) starts; the state stays "running". So jobs are asked for guest by guest after the bulk call:
66 us each, 2.6 of the 49 ms that a pass over 40 guests took. The question waits up to 30 s for a QEMU that hangs, so
guests that didn't answer aren't asked, and what isn't answered by the deadline counts as unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from momservice.hypervisor import JOB_UNKNOWN, Facts, GuestRecord, HypervisorUnavailable
from momservice.hypervisor.facts import UNREADABLE, parse_facts
from momservice.hypervisor.libvirt_common import DEFAULT_URI, one_line, silence_libvirt
from momservice.hypervisor.processes import RUN_DIR, find_qemu
from momservice.hypervisor.records import make_record
from momservice.hypervisor.workers import DeadlineMissed, NoThreadLeft, Workers
from momservice.slices import each, in_turns

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, int]

STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON
FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
# Another client's question to a guest keeps ours out for some milliseconds; so long until it is put again.
AGAIN_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
AGAIN_AFTER_S = (0.01, 0.03, 0.1)
MAX_THREADS = 8
# A pass takes 2 ms a guest inside libvirt; this allows five times that.
DEADLINE_S, DEADLINE_PER_GUEST_S = 3.0, 0.01
FIRST_BACK_OFF_S, MAX_BACK_OFF_S = 1.0, 15.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What is asked once per guest start, and whether its QEMU answered in the last pass. `facts`: None if libvirt didn't tell them."""

    facts: Facts | None
    pid: int | None
    answered: bool


@dataclass(frozen=True, slots=True)
class _Told:
    """One guest's part of a bulk answer. `domain` is libvirt's handle; `start` is another number at each start of a guest."""

    domain: Any
    uuid: str
    name: str
    start: int
    stats: Mapping[str, object]

    @property
    def key(self) -> Key:
        """What tells this guest from others and from its own earlier starts."""
        return self.uuid, self.start

    @property
    def answers(self) -> bool:
        """Whether its QEMU could be asked: of one that is busy or hangs libvirt tells only what it knows by itself."""
        return "balloon.rss" in self.stats


class Hypervisor:
    """The read-only connection to libvirt, opened when needed and again after a loss. Belongs to one asyncio loop.

    `uri`: a libvirt URI, "" for the system's QEMU. `run_dir`: where libvirt keeps the pid files of its QEMUs.
    """

    def __init__(self, uri: str = "", run_dir: Path = RUN_DIR) -> None:
        silence_libvirt()
        self._uri, self._run_dir = uri or DEFAULT_URI, run_dir
        self._workers = Workers(MAX_THREADS, "libvirt")
        self._connection: Any = None
        self._dead: list[Any] = []
        # Threads fill it as they go: one that misses its deadline has still spared the next one some questions.
        self._known: dict[Key, _Known] = {}
        self._expected = 0
        self._reason = "not asked yet"
        self._retry_s = 0.0
        self._back_off_s = FIRST_BACK_OFF_S

    @property
    def connected(self) -> bool:
        """Whether libvirt answered last time."""
        return not self._reason

    async def guests(self) -> tuple[GuestRecord, ...]:
        """All running guests (paused ones as well), by name, then UUID.

        Takes as long as libvirt does, at most a few deadlines. Raises HypervisorUnavailable, at once while the back-off lasts.
        """
        if time.monotonic() < self._retry_s:
            raise HypervisorUnavailable(self._reason)
        try:
            told = await self._ask_twice()
        except HypervisorUnavailable as error:
            self._reason = str(error)
            self._retry_s = time.monotonic() + self._back_off_s
            self._back_off_s = min(2 * self._back_off_s, MAX_BACK_OFF_S)
            raise
        self._reason, self._back_off_s = "", FIRST_BACK_OFF_S
        jobs = await self._ask_jobs(told)
        records = await in_turns(each(partial(self._record, jobs), told))
        return tuple(sorted(filter(None, records), key=lambda record: (record.name, record.uuid)))

    async def _ask_twice(self) -> Sequence[_Told]:
        """The bulk answer; after a failure once more on a fresh connection, since the old one may just have died."""
        try:
            return await self._ask()
        except HypervisorUnavailable as error:
            log.debug("%s: trying a fresh connection", error)
            return await self._ask()

    async def _ask(self) -> Sequence[_Told]:
        if self._connection is None:
            self._connection, self._expected = await self._run(partial(_open, self._uri, self._dead))
        told = await self._run(partial(_bulk, self._connection, self._known, self._run_dir))
        self._expected = len(told)
        self._known = {guest.key: self._known[guest.key] for guest in told}
        return told

    async def _run(self, function: Callable[[], T]) -> T:
        """Run in a thread; a call that fails or hangs costs the connection."""
        deadline_s = DEADLINE_S + DEADLINE_PER_GUEST_S * self._expected
        try:
            return await self._workers.run(function, deadline_s)
        except (libvirt.libvirtError, DeadlineMissed, NoThreadLeft) as error:
            self._drop()
            raise HypervisorUnavailable(one_line(error)) from error

    def _drop(self) -> None:
        if self._connection is not None:
            self._dead.append(self._connection)
        self._connection = None

    async def _ask_jobs(self, told: Sequence[_Told]) -> Mapping[Key, int | None]:
        """Jobs by guest as far as they are answered in time; None for a guest that is gone."""
        jobs: dict[Key, int | None] = {}
        try:
            await self._run(partial(_jobs, told, jobs))
        except HypervisorUnavailable as error:
            log.debug("jobs of guests: %s", error)
        return dict(jobs)

    def _record(self, jobs: Mapping[Key, int | None], guest: _Told) -> GuestRecord | None:
        """None for a guest that is gone."""
        job = jobs.get(guest.key, JOB_UNKNOWN)
        if job is None:
            return None
        known = self._known[guest.key]
        return make_record(guest.uuid, guest.name, guest.stats, known.facts or UNREADABLE, job, known.pid)


def _open(uri: str, dead: list[Any]) -> tuple[Any, int]:
    """In a thread: connect and count the guests. To let go of a connection is a call to libvirtd, too, so old ones are dropped here."""
    dead.clear()
    connection = libvirt.openReadOnly(uri)
    return connection, connection.numOfDomains()


def _bulk(connection: Any, known: dict[Key, _Known], run_dir: Path) -> Sequence[_Told]:
    """In a thread: the statistics of all guests; adds to `known` what is not known yet of them."""
    told = []
    for guest in _stats(connection, known):
        found = _learn(guest, known.get(guest.key), run_dir)
        if found is not None:
            known[guest.key] = found
            told.append(guest)
    return told


def _learn(guest: _Told, before: _Known | None, run_dir: Path) -> _Known | None:
    """None if the guest has gone in between. What couldn't be found out before is asked again."""
    facts = before.facts if before else None
    if facts is None:
        try:
            facts = parse_facts(guest.domain.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            log.debug("guest %s: its definition can't be read: %s", guest.uuid, one_line(error))
    # The pid file may come later than the guest.
    pid = before.pid if before and before.pid else find_qemu(guest.name, run_dir)
    return _Known(facts, pid, guest.answers)


def _stats(connection: Any, known: Mapping[Key, _Known]) -> Iterable[_Told]:
    """One bulk call; guests that have fallen silent are asked again in a moment, those that stay silent only once a pass."""
    told = _by_key(connection.getAllDomainStats(STATS, FLAGS))
    for pause_s in AGAIN_AFTER_S:
        silent = [guest.domain for key, guest in told.items() if not guest.answers and (key not in known or known[key].answered)]
        if not silent:
            break
        time.sleep(pause_s)
        again = _by_key(connection.domainListGetStats(silent, STATS, AGAIN_FLAGS))
        # One that has ended by now is told of as another: a guest without a start.
        told |= {key: guest for key, guest in again.items() if key in told}
    return told.values()


def _by_key(answer: Iterable[tuple[Any, Mapping[str, object]]]) -> dict[Key, _Told]:
    guests = (_Told(domain, domain.UUIDString(), domain.name(), domain.ID(), stats) for domain, stats in answer)
    return {guest.key: guest for guest in guests}


def _jobs(told: Sequence[_Told], jobs: dict[Key, int | None]) -> None:
    """In a thread: fills `jobs` as answers come, so that they are not lost with the deadline."""
    for guest in told:
        if guest.answers:
            jobs[guest.key] = _job(guest)


def _job(guest: _Told) -> int | None:
    try:
        kind = guest.domain.jobStats().get("type")
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        # libvirt's test driver has no jobs.
        return 0 if code == libvirt.VIR_ERR_NO_SUPPORT else JOB_UNKNOWN
    return kind if isinstance(kind, int) and kind >= 0 else JOB_UNKNOWN
