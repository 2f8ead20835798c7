# SPDX-License-Identifier: GPL-2.0-or-later
"""The one module that talks to the bus library (dbus-next): a system bus connection as client and as server.

Shared by momservice, momctl and both helpers, so it is part of the code that runs as root: small, and with nothing but the standard
library and dbus-next behind it. What it adds to dbus-next: calls with deadlines that fail when the bus goes away, handlers that know
their caller, members and signatures checked against the introspection XML before anything runs, errors that are one line of text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_next import BusType, DBusError, Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant
from dbus_next import introspection as intr
from dbus_next.aio import MessageBus

__all__ = ["BusLost", "Call", "CallError", "Connection", "Export", "Variant", "clean", "load_interfaces"]

log = logging.getLogger(__name__)

INTERFACES = Path(__file__).with_name("interfaces")
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
ERROR = "org.freedesktop.DBus.Error."
# Calls being answered at one time; beyond it callers get LimitsExceeded.
MAX_PENDING = 256
MAX_ERROR_CHARACTERS = 1000
CALL_DEADLINE_S = 10.0

READ_ONLY = 'access="read" />'
UNTOLD = 'access="read"><annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/></property>'

# What every object answers besides its own interfaces: member -> (signature in, signature out).
STANDARD: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "org.freedesktop.DBus.Introspectable": {"Introspect": ("", "s")},
    "org.freedesktop.DBus.Peer": {"Ping": ("", ""), "GetMachineId": ("", "s")},
    "org.freedesktop.DBus.Properties": {"Get": ("ss", "v"), "GetAll": ("s", "a{sv}"), "Set": ("ssv", "")},
}


def clean(text: str) -> str:
    """The text as D-Bus can carry it: without NUL and lone surrogates, for which the bus would throw the sender out."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


