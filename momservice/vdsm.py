# SPDX-License-Identifier: GPL-2.0-or-later
"""The class that oVirt's VDSM calls, by the names and with the results that it has always used.

VDSM asks for statistics every few seconds and from several threads, and must not be held up or broken by a service that isn't there. So
nothing here takes longer than two seconds, and a service that is away is a warning in the log once a minute: no statistics, "inactive", and
what was to be set is kept and handed over once the service is back. Only what the service refuses is raised, as the classes of
momservice.errors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict, TypeVar

from momservice.bus.connection import ERROR, CallError, Connection
from momservice.bus.names import MANAGER, POLICY
from momservice.bus.variants import Scalar, carried, plain, sendable
from momservice.link import Link, ServiceUnavailable
from momservice.loop_thread import LoopEnded, LoopThread
from momservice.snapshot import Sample

log = logging.getLogger("momservice.vdsm")

# With what it takes to give up this is below 2 s.
DEADLINE_S = 1.8
WARNING_INTERVAL_S = 60.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20

T = TypeVar("T")


class KsmStats(TypedDict, total=False):
    """What VDSM reports of KSM. `memShared`: MiB of pages that share others. `ksmCpu`: per cent of one CPU."""

    ksmState: bool
    ksmPages: int
    ksmMergeAcrossNodes: bool
    memShared: int
    ksmCpu: float


class VdsmMomClient:
    """The service as VDSM sees it. Any thread may call any method; the object is good for the life of the process."""

    def __init__(self, address: str | None = None) -> None:
        """address: of the bus, if it isn't the system's."""
        self._service = Service(Link(partial(Connection.open, address)))
        self._thread = LoopThread("mom-vdsm")
        self._warned_s: float | None = None

    def connect(self) -> None:
        """Look whether the service is there, for the log. No call needs this first."""
        self.getStatus()

    def getKsmStats(self) -> KsmStats:
        """The newest figures. What the host doesn't tell is left out; {} without the service."""
        return _ksm_stats(self._asked(self._service.host_statistics(), "KSM statistics are missing") or {})

    def getStatus(self) -> str:
        """Whether the service answers: "active" or "inactive"."""
        return "active" if self._asked(self._service.ping(), "its status is inactive") else "inactive"

    def setPolicy(self, text: str) -> None:
        """Set the policy named 50_main_. Raises InvalidPolicy with the place and the reason if it is refused.

        With the service away it is kept, and loaded when the service is back; if it is refused then, the log has the reason.
        """
        self._reached(self._service.set_policy(carried(text)), "the policy is kept until it is back")

    def setPolicyParameters(self, values: Mapping[str, Scalar]) -> None:
        """Set these parameters, each with its type, and leave the others. Raises UnknownParameter or InvalidArgs if they are refused.

        With the service away they are kept as a policy is.
        """
        sendable(values)
        self._reached(self._service.set_parameters(dict(values)), "the parameters are kept until it is back")

    def close(self) -> None:
        """End the connection; what is called after that finds no service."""
        with suppress(LoopEnded, TimeoutError):
            self._thread.run(self._service.close(), DEADLINE_S)
        self._thread.close()

    def _asked(self, work: Coroutine[Any, Any, T], consequence: str) -> T | None:
        """The answer to a question, None if there is none for whatever reason: nothing is broken by that."""
        try:
            return self._reached(work, consequence)
        except CallError as error:
            self._warn(str(error), consequence)
            return None

    def _reached(self, work: Coroutine[Any, Any, T], consequence: str) -> T | None:
        """The outcome, None if the service isn't there or doesn't answer in time. Raises CallError for a refusal."""
        try:
            return self._thread.run(work, DEADLINE_S)
        except LoopEnded:
            self._warn("the client is closed", consequence)
        except TimeoutError:
            self._warn("momservice does not answer", consequence)
        except ServiceUnavailable as error:
            self._warn(str(error), consequence)
        except CallError as error:
            if error.name != ERROR + "Timeout":
                raise
            self._warn(str(error), consequence)
        return None

    def _warn(self, reason: str, consequence: str) -> None:
        now_s = time.monotonic()
        if self._warned_s is None or now_s - self._warned_s >= WARNING_INTERVAL_S:
            self._warned_s = now_s
            log.warning("%s: %s", reason, consequence)


