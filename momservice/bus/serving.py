# SPDX-License-Identifier: GPL-2.0-or-later
"""How calls are answered: checked before a body is read, charged to their user, authorized, decoded, run, answered in one line of text.

Part of the code that runs as root.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from momservice.bus.bounds import CALL_BYTES, ROOM_BYTES, SMALL_CALL_BYTES, Charge, Minutely, Room, Seldom, Turns
from momservice.bus.decoder import TooMuch, decoding, in_turns
from momservice.bus.library import MessageFlag, marshal_body
from momservice.bus.objects import ERROR, Call, CallError, Objects, Target
from momservice.bus.reading import Header, Taker
from momservice.bus.unread import SPARE_BYTES, Answers
from momservice.bus.users import Users
from momservice.bus.wire import MAX_BODY_BYTES, Bus, BusLost
from momservice.bus.writing import text_body
from momservice.text import shown

# What calls may take of the loop before others, and reading, have their turn.
TURN_S = 0.002
MAX_PER_TURN = 64
# While more comes than is read, so many pieces are read for each turn: whoever calls without wanting answers is held back by nothing else,
# and others' calls wait behind that on the bus.
PIECES_PER_TURN = 8
NO_OWNER = ERROR + "NameHasNoOwner"
# The system bus lets nobody ask itself for it.
MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

log = logging.getLogger(__name__)
log.addFilter(Seldom())


class Server:
    """Answers calls for objects. `users`: who is behind the names that call."""

    def __init__(self, bus: Bus, users: Users) -> None:
        self.objects = Objects()
        self.room = Room(ROOM_BYTES)
        self.pending: set[asyncio.Task[None]] = set()
        self._bus, self._users, self._unread = bus, users, Answers(bus.ask_statistics)
        self._refusals = Minutely()
        self._turns = Turns()
        self._per_turn, self._turning, self._began_s = 1, False, 0.0
        self._put_off = 0
        # Bodies that take their time are decoded one after the other, so that only one of them is in memory as values that nobody has seen.
        self._long = asyncio.Lock()

    def on_call(self, header: Header) -> Taker:
        """What is to take the body of a call; None: it isn't needed, all that there is to say has been said."""
        uid = self._users.known(header.sender)
        try:
            target = self._target(header)
            if _is_quiet(header) and (not target.export or header.member in target.export.answering):
                # No standard member does anything but answer either.
                return None
            charge = self.room.take(header.sender if uid is None else uid, header.sender, CALL_BYTES + header.body_bytes)
        except CallError as error:
            self._refuse(header, error)
            return None

        def take(body: bytearray) -> None:
            work = partial(self._begin, partial(self._answer, header, target, body, charge))
            if uid is None:
                self._users.asked(header.sender).add_done_callback(partial(self._learnt, header, charge, work))
            else:
                self._wait(uid, header, work)

        return take

    def _learnt(self, header: Header, charge: Charge, work: Callable[[], None], known: asyncio.Future[int]) -> None:
        """Nobody is answered before it is known whose connection this is: a user may have many, and who has left needs no answer."""
        # Not raised, which would make a circle of the error and this.
        error = known.exception()
        try:
            if error is None:
                self.room.move(charge, known.result())
        except CallError as refusal:
            error = refusal
        if error is None:
            self._wait(known.result(), header, work)
            return
        self.room.give(charge)
        if isinstance(error, CallError):
            self._refuse(header, error)

    def _wait(self, uid: int, header: Header, work: Callable[[], None]) -> None:
        """Answer when it is this caller's turn."""
        self._turns.put(uid, header.sender, work)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin some of what waits. The loop comes to it after this, and then to whoever else wants it."""
        loop = asyncio.get_running_loop()
        if self._bus.ended.done():
            # Nobody could be answered.
            return
        if self._bus.congested:
            self._per_turn = 1
            loop.call_later(TURN_S, self._turn)
            return
        if self._bus.behind and self._put_off < PIECES_PER_TURN:
            self._put_off += 1
            loop.call_soon(self._turn)
            return
        self._put_off = 0
        loop.call_soon(self._began)
        for _ in range(self._per_turn):
            if self._turns:
                self._turns.take()()
        loop.call_soon(self._ended)

    def _began(self) -> None:
        self._began_s = time.monotonic()

    def _ended(self) -> None:
        """Begin as much next time as takes some milliseconds."""
        quick = time.monotonic() - self._began_s < TURN_S
        self._per_turn = min(2 * self._per_turn, MAX_PER_TURN) if quick else max(self._per_turn // 2, 1)
        self._turning = bool(self._turns)
        if self._turning:
            self._turn()

    def _target(self, header: Header) -> Target:
        if header.body_bytes > MAX_BODY_BYTES:
            raise CallError(ERROR + "LimitsExceeded", f"the arguments are longer than {MAX_BODY_BYTES} bytes")
        target = self.objects.find(header.path, header.interface, header.member)
        if header.signature != target.signature:
            text = f"{target.member} takes arguments of signature '{target.signature}', not '{header.signature}'"
            raise CallError(ERROR + "InvalidArgs", text)
        return target

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(work())
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)

    async def _answer(self, header: Header, target: Target, body: bytearray, charge: Charge) -> None:
        try:
            await self._unread.settled(charge.user)
            result = await self._run(header, target, body)
            if not _is_quiet(header):
                await self._return(header, target.out_signature, result)
        except CallError as error:
            self._refuse(header, error)
        except BusLost:
            log.debug("no connection any more to answer %s", header.sender)
        except Exception:
            log.exception("internal error in %s.%s, called by %s", target.interface, target.member, header.sender)
            self._reply_error(header, CallError(ERROR + "Failed", "internal error: see the service's log"))
        finally:
            self.room.give(charge)

    async def _run(self, header: Header, target: Target, body: bytearray) -> Sequence[Any]:
        """Authorize, decode, run. Where the guard has to see the arguments it comes second."""
        export = target.export
        if not export:
            return self._standard(target, await self._decoded(header, body))
        interactive = bool(header.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION.value)

        def call(args: Sequence[Any]) -> Call:
            return Call(header.sender, target.path, target.interface, target.member, args, interactive)

        if export.guard_first:
            await export.guard(call(()))
        asked = call(await self._decoded(header, body))
        if not export.guard_first:
            await export.guard(asked)
        return await export.methods[target.member](asked)

    def _standard(self, target: Target, args: Sequence[Any]) -> Sequence[Any]:
        if target.member == "GetMachineId":
            return [_machine_id()]
        return self.objects.standard(target, args)

    async def _decoded(self, header: Header, body: bytearray) -> Sequence[Any]:
        steps = decoding(header.order, header.signature, body)
        try:
            if len(body) <= SMALL_CALL_BYTES:
                return tuple(await in_turns(steps))
            async with self._long:
                return tuple(await in_turns(steps))
        except TooMuch as error:
            raise CallError(ERROR + "LimitsExceeded", str(error)) from error
        except ValueError as error:
            raise CallError(ERROR + "InvalidArgs", str(error)) from error

    def _refuse(self, header: Header, error: CallError) -> None:
        if error.name == NO_OWNER:
            # The caller has left in mid-call.
            return
        self._reply_error(header, error)
        more = self._refusals.due(error.name)
        if more is not None:
            self._begin(partial(self._log_refusal, header, error, more))

    async def _log_refusal(self, header: Header, error: CallError, more: str) -> None:
        uid = "unknown"
        with suppress(CallError, BusLost):
            uid = str(await self._users.uid_of(header.sender))
        what, kind = shown(header.member), error.name.rpartition(".")[2]
        log.warning("refused %s to %s (uid %s): %s: %s%s", what, header.sender, uid, kind, shown(error.text), more)

    def _reply_error(self, header: Header, error: CallError) -> None:
        body = text_body(error.text)
        if not _is_quiet(header) and self._unread.take(self._users.known(header.sender), header.sender, len(body), SPARE_BYTES):
            self._reply(header, "s", body, error.name)

    async def _return(self, header: Header, signature: str, result: Sequence[Any]) -> None:
        body = result if isinstance(result, bytes) else marshal_body(signature, list(result))
        if not await self._unread.room(self._users.known(header.sender), header.sender, len(body)):
            raise CallError(ERROR + "LimitsExceeded", "too many answers wait to be read: read them first")
        self._reply(header, signature, body)

    def _reply(self, header: Header, signature: str, body: bytes, error_name: str = "") -> None:
        if not self._bus.offer_marshalled(header, signature, body, error_name):
            self._drop(header)

    @staticmethod
    def _drop(header: Header) -> None:
        log.warning("the bus takes no more: an answer to %s is dropped", header.sender)


def _is_quiet(header: Header) -> bool:
    """Whether the caller wants no answer."""
    return bool(header.flags & MessageFlag.NO_REPLY_EXPECTED.value)


def _machine_id() -> str:
    """The machine's identity. Raises CallError if it has none."""
    for path in MACHINE_IDS:
        with suppress(OSError, ValueError):
            if identity := path.read_text("ascii").strip():
                return identity
    raise CallError(ERROR + "Failed", "this machine has no identity")
