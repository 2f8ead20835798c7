# SPDX-License-Identifier: GPL-2.0-or-later
"""The last samples of host and guests, and the variables that policies keep: what snapshots are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from momservice.columns import NO_ROW, GuestTable
from momservice.hypervisor import GuestRecord
from momservice.snapshot import EMPTY, HOST, Entity, Sample, Snapshot, Value

_NO_GUESTS: Final = GuestTable((), (), ())


@dataclass(slots=True)
class History:
    """Mutable, of the engine; `snapshot` gives an immutable view. `length`: samples kept.

    `guests`: the records that libvirt last gave, by UUID, in their order, which is also that of `table`; `listed`: whether it ever did.
    """

    length: int
    host: deque[Sample] = field(init=False)
    guests: dict[str, GuestRecord] = field(init=False, default_factory=dict)
    table: GuestTable = field(init=False, default=_NO_GUESTS)
    listed: bool = False
    variables: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host = deque(maxlen=self.length)

    def keep(self, records: Sequence[GuestRecord]) -> set[str]:
        """Take the guests that there are now, in their order; gives the UUIDs of those that are gone."""
        before = self.guests
        self.guests = {record.uuid: record for record in records}
        gone = before.keys() - self.guests.keys()
        self.listed = True
        self.variables = {key: kept for key, kept in self.variables.items() if key in self.guests or key == HOST}
        if [(guest.uuid, guest.name) for guest in before.values()] != [(guest.uuid, guest.name) for guest in self.guests.values()]:
            self.table = self._aligned()
        return gone

    def _aligned(self) -> GuestTable:
        """The samples there are, in columns for the guests there are now."""
        places = {key: index for index, key in enumerate(self.table.keys)}
        rows = [[row[places[uuid]] if uuid in places else NO_ROW for uuid in self.guests] for row in self.table.rows]
        properties = [{"name": guest.name, "uuid": guest.uuid} for guest in self.guests.values()]
        return GuestTable(tuple(self.guests), properties, rows)

    def sample(self, row: Sequence[Sample]) -> None:
        """Take a sample of each guest, in their order."""
        self.table = self.table.after(row, self.length)

    def take(self, variables: Mapping[str, Mapping[str, Value]]) -> None:
        """Take the variables after a run. Those of guests that were there before this process wait until it knows the guests."""
        here = self.guests.keys() | {HOST}
        waiting = {} if self.listed else {key: kept for key, kept in self.variables.items() if key not in here}
        self.variables = waiting | {key: kept for key, kept in variables.items() if key in here}

    def newest(self) -> dict[str, Sample]:
        """The newest sample of each guest, by UUID."""
        row = self.table.rows[-1] if self.table.rows else [EMPTY] * len(self.guests)
        return dict(zip(self.guests, row, strict=True))

    def resize(self, length: int) -> None:
        """Keep another number of samples from now on."""
        self.length = length
        self.host = deque(self.host, length)
        self.table = GuestTable(self.table.keys, self.table.properties, self.table.rows[-length:])

    def snapshot(self, interval_s: int, taken_us: int) -> Snapshot:
        """The world now. `interval_s`: the host's property "interval"."""
        host = Entity(HOST, tuple(self.host), {"interval": interval_s}, self.variables.get(HOST, EMPTY))
        of_guests = {key: kept for key, kept in self.variables.items() if key != HOST}
        return Snapshot(host, self.table.with_variables(of_guests), taken_us=taken_us)
