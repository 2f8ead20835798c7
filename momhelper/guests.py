# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper-guests: the unprivileged process that alone holds a writing libvirt connection. Sets balloon targets and statistics periods.

Obeys only momservice (gate.py), takes nothing but UUIDs and numbers, checks each guest by itself and tells what became of it. Each guest
has a deadline; a guest that missed it is refused until libvirt has returned from it. Ends when it hasn't been needed for a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import libvirt

from momhelper.gate import Gate
from momservice.bus.connection import BUS, ERROR, BusLost, Call, CallError, Connection, Export, load_interfaces
from momservice.hypervisor.libvirt_common import DEFAULT_URI, one_line, silence_libvirt
from momservice.hypervisor.workers import DeadlineMissed, NoThreadLeft, Workers
from momservice.stopping import stop_asked

log = logging.getLogger("momhelper-guests")

NAME = "org.ovirt.MomGuestHelper1"
PATH = "/org/ovirt/MomGuestHelper1"
XML = "org.ovirt.MomGuestHelper1.xml"
IDLE_S = 60.0
MAX_GUESTS = 10_000
# No guest lives in less; a target of 0 is never a figure.
MIN_TARGET_BYTES = 1 << 20
MIN_PERIOD_S, MAX_PERIOD_S = 1, 3600
GUEST_DEADLINE_S = 3.0
# Callers wait 10 s.
CALL_DEADLINE_S = 8.0
# libvirtd answers five calls of one connection at a time.
PARALLEL = 4
MAX_THREADS = 16
# libvirt's client (seen with 9.0) may overlook a call that comes just when another one begins to wait for its answer. It sees both with the
# next call, so there is one as long as any are under way: a guest that hangs would let others wait as well.
NUDGE_S = 0.2

Outcome = tuple[str, str]
Action = Callable[[Any], Outcome]

OK: Outcome = ("ok", "")
OUTCOMES = {
    libvirt.VIR_ERR_NO_DOMAIN: "unknown-guest",
    libvirt.VIR_ERR_INVALID_ARG: "out-of-range",
    libvirt.VIR_ERR_OPERATION_TIMEOUT: "timeout",
}


class Guests:
    """The writing connection and the threads that use it. Belongs to one asyncio loop."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._workers = Workers(MAX_THREADS, "guest")
        self._connection: Any = None
        self._dead: list[Any] = []
        # Guests whose last call hasn't returned.
        self._stuck: set[str] = set()

    async def act(self, actions: Sequence[tuple[str, Action]]) -> list[tuple[str, str, str]]:
        """Do each guest's action on its libvirt handle, a few at a time; the outcomes in the order of the guests."""
        end_s = time.monotonic() + CALL_DEADLINE_S
        try:
            self._connection = await self._workers.run(partial(_connect, self._uri, self._connection, self._dead), GUEST_DEADLINE_S)
        except (libvirt.libvirtError, DeadlineMissed, NoThreadLeft) as error:
            self._drop()
            log.warning("libvirt is unavailable: %s", one_line(error))
            return [(guest, "unavailable", one_line(error)) for guest, _ in actions]
        turn = asyncio.Semaphore(PARALLEL)
        nudging = asyncio.ensure_future(self._nudge(self._connection))
        try:
            outcomes = await asyncio.gather(*(self._in_turn(turn, guest, action, end_s) for guest, action in actions))
        finally:
            nudging.cancel()
        return [(guest, *outcome) for (guest, _), outcome in zip(actions, outcomes, strict=True)]

    async def _nudge(self, connection: Any) -> None:
        while True:
            await asyncio.sleep(NUDGE_S)
            with suppress(libvirt.libvirtError, DeadlineMissed, NoThreadLeft):
                await self._workers.run(connection.getLibVersion, GUEST_DEADLINE_S)

    async def _in_turn(self, turn: asyncio.Semaphore, guest: str, action: Action, end_s: float) -> Outcome:
        async with turn:
            if guest in self._stuck:
                return "unavailable", "an earlier call to this guest hasn't returned yet"
            if time.monotonic() > end_s or self._connection is None:
                return "unavailable", "other guests took too long"
            outcome = await self._one(guest, action)
        if outcome != OK:
            log.info("guest %s: %s: %s", guest, *outcome)
        return outcome

    async def _one(self, guest: str, action: Action) -> Outcome:
        self._stuck.add(guest)
        try:
            call = partial(_guarded, self._connection, guest, action, time.monotonic() + GUEST_DEADLINE_S)
            return await self._workers.run(call, GUEST_DEADLINE_S, partial(self._stuck.discard, guest))
        except DeadlineMissed as error:
            # libvirtd serves only so many calls of one connection: leave this one to those that hang.
            self._drop()
            return "timeout", str(error)
        except NoThreadLeft as error:
            self._stuck.discard(guest)
            return "unavailable", str(error)

    def _drop(self) -> None:
        if self._connection is not None:
            self._dead.append(self._connection)
        self._connection = None


def _connect(uri: str, connection: Any, dead: list[Any]) -> Any:
    """In a thread: the connection, a fresh one if it has died. To let go of one is a call to libvirtd as well, so that happens here."""
    dead.clear()
    if connection is not None:
        try:
            connection.getLibVersion()
        except libvirt.libvirtError:
            log.info("libvirt has gone: connecting again")
        else:
            return connection
    return libvirt.open(uri)