class Service:
    """The service's side of it, all in one loop, which a deadline may cancel: what is to be set, and wasn't yet, is remembered here."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._policy: str | None = None
        self._parameters: dict[str, Scalar] = {}
        self._payment: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    async def ping(self) -> bool:
        """Whether the service answers."""
        return bool((await self._answer(MANAGER, "Ping"))[0])

    async def host_statistics(self) -> Sample:
        """The newest values of the host's fields."""
        return plain((await self._answer(MANAGER, "GetHostStatistics"))[0])

    async def set_policy(self, text: str) -> None:
        """Load the text; it is owed until it is loaded or refused."""
        self._policy = text
        await self._pay_policy()
        self._pay_later()

    async def set_parameters(self, values: Mapping[str, Scalar]) -> None:
        """Set these; they are owed until they are set or refused. A policy that is owed may be what knows them, so it goes first."""
        self._parameters |= values
        if self._policy is not None:
            await self._quietly(self._pay_policy())
        # In another thread's call they may have got other values meanwhile, or have been set.
        if owed := {name: self._parameters[name] for name in values if name in self._parameters}:
            await self._pay_parameters(owed)
        self._pay_later()

    async def _answer(self, interface: str, member: str) -> Any:
        answer = await self._link.call(interface, member, deadline_s=DEADLINE_S)
        self._pay_later()
        return answer

    def _pay_later(self) -> None:
        """The service is there: hand over what it is owed, in the background."""
        if (self._policy is not None or self._parameters) and (self._payment is None or self._payment.done()):
            self._payment = asyncio.ensure_future(self._pay())

    async def _pay(self) -> None:
        if self._policy is not None:
            await self._quietly(self._pay_policy())
        if self._parameters and self._policy is None:
            await self._quietly(self._pay_all_parameters())

    async def _quietly(self, payment: Coroutine[Any, Any, None]) -> None:
        """Nobody waits any longer for what is paid late: the log tells of a refusal."""
        try:
            await payment
        except ServiceUnavailable as error:
            log.debug("still not set: %s", error)
        except CallError as error:
            if error.name == ERROR + "Timeout":
                log.debug("still not set: %s", error)
            else:
                log.error("what was kept for momservice is refused: %s", error)

    async def _pay_policy(self) -> None:
        text = self._policy
        try:
            await self._link.call(POLICY, "SetPolicy", "s", text, deadline_s=DEADLINE_S)
        except CallError as error:
            if error.name == ERROR + "Timeout":
                raise
            self._policy_paid(text)
            raise
        self._policy_paid(text)

    def _policy_paid(self, text: str | None) -> None:
        # Another may have been set meanwhile.
        if self._policy is text:
            self._policy = None

    async def _pay_all_parameters(self) -> None:
        """At once or, where that is refused, one by one: they may be of several calls, and none is to suffer for another."""
        owed = dict(self._parameters)
        try:
            await self._send_parameters(owed)
        except CallError as error:
            if error.name == ERROR + "Timeout":
                raise
            for name, value in owed.items():
                await self._quietly(self._pay_parameters({name: value}))
            return
        self._parameters_paid(owed)

    async def _send_parameters(self, values: Mapping[str, Scalar]) -> None:
        await self._link.call(POLICY, "SetParameters", "a{sv}", sendable(values), deadline_s=DEADLINE_S)

    async def _pay_parameters(self, values: Mapping[str, Scalar]) -> None:
        try:
            await self._send_parameters(values)
        except CallError as error:
            if error.name == ERROR + "Timeout":
                raise
            self._parameters_paid(values)
            raise
        self._parameters_paid(values)

    def _parameters_paid(self, values: Mapping[str, Scalar]) -> None:
        self._parameters = {name: value for name, value in self._parameters.items() if name not in values or values[name] is not value}


def _ksm_stats(host: Sample) -> KsmStats:
    stats = KsmStats()
    match host.get("ksm_run"):
        case int(run):
            # 2: stopped, and all unmerged.
            stats["ksmState"] = run == 1
    match host.get("ksm_pages_to_scan"):
        case int(pages):
            stats["ksmPages"] = pages
    match host.get("ksm_merge_across_nodes"):
        case int(across):
            stats["ksmMergeAcrossNodes"] = bool(across)
    match host.get("ksm_pages_sharing"):
        case int(sharing):
            stats["memShared"] = sharing * PAGE_BYTES // MIB
    match host.get("ksmd_cpu_usage"):
        case int() | float() as usage:
            stats["ksmCpu"] = float(usage)
    return stats
