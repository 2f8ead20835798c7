# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' objects, with org.ovirt.Mom1.Guest, and org.freedesktop.DBus.ObjectManager over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from momservice.bus.changes import Changes, Emits, Outbox
from momservice.bus.connection import Call, Export, Interface, Marshalled, clean
from momservice.bus.marshal import array, entry, keyed
from momservice.bus.names import GUEST, OBJECT_MANAGER, PATH, guest_path
from momservice.bus.polkit import PolkitGate
from momservice.bus.shared import SharedAnswer, in_slices
from momservice.controllers import SENT, Outcome, World
from momservice.controllers.balloon import TARGET
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.guests_state import capabilities, guest_state
from momservice.slices import Steps, each
from momservice.watching import PolicyRun, Watcher


class Properties(NamedTuple):
    """A guest's properties, named as on the bus."""

    Uuid: str
    Name: str
    State: str
    StateReasons: list[str]
    Capabilities: dict[str, str]
    BalloonCurrent: int
    BalloonMinimum: int
    BalloonMaximum: int
    BalloonTarget: int
    Unknown: list[str]


class GuestObject:
    """One guest. `target_kib`: where its balloon was last told to go, None if it wasn't yet. `piece`: it as GetManagedObjects tells it."""

    def __init__(self, interface: Interface, guard: Callable[[Call], Any], properties: Properties) -> None:
        self.path = guest_path(properties.Uuid)
        self.properties = properties
        self.target_kib: int | None = None
        self.piece: bytes | None = None
        self.export = Export(interface, {}, guard, self.values)

    def values(self) -> Mapping[str, Any]:
        """All properties by name."""
        return self.properties._asdict()

    def take(self, properties: Properties) -> list[str]:
        """Have other properties; the names of those that differ."""
        before, self.properties = self.properties, properties
        if properties == before:
            return []
        self.piece = None
        return [name for name, old, new in zip(Properties._fields, before, properties, strict=True) if old != new]

    def marshalled(self) -> bytes:
        """The piece `{oa{sa{sv}}}`."""
        if self.piece is None:
            values = self.values()
            pieces = [entry(prop.name, prop.signature, values[prop.name]) for prop in self.export.interface.properties]
            self.piece = keyed(self.path, [keyed(self.export.interface.name, pieces)])
        return self.piece


class Serves(Emits, Protocol):
    """The connection, as far as it is needed here."""

    def serve(self, path: str, *exports: Export) -> None:
        """Have an object."""

    def withdraw(self, path: str) -> None:
        """Have it no more."""


class Guests(Watcher):
    """Keeps the objects as the guests are. `works`: whether a guest's balloon followed its targets, None if that isn't known."""

    def __init__(
        self,
        connection: Serves,
        interface: Interface,
        gate: PolkitGate,
        outbox: Outbox,
        changes: Changes,
        works: Callable[[str], bool | None],
    ) -> None:
        self._connection, self._interface, self._gate = connection, interface, gate
        self._outbox, self._changes, self._works = outbox, changes, works
        self._objects: dict[str, GuestObject] = {}
        # The guests that were looked at last, and when.
        self._seen: Mapping[str, GuestRecord] = {}
        self._seen_s = 0.0
        self.managed_objects = SharedAnswer(self._managed_objects)
        # Is told of each guest that has another state or other reasons for it: uuid, state, reasons.
        self.state_changed: Callable[[str, str, Sequence[str]], None] = lambda _uuid, _state, _reasons: None

    def sampled(self, world: World) -> Steps[None]:
        """See Watcher. Of the same guests only what time alone changes is news, and that once an interval."""
        if world.guests is self._seen and world.monotonic_s - self._seen_s < world.interval_s:
            return
        self._seen, self._seen_s = world.guests, world.monotonic_s
        yield from each(self._remove, list(self._objects.keys() - world.guests.keys()))
        yield from each(partial(self._look, world), world.guests.values())

    def _look(self, world: World, record: GuestRecord) -> None:
        known = self._objects.get(record.uuid)
        properties = self._properties(record, world, known.target_kib if known else None)
        if known is None:
            self._objects[record.uuid] = self._add(properties)
        else:
            self._take(known, properties)

    def applied(self, run: PolicyRun, outcomes: Sequence[Outcome]) -> Steps[None]:
        """See Watcher."""
        yield from each(self._applied, outcomes)

    def _applied(self, outcome: Outcome) -> None:
        known = self._objects.get(outcome.entity)
        if known and outcome.control == TARGET.name and outcome.status in SENT and outcome.applied is not None:
            known.target_kib = outcome.applied
            unknown = [name for name in known.properties.Unknown if name != "BalloonTarget"]
            self._take(known, known.properties._replace(BalloonTarget=outcome.applied * 1024, Unknown=unknown))

    def _properties(self, record: GuestRecord, world: World, target_kib: int | None) -> Properties:
        able = capabilities(record, self._works(record.uuid), world.wall_s, world.interval_s)
        state, reasons = guest_state(record, able)
        sizes = {
            "BalloonCurrent": record.balloon.get("current"),
            "BalloonMinimum": record.facts.min_guarantee_kib,
            "BalloonMaximum": record.balloon.get("maximum"),
            "BalloonTarget": target_kib,
        }
        unknown = [name for name, kib in sizes.items() if kib is None]
        current, minimum, maximum, target = ((kib or 0) * 1024 for kib in sizes.values())
        return Properties(record.uuid, clean(record.name), state, reasons, able, current, minimum, maximum, target, unknown)

    def _add(self, properties: Properties) -> GuestObject:
        guest = GuestObject(self._interface, self._gate.authorize, properties)
        self._connection.serve(guest.path, guest.export)
        self.managed_objects.outdate()
        self._outbox.put(partial(self._send_added, guest))
        return guest

    def _send_added(self, guest: GuestObject) -> None:
        interfaces = {GUEST: guest.export.variants()}
        self._connection.emit(PATH, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", guest.path, interfaces)

    def _remove(self, uuid: str) -> None:
        guest = self._objects.pop(uuid)
        self._connection.withdraw(guest.path)
        self._changes.forget(guest.path, guest.export)
        self.managed_objects.outdate()
        self._outbox.put(partial(self._connection.emit, PATH, OBJECT_MANAGER, "InterfacesRemoved", "oas", guest.path, [GUEST]))

    def _take(self, guest: GuestObject, properties: Properties) -> None:
        names = guest.take(properties)
        if not names:
            return
        self.managed_objects.outdate()
        self._changes.note(guest.path, guest.export, names)
        if "State" in names or "StateReasons" in names:
            self.state_changed(properties.Uuid, properties.State, properties.StateReasons)

    async def _managed_objects(self) -> Marshalled:
        return Marshalled(array(await in_slices(guest.marshalled() for guest in list(self._objects.values()))))