def _guarded(connection: Any, guest: str, action: Action, end_s: float) -> Outcome:
    """In a thread: the action, unless a job is running; libvirt's errors as outcomes."""
    try:
        domain = connection.lookupByUUIDString(guest)
        if _has_job(domain):
            return "busy", "a job is running in the guest"
        if time.monotonic() > end_s:
            # The caller has been told so already: what it wanted then may be wrong now.
            return "timeout", "the guest's job state came too late"
        return action(domain)
    except libvirt.libvirtError as error:
        outcome = OUTCOMES.get(error.get_error_code(), "failed")
        return outcome if _is_alive(connection) else "unavailable", one_line(error)


def _is_alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _has_job(domain: Any) -> bool:
    try:
        return bool(domain.jobStats().get("type"))
    except libvirt.libvirtError as error:
        # The receiving end of a migration can't tell; libvirt's test driver has no jobs.
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise


def _set_memory(target_bytes: int, domain: Any) -> Outcome:
    maximum_bytes = domain.maxMemory() * 1024
    if not MIN_TARGET_BYTES <= target_bytes <= maximum_bytes:
        return "out-of-range", f"{target_bytes} bytes are outside of {MIN_TARGET_BYTES} to {maximum_bytes}"
    domain.setMemory(target_bytes // 1024)
    return OK


def _set_period(seconds: int, domain: Any) -> Outcome:
    domain.setMemoryStatsPeriod(seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return OK


def checked(guests: Sequence[str]) -> None:
    """Raise CallError unless it is a list of different UUIDs in libvirt's spelling, not too long."""
    if len(guests) > MAX_GUESTS:
        raise CallError(ERROR + "LimitsExceeded", f"{len(guests)} guests in one call: {MAX_GUESTS} are allowed")
    if len(set(guests)) != len(guests):
        raise CallError(ERROR + "InvalidArgs", "a guest is named twice")
    for number, guest in enumerate(guests):
        if not _is_uuid(guest):
            raise CallError(ERROR + "InvalidArgs", f"guest {number + 1} of the list is not named by a UUID")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


class Helper:
    """The methods on the bus, and how long ago they were last of use."""

    def __init__(self, guests: Guests, check: Callable[[Call], Awaitable[None]]) -> None:
        self._guests, self._check = guests, check
        self._used_s = time.monotonic()
        self._under_way = 0

    @property
    def export(self) -> Export:
        """The interface to be served."""
        methods = {"SetMemory": self._set_memory, "SetStatsPeriod": self._set_stats_period}
        return Export(load_interfaces(XML)[NAME], methods, self._guard, guard_first=True)

    async def _guard(self, call: Call) -> None:
        # Refused callers don't keep the helper alive.
        await self._check(call)
        self._used_s = time.monotonic()

    async def _set_memory(self, call: Call) -> Sequence[Any]:
        (targets,) = call.args
        checked([guest for guest, _ in targets])
        return await self._act([(guest, partial(_set_memory, target_bytes)) for guest, target_bytes in targets])

    async def _set_stats_period(self, call: Call) -> Sequence[Any]:
        guests, seconds = call.args
        if not MIN_PERIOD_S <= seconds <= MAX_PERIOD_S:
            raise CallError(ERROR + "InvalidArgs", f"a period of {seconds} s: {MIN_PERIOD_S} to {MAX_PERIOD_S} are allowed")
        checked(guests)
        return await self._act([(guest, partial(_set_period, seconds)) for guest in guests])

    async def _act(self, actions: Sequence[tuple[str, Action]]) -> Sequence[Any]:
        self._under_way += 1
        try:
            return [[list(outcome) for outcome in await self._guests.act(actions)]]
        finally:
            self._under_way -= 1
            self._used_s = time.monotonic()

    async def idle(self) -> None:
        """Wait until nobody has needed this process for a minute."""
        while (rest_s := self._used_s + IDLE_S - time.monotonic()) > 0 or self._under_way:
            await asyncio.sleep(max(rest_s, 1.0))


async def serve(uri: str) -> int:
    """Serve until idle (0), told to stop (0) or without a bus (1)."""
    try:
        connection = await Connection.open()
        gate, stop = Gate(connection), stop_asked()
        helper = Helper(Guests(uri), gate.check)
        await gate.open()
        connection.serve(PATH, helper.export)
        await connection.own(NAME)
    except (BusLost, CallError) as error:
        log.error("%s", error)
        return 1
    ends = [asyncio.ensure_future(end) for end in (helper.idle(), stop.wait(), connection.lost())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if ends[2].done():
        log.error("the connection to the system bus is gone")
        return 1
    await _leave_bus(connection)
    return 0


async def _leave_bus(connection: Connection) -> None:
    """Give the name up first: the bus then starts a new helper for a call that comes now, rather than losing it with us."""
    try:
        await connection.call(*BUS, "ReleaseName", "s", NAME, deadline_s=1)
    except (BusLost, CallError) as error:
        log.warning("cannot release the name: %s", error)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Ends the process."""
    parser = argparse.ArgumentParser(prog="momhelper-guests", description="Sets guests' balloons for momservice. Started by the bus.")
    parser.add_argument("--uri", default=DEFAULT_URI, help="libvirt connection URI (default: %(default)s)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    silence_libvirt()
    status = asyncio.run(serve(options.uri))
    logging.shutdown()
    # Not the interpreter's way out: it closes libvirt's connection, which waits for a libvirtd that hangs.
    os._exit(status)


if __name__ == "__main__":
    main()