class CallError(Exception):
    """An error reply, sent or received: a D-Bus error name and one line of text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = " ".join(clean(text).split())[:MAX_ERROR_CHARACTERS]

    def __str__(self) -> str:
        return self.text


class BusLost(Exception):
    """The connection to the bus is gone."""


@dataclass(frozen=True, slots=True)
class Call:
    """One incoming method call. `interactive`: the caller allows polkit to ask for a password."""

    sender: str
    path: str
    interface: str
    member: str
    args: Sequence[Any]
    interactive: bool


Guard = Callable[[Call], Awaitable[None]]
Method = Callable[[Call], Awaitable[Sequence[Any]]]


async def everyone(_call: Call) -> None:
    """The guard of an object that is free to all."""


@dataclass(frozen=True, slots=True)
class Export:
    """One interface of one object.

    `methods`: member -> coroutine function from the Call to the sequence of out-arguments. `guard` runs first and raises CallError to
    refuse. `properties` gives all values, plain, by name. Members that the XML lacks or that lack here are a programming error.
    """

    interface: intr.Interface
    methods: Mapping[str, Method]
    guard: Guard
    properties: Callable[[], Mapping[str, Any]] = dict
    signatures: dict[str, tuple[str, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for method in self.interface.methods:
            self.signatures[method.name] = (method.in_signature, method.out_signature)
        if stray := self.signatures.keys() ^ self.methods.keys():
            raise TypeError(f"{self.interface.name}: implemented members differ from the XML: {sorted(stray)}")

    def variants(self) -> dict[str, Variant]:
        """All properties as variants of the declared signatures."""
        values = self.properties()
        return {p.name: Variant(p.signature, values[p.name]) for p in self.interface.properties}


def load_interfaces(file_name: str) -> dict[str, intr.Interface]:
    """The interfaces of one XML file of the project (a constant name, e.g. "org.ovirt.Mom1.xml"), by interface name."""
    node = intr.Node.parse((INTERFACES / file_name).read_text(encoding="utf-8"))
    return {interface.name: interface for interface in node.interfaces}


class Connection:
    """A connection to the system bus.

    `await Connection.open()` connects; `call` and the small helpers are for clients, `serve`, `own` and `emit` for services; `lost()` waits
    for the end of the connection. All in one asyncio loop.
    """

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._exports: dict[str, dict[str, Export]] = {}
        self._pending: set[asyncio.Task[None]] = set()
        self._subscriptions: list[tuple[tuple[str, str, str], Callable[[Message], None]]] = []
        self._end: asyncio.Future[None] = asyncio.ensure_future(self._wait_for_end())
        bus.add_message_handler(self._on_message)

    @classmethod
    async def open(cls, address: str | None = None) -> Connection:
        """Connect to the system bus, or to the bus at `address`. Raises BusLost when there is none."""
        try:
            bus = await MessageBus(bus_address=address, bus_type=BusType.SYSTEM).connect()
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
        return await self._exchange(message, f"{interface}.{member}", deadline_s)

    async def _exchange(self, message: Message, what: str, deadline_s: float) -> Sequence[Any]:
        if self._end.done():
            raise BusLost("the connection to the system bus is gone")
        reply = asyncio.ensure_future(self._bus.call(message))
        # dbus-next never answers a call that was under way when the bus went: wait for that as well.
        done, _ = await asyncio.wait({reply, self._end}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if reply not in done:
            reply.cancel()
            # The reply handler would otherwise stay in the library's table until a reply comes.
            self._bus._method_return_handlers.pop(message.serial, None)
            if self._end in done:
                raise BusLost("the connection to the system bus is gone")
            raise CallError(ERROR + "Timeout", f"no answer to {what} within {deadline_s:g} s")
        return self._outcome(reply.result())

    @staticmethod
    def _outcome(reply: Message) -> Sequence[Any]:
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
        """Call `changed` with every new owner of `name` (None: gone) from now on; gives the owner now."""

        def on_signal(message: Message) -> None:
            if message.sender == BUS[0] and message.body[0] == name:
                changed(message.body[2] or None)

        await self.subscribe(BUS[0], BUS[2], "NameOwnerChanged", on_signal, f"arg0='{name}'")
        return await self.owner_of(name)

    async def subscribe(self, sender: str, interface: str, member: str, handler: Callable[[Message], None], more: str = "") -> None:
        """Have `handler` called for each such signal. `sender` may be a well-known name; the bus then does the matching."""
        rule = f"type='signal',sender='{sender}',interface='{interface}',member='{member}'" + (f",{more}" if more else "")
        self._subscriptions.append(((interface, member, sender), handler))
        await self._ask_bus("AddMatch", "s", rule)

    # As a service

    async def own(self, name: str) -> None:
        """Become the owner of `name`, without queueing and without taking it from anybody. Raises CallError if that fails."""
        try:
            reply = await asyncio.wait_for(self._bus.request_name(name, NameFlag.DO_NOT_QUEUE), CALL_DEADLINE_S)
        except DBusError as error:
            raise CallError(error.type, f"the bus refuses the name {name}: {error.text}") from error
        if reply is not RequestNameReply.PRIMARY_OWNER:
            raise CallError(ERROR + "AddressInUse", f"another process owns {name}: is the service running already?")

    def serve(self, path: str, *exports: Export) -> None:
        """Answer for the given interfaces at `path`, besides the standard ones (properties are read-only)."""
        self._exports[path] = {export.interface.name: export for export in exports}

    def emit(self, path: str, interface: str, member: str, signature: str, *args: Any) -> None:
        """Send a signal to everyone who listens."""
        self._bus.send(Message.new_signal(path, interface, member, signature, list(args)))

    def _on_message(self, message: Message) -> bool:
        """The library's hook: True means that the library has nothing more to do with it."""
        if message.message_type is MessageType.SIGNAL:
            self._on_signal(message)
            return False
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if len(self._pending) >= MAX_PENDING:
            self._reply_error(message, CallError(ERROR + "LimitsExceeded", "too many calls under way: try again later"))
            return True
        task = asyncio.ensure_future(self._answer(message))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return True

    def _on_signal(self, message: Message) -> None:
        for (interface, member, _sender), handler in self._subscriptions:
            if (message.interface, message.member) == (interface, member):
                handler(message)

    async def _answer(self, message: Message) -> None:
        try:
            signature, body = await self._dispatch(message)
            if MessageFlag.NO_REPLY_EXPECTED not in message.flags:
                self._bus.send(Message.new_method_return(message, signature, list(body)))
        except CallError as error:
            self._reply_error(message, error)
        except Exception:
            log.exception("internal error in %s.%s, called by %s", message.interface, message.member, message.sender)
            self._reply_error(message, CallError(ERROR + "Failed", "internal error: see the service's log"))

    def _reply_error(self, message: Message, error: CallError) -> None:
        if MessageFlag.NO_REPLY_EXPECTED not in message.flags:
            self._bus.send(Message.new_error(message, error.name, error.text))

    async def _dispatch(self, message: Message) -> tuple[str, Sequence[Any]]:
        """Find, check, authorize, run: gives the signature and body of the reply."""
        objects = self._exports.get(message.path)
        if objects is None and not self._is_parent(message.path):
            raise CallError(ERROR + "UnknownObject", f"no object at {message.path}")
        interface, signatures = self._find(message, objects or {})
        declared, out = signatures
        if message.signature != declared:
            raise CallError(ERROR + "InvalidArgs", f"{message.member} takes arguments of signature '{declared}', not '{message.signature}'")
        if interface in STANDARD:
            return out, await self._standard(message, objects or {})
        export = (objects or {})[interface]
        interactive = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION in message.flags
        call = Call(message.sender, message.path, interface, message.member, tuple(message.body), interactive)
        await export.guard(call)
        return out, await export.methods[message.member](call)

    def _is_parent(self, path: str) -> bool:
        prefix = path.rstrip("/") + "/"
        return any(known.startswith(prefix) for known in self._exports)

    @staticmethod
    def _find(message: Message, objects: Mapping[str, Export]) -> tuple[str, tuple[str, str]]:
        """The interface and the signatures of the called member. A call may leave the interface out."""
        tables: dict[str, Mapping[str, tuple[str, str]]] = {**{name: e.signatures for name, e in objects.items()}, **STANDARD}
        if message.interface and message.interface not in tables:
            raise CallError(ERROR + "UnknownInterface", f"no interface {message.interface} at {message.path}")
        for name in [message.interface] if message.interface else tables:
            if message.member in tables[name]:
                return name, tables[name][message.member]
        raise CallError(ERROR + "UnknownMethod", f"no method {message.member} in {message.interface or message.path}")

    async def _standard(self, message: Message, objects: Mapping[str, Export]) -> Sequence[Any]:
        match message.member:
            case "Introspect":
                return [self._introspect(message.path, objects)]
            case "GetMachineId":
                return await self.call(BUS[0], BUS[1], "org.freedesktop.DBus.Peer", "GetMachineId")
            case "Get":
                return [self._property(objects, *message.body)]
            case "GetAll":
                return [self._export(objects, message.body[0]).variants() if message.body[0] not in STANDARD else {}]
            case "Set":
                self._property(objects, *message.body[:2])
                raise CallError(ERROR + "PropertyReadOnly", f"property {message.body[1]} is read-only")
            case _:
                return []

    @staticmethod
    def _export(objects: Mapping[str, Export], interface: str) -> Export:
        if interface not in objects:
            raise CallError(ERROR + "UnknownInterface", f"no interface {interface} here")
        return objects[interface]

    def _property(self, objects: Mapping[str, Export], interface: str, name: str) -> Variant:
        values = self._export(objects, interface).variants()
        if name not in values:
            raise CallError(ERROR + "UnknownProperty", f"{interface} has no property {name}")
        return values[name]

    def _introspect(self, path: str, objects: Mapping[str, Export]) -> str:
        node = intr.Node.default()
        node.interfaces = [interface for interface in node.interfaces if interface.name in STANDARD]
        node.interfaces.extend(export.interface for export in objects.values())
        prefix = path.rstrip("/") + "/"
        children = {known[len(prefix) :].split("/")[0] for known in self._exports if known.startswith(prefix)}
        node.nodes.extend(intr.Node(child) for child in sorted(children))
        # dbus-next drops annotations. Nothing here tells of changes, and without this one clients would keep what they read first.
        return str(node.tostring()).replace(READ_ONLY, UNTOLD)
