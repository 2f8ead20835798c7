# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to the system bus as client and as server.

Shared by momservice, momctl and both helpers, so it is part of the code that runs as root, with objects and wire: small, and with nothing
but the standard library and dbus-next behind it. What they add to dbus-next: calls with deadlines that fail when the bus goes away,
handlers that know their caller, members and signatures checked against the introspection XML before a body is decoded, room for others
whatever one caller does, errors that are one line of text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dbus_next import Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant

from momservice.bus.objects import ERROR, Call, CallError, Export, Interface, Marshalled, Objects, Target, clean, load_interfaces
from momservice.bus.wire import CALL, MAX_BODY_BYTES, Bus, Header, Taker, decode

__all__ = [
    "ERROR",
    "BusLost",
    "Call",
    "CallError",
    "Connection",
    "Export",
    "Interface",
    "Marshalled",
    "Signal",
    "Subscription",
    "Variant",
    "clean",
    "load_interfaces",
]

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
# What calls under way may take in all, and what each is counted with besides its body.
ROOM_BYTES = 64 << 20
CALL_BYTES = 16 << 10
SMALL_CALL_BYTES = 64 << 10
CALL_DEADLINE_S = 10.0
MAX_RECORDS, PER_S = 10, 60
T = TypeVar("T")
GONE = "the connection to the system bus is gone"


