# SPDX-License-Identifier: GPL-2.0-or-later
"""The last samples of host and guests, and the variables that policies keep: what snapshots are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from momservice.hypervisor import GuestRecord
from momservice.snapshot import EMPTY, HOST, Entity, Sample, Snapshot, Value


@dataclass(slots=True)
class GuestHistory:
    """One guest: the record that libvirt last gave and the samples made of such records, oldest first."""

    record: GuestRecord
    samples: deque[Sample]


@dataclass(slots=True)
class History:
    """Mutable, of the engine; `snapshot` gives an immutable view. `length`: samples kept."""

    length: int
    host: deque[Sample] = field(init=False)
    guests: dict[str, GuestHistory] = field(init=False, default_factory=dict)
    variables: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host = deque(maxlen=self.length)

    def records(self) -> list[GuestRecord]:
        """The guests as libvirt last told of them."""
        return [guest.record for guest in self.guests.values()]

    def keep(self, records: Iterable[GuestRecord]) -> set[str]:
        """Take the guests that there are now, in their order; gives the UUIDs of those that are gone."""
        old = self.guests
        self.guests = {}
        for record in records:
            known = old.get(record.uuid)
            self.guests[record.uuid] = GuestHistory(record, known.samples if known else deque(maxlen=self.length))
        gone = old.keys() - self.guests.keys()
        self.variables = {key: kept for key, kept in self.variables.items() if key not in gone}
        return gone

    def resize(self, length: int) -> None:
        """Keep another number of samples from now on."""
        self.length = length
        self.host = deque(self.host, length)
        for guest in self.guests.values():
            guest.samples = deque(guest.samples, length)

    def snapshot(self, interval_s: int, taken_us: int) -> Snapshot:
        """The world now. `interval_s`: the host's property "interval"."""
        host = Entity(HOST, tuple(self.host), {"interval": interval_s}, self.variables.get(HOST, EMPTY))
        guests = [
            Entity(uuid, tuple(g.samples), {"name": g.record.name, "uuid": uuid}, self.variables.get(uuid, EMPTY))
            for uuid, g in self.guests.items()
        ]
        return Snapshot(host, tuple(guests), taken_us=taken_us)
