# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to the system bus as client and as server.

Shared by momservice, momctl and both helpers, so it is part of the code that runs as root, with serving, users, unread, objects, bounds,
decoder, reading, writing, wire, address and library: small, and with nothing but the standard library and the bus library behind it. What
they add to the latter: calls with deadlines that fail when the bus goes away, handlers that know their caller, members and signatures
checked against the introspection XML before a body is read, room for others whatever one caller does, errors that are one line of text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from momservice.bus.bounds import Seldom
from momservice.bus.decoder import at_once, decoding
from momservice.bus.library import Message, MessageFlag, NameFlag, RequestNameReply, Variant
from momservice.bus.objects import ERROR, Call, CallError, Export, Interface, Marshalled, clean, load_interfaces
from momservice.bus.reading import CALL, Header, Taker
from momservice.bus.serving import Server
from momservice.bus.unread import Signals
from momservice.bus.users import Users
from momservice.bus.wire import GONE, MAX_BODY_BYTES, Bus, BusLost, outcome

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
CALL_DEADLINE_S = 10.0

T = TypeVar("T")

log = logging.getLogger(__name__)
log.addFilter(Seldom())


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
        self.users = Users(bus.ask_user)
        """Who is behind the names that call us."""
        self._signals = Signals(bus.ask_statistics)
        self._server = Server(bus, self.users)
        # Well-known name -> who wants to hear of its owners.
        self._watches: list[tuple[str, Callable[[str | None], None]]] = []
        self._subscriptions: list[Subscription] = []
        self._end = bus.ended
        bus.receive = self._on_header

    @classmethod
    async def open(cls, address: str | None = None) -> Connection:
        """Connect to the system bus, or to the bus at `address`. Raises BusLost when there is none."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                bus = await Bus.connect(address)
        except TimeoutError as error:
            raise BusLost(f"cannot connect to the system bus: no answer within {CALL_DEADLINE_S:g} s") from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise BusLost(f"cannot connect to the system bus: {reason}") from error
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
            await asyncio.wait([answer], timeout=deadline_s)
        finally:
            self._bus.forget(message)
        if not answer.done():
            raise CallError(ERROR + "Timeout", f"no answer to {interface}.{member} within {deadline_s:g} s")
        return outcome(answer.result())

    async def _ask_bus(self, member: str, signature: str, *args: Any) -> Any:
        body = await self.call(*BUS, member, signature, *args)
        return body[0] if body else None

    async def uid_of(self, name: str) -> int:
        """The user id behind a bus name, as the bus saw it when the peer connected. Raises CallError when the name is gone, or BusLost."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                return await self.users.uid_of(name)
        except TimeoutError as error:
            raise CallError(ERROR + "Timeout", f"the bus does not tell who {name} is within {CALL_DEADLINE_S:g} s") from error

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
        self._server.objects.serve(path, exports)

    def withdraw(self, path: str) -> None:
        """Answer for `path` no more."""
        self._server.objects.withdraw(path)

    def emit(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> None:
        """Send a signal to everybody who listens. Never raises: it is dropped, and logged, when it can't be sent."""
        try:
            message = Message.new_signal(path, interface, member, signature, list(args))
            if self._end.done() or not self._signals.may(self.unique_name):
                return
            size = self._bus.offer(message)
            self._signals.sent += size
            if not size:
                log.warning("the bus takes no more: the signal %s.%s is dropped", interface, member)
        except Exception:
            # The library raises whatever it stumbles over.
            log.exception("internal error: the signal %s.%s can't be sent", interface, member)

    def _on_header(self, header: Header) -> Taker:
        if header.kind != CALL:
            return self._on_signal(header)
        # What no bus has handed on can't be answered.
        return self._server.on_call(header) if header.sender else None

    def _on_signal(self, header: Header) -> Taker:
        if (header.sender, header.interface, header.member) == (BUS[0], BUS[2], "NameOwnerChanged") and header.signature == "sss":
            return lambda body: self._owner_changed(*_decoded(header, body))
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
            signal = Signal(header.path, header.interface, header.member, tuple(_decoded(header, body)))
        except ValueError as error:
            log.warning("a signal %s.%s is left out: %s", header.interface, header.member, error)
            return
        for each in heard:
            _tell(each, signal)


def _decoded(header: Header, body: bytearray) -> list[Any]:
    return at_once(decoding(header.order, header.signature, body))


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