class Seldom(logging.Filter):
    """Lets a few records a minute through: what callers can cause must not fill the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since, self._count = clock(), 0

    def filter(self, _record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        if self._clock() - self._since >= PER_S:
            self._since, self._count = self._clock(), 0
        self._count += 1
        return self._count <= MAX_RECORDS


log = logging.getLogger(__name__)
log.addFilter(Seldom())


class BusLost(Exception):
    """The connection to the bus is gone."""


class Room:
    """The memory that calls under way may take, in bytes.

    A sender may take a quarter of what is left, so that something is left for the next. One small call everyone may always have.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._taken: Counter[str] = Counter()

    def take(self, sender: str, size: int) -> None:
        """Take room for a call, to be given back. Raises CallError (LimitsExceeded)."""
        taken = self._taken[sender]
        if taken + size > self._left // 4 and (taken or size > SMALL_CALL_BYTES):
            raise CallError(ERROR + "LimitsExceeded", "too many calls under way: try again later")
        self._taken[sender] += size
        self._left -= size

    def give(self, sender: str, size: int) -> None:
        """Give back what a call took."""
        self._left += size
        self._taken[sender] -= size
        if not self._taken[sender]:
            del self._taken[sender]


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal that has come."""

    path: str
    interface: str
    member: str
    args: Sequence[Any]


@dataclass(eq=False, slots=True)
class Subscription:
    """Somebody who hears the signals of a well-known name. `owner`: the unique name that they come from now."""

    name: str
    heard: Callable[[Signal], None]
    owner: str | None = None

    def changed(self, owner: str | None) -> None:
        """The name has this owner now."""
        self.owner = owner


class Connection:
    """A connection to the system bus.

    `await Connection.open()` connects; `call`, `subscribe` and the small helpers are for clients, `serve`, `own` and `emit` for services;
    `lost()` waits for the end of the connection. All in one asyncio loop.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._objects = Objects()
        self._room = Room(ROOM_BYTES)
        self._pending: set[asyncio.Task[None]] = set()
        # Well-known name -> who wants to hear of its owners.
        self._watches: list[tuple[str, Callable[[str | None], None]]] = []
        self._subscriptions: list[Subscription] = []
        self._end: asyncio.Future[None] = asyncio.ensure_future(self._wait_for_end())
        bus.receive = self._on_header

    @classmethod
    async def open(cls, address: str | None = None) -> Connection:
        """Connect to the system bus, or to the bus at `address`. Raises BusLost when there is none."""
        try:
            bus = Bus(address)
            try:
                await bus.connect()
            except asyncio.CancelledError:
                # Whoever doesn't wait any longer leaves no half-open connection behind.
                bus.disconnect()
                raise
        except Exception as error:
            # dbus-next raises whatever its socket, parser or handshake raised.
            raise BusLost(f"cannot connect to the system bus: {error}") from error
        return cls(bus)

    @property
    def unique_name(self) -> str:
        """Our unique name (":1.42")."""
        return str(self._bus.unique_name)

    async def lost(self) -> None:
        """Wait until the connection has ended, for whatever reason."""
        await asyncio.shield(self._end)

    def close(self) -> None:
        """End the connection."""
        self._bus.disconnect()

    async def _wait_for_end(self) -> None:
        try:
            await self._bus.wait_for_disconnect()
        except Exception as error:
            log.debug("bus connection ended: %s", error)

    # As a client

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *args: Any,
        deadline_s: float = CALL_DEADLINE_S, interactive: bool = False,
    ) -> Sequence[Any]:  # fmt: skip
        """Call a method and give the out-arguments. Raises CallError (the error reply, or Timeout after the deadline) or BusLost."""
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = Message(destination, path, interface, member, flags=flags, signature=signature, body=list(args))
        if self._end.done():
            raise BusLost(GONE)
        answer = self._bus.ask(message)
        try:
            await asyncio.wait({answer, self._end}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._bus.forget(message)
        if not answer.done() and not self._end.done():
            raise CallError(ERROR + "Timeout", f"no answer to {interface}.{member} within {deadline_s:g} s")
        return self._outcome(answer.result() if answer.done() else None)

    @staticmethod
    def _outcome(reply: Message | None) -> Sequence[Any]:
        if reply is None:
            raise BusLost(GONE)
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else reply.error_name
            raise CallError(reply.error_name, text)
        return tuple(reply.body)

    async def _ask_bus(self, member: str, signature: str, *args: Any) -> Any:
        body = await self.call(*BUS, member, signature, *args)
        return body[0] if body else None

    async def uid_of(self, name: str) -> int:
        """The user id behind a bus name, as the bus saw it when the peer connected. Raises CallError when the name is gone."""
        return int(await self._ask_bus("GetConnectionUnixUser", "s", name))

    async def owner_of(self, name: str) -> str | None:
        """The unique name that owns a well-known name, None if nobody does."""
        try:
            return str(await self._ask_bus("GetNameOwner", "s", name))
        except CallError as error:
            if error.name == ERROR + "NameHasNoOwner":
                return None
            raise

    async def watch_owner(self, name: str, changed: Callable[[str | None], None]) -> str | None:
        """Call `changed` with every new owner of `name` (None: gone) from now on; gives the owner now. Awaited directly, not in a task."""
        told: list[str | None] = []
        watches = [(name, told.append), (name, changed)]
        self._watches += watches
        try:
            await self._ask_bus("AddMatch", "s", _owner_rule(name))
            owner = await self.owner_of(name)
        except BaseException:
            self._watches.remove(watches[1])
            raise
        finally:
            self._watches.remove(watches[0])
        # A signal right behind the answer has been handled before we come to see the answer, and one before it says the same.
        return told[-1] if told else owner

    async def subscribe(self, name: str, heard: Callable[[Signal], None]) -> Subscription:
        """Call `heard` with every signal that the owner of `name`, whoever that is at the time, sends from now on.

        It lasts until `unsubscribe` or the end of the connection. Signals of over 2 MiB are left out. Raises CallError or BusLost.
        """
        subscription = Subscription(name, heard)
        subscription.owner = await self.watch_owner(name, subscription.changed)
        self._subscriptions.append(subscription)
        try:
            await self._ask_bus("AddMatch", "s", _signal_rule(name))
        except BaseException:
            self._forget(subscription)
            raise
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Hear no more, from now on. Raises CallError or BusLost if the bus can't be told."""
        if subscription not in self._subscriptions:
            return
        self._forget(subscription)
        for rule in (_signal_rule(subscription.name), _owner_rule(subscription.name)):
            await self._ask_bus("RemoveMatch", "s", rule)

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        self._watches.remove((subscription.name, subscription.changed))

    # As a service

    async def own(self, name: str) -> None:
        """Become the owner of `name`, without queueing and without taking it from anybody. Raises CallError if that fails, or BusLost."""
        try:
            reply = await self._ask_bus("RequestName", "su", name, NameFlag.DO_NOT_QUEUE.value)
        except CallError as error:
            raise CallError(error.name, f"the bus refuses the name {name}: {error}") from error
        if reply != RequestNameReply.PRIMARY_OWNER.value:
            raise CallError(ERROR + "AddressInUse", f"another process owns {name}: is the service running already?")

    def serve(self, path: str, *exports: Export) -> None:
        """Answer for the given interfaces at `path`, besides the standard ones (properties are read-only)."""
        self._objects.serve(path, exports)

    def withdraw(self, path: str) -> None:
        """Answer for `path` no more."""
        self._objects.withdraw(path)

    def emit(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> None:
        """Send a signal to everybody who listens. Never raises: it is dropped, and logged, when it can't be sent."""
        try:
            message = Message.new_signal(path, interface, member, signature, list(args))
            if not self._end.done() and not self._bus.offer(message):
                log.warning("the bus takes no more: the signal %s.%s is dropped", interface, member)
        except Exception:
            # The library raises whatever it stumbles over.
            log.exception("internal error: the signal %s.%s can't be sent", interface, member)

    def _on_header(self, header: Header) -> Taker:
        """What is to take the body of a call or signal; None: it isn't needed, all that there is to say has been said."""
        if header.kind != CALL:
            return self._on_signal(header)
        size = CALL_BYTES + header.body_bytes
        try:
            target = self._target(header)
            self._room.take(header.sender, size)
        except CallError as error:
            self._reply_error(header, error)
            return None
        return lambda body: self._begin(header, target, body, size)

    def _target(self, header: Header) -> Target:
        if header.body_bytes > MAX_BODY_BYTES:
            raise CallError(ERROR + "LimitsExceeded", f"the arguments are longer than {MAX_BODY_BYTES} bytes")
        target = self._objects.find(header.path, header.interface, header.member)
        if header.signature != target.signature:
            text = f"{target.member} takes arguments of signature '{target.signature}', not '{header.signature}'"
            raise CallError(ERROR + "InvalidArgs", text)
        return target

    def _begin(self, header: Header, target: Target, body: bytearray, size: int) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._pending.discard(task)
            self._room.give(header.sender, size)

        task = asyncio.ensure_future(self._answer(header, target, body))
        self._pending.add(task)
        task.add_done_callback(ended)

    def _on_signal(self, header: Header) -> Taker:
        if (header.sender, header.interface, header.member) == (BUS[0], BUS[2], "NameOwnerChanged") and header.signature == "sss":
            return lambda body: self._owner_changed(*decode(header, body))
        heard = [subscription.heard for subscription in self._subscriptions if subscription.owner == header.sender]
        if not heard:
            return None
        if header.body_bytes > MAX_BODY_BYTES:
            log.warning("a signal %s.%s of %d bytes is left out", header.interface, header.member, header.body_bytes)
            return None
        return lambda body: self._heard(header, body, heard)

    def _owner_changed(self, name: str, _old: str, new: str) -> None:
        for watched, changed in [*self._watches]:
            if watched == name:
                _tell(changed, new or None)

    @staticmethod
    def _heard(header: Header, body: bytearray, heard: Sequence[Callable[[Signal], None]]) -> None:
        try:
            signal = Signal(header.path, header.interface, header.member, tuple(decode(header, body)))
        except ValueError as error:
            log.warning("a signal %s.%s is left out: %s", header.interface, header.member, error)
            return
        for each in heard:
            _tell(each, signal)

    async def _answer(self, header: Header, target: Target, body: bytearray) -> None:
        try:
            result = await self._run(header, target, body)
            if not header.flags & MessageFlag.NO_REPLY_EXPECTED.value:
                self._return(header, target.out_signature, result)
        except CallError as error:
            self._reply_error(header, error)
        except BusLost:
            log.debug("no connection any more to answer %s", header.sender)
        except Exception:
            log.exception("internal error in %s.%s, called by %s", target.interface, target.member, header.sender)
            self._reply_error(header, CallError(ERROR + "Failed", "internal error: see the service's log"))

    async def _run(self, header: Header, target: Target, body: bytearray) -> Sequence[Any]:
        """Decode, authorize, run."""
        try:
            args = tuple(decode(header, body))
        except ValueError as error:
            raise CallError(ERROR + "InvalidArgs", str(error)) from error
        if target.member == "GetMachineId" and not target.export:
            return await self.call(BUS[0], BUS[1], "org.freedesktop.DBus.Peer", "GetMachineId")
        if not target.export:
            return self._objects.standard(target, args)
        interactive = bool(header.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION.value)
        call = Call(header.sender, target.path, target.interface, target.member, args, interactive)
        await target.export.guard(call)
        return await target.export.methods[target.member](call)

    def _return(self, header: Header, signature: str, result: Sequence[Any]) -> None:
        if not isinstance(result, bytes):
            self._reply(header, Message.new_method_return(header, signature, list(result)))
        elif not self._bus.offer_marshalled(header, signature, result):
            self._drop(header)

    def _reply_error(self, header: Header, error: CallError) -> None:
        if not header.flags & MessageFlag.NO_REPLY_EXPECTED.value:
            self._reply(header, Message.new_error(header, error.name, error.text))

    def _reply(self, header: Header, message: Message) -> None:
        if not self._bus.offer(message):
            self._drop(header)

    @staticmethod
    def _drop(header: Header) -> None:
        log.warning("the bus takes no more: an answer to %s is dropped", header.sender)


def _owner_rule(name: str) -> str:
    return f"type='signal',sender='{BUS[0]}',member='NameOwnerChanged',arg0='{name}'"


def _signal_rule(name: str) -> str:
    return f"type='signal',sender='{name}'"


def _tell(listener: Callable[[T], None], news: T) -> None:
    """Tell somebody; it must not stop the reading of the bus."""
    try:
        listener(news)
    except Exception:
        log.exception("internal error in what listens to the bus")
