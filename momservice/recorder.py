# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a series of snapshots of what is seen of a service; momservice.series reads and runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from momservice.fields import GUEST_PROPERTIES
from momservice.snapshot import EMPTY, HOST, Entity, Sample, Snapshot, Value
from momservice.snapshot_text import write_snapshot

NAME, UUID = GUEST_PROPERTIES


class Recorder:
    """Makes documents of the newest figures of a service, seen again and again. A sample that is like the one before isn't seen as new."""

    def __init__(self) -> None:
        self._begun = False
        self._host: Sample = EMPTY
        self._guests: Mapping[str, Sample] = {}
        self._new_host: list[Sample] = []
        self._new: dict[str, list[Sample]] = {}

    def see(self, host: Sample, guests: Mapping[str, Sample]) -> None:
        """Takes the newest samples of the host and of the guests by UUID."""
        if host and host != self._host:
            self._new_host.append(host)
        # The service samples all guests at once.
        if guests != self._guests:
            self._new = {key: [*self._new.get(key, ()), sample] for key, sample in guests.items()}
        self._host, self._guests = host, guests

    def document(self, names: Sequence[tuple[str, str]], interval_s: int, parameters: Mapping[str, Value], taken_us: int) -> str:
        """A line of the series, without its end. `names`: UUID and name of each guest, in the order in which policies see them."""
        guests = [
            Entity(key, tuple(self._new.get(key, ())), {NAME: name, UUID: key}) for key, name in names if key in self._guests
        ]  # fmt: skip
        snapshot = Snapshot(Entity(HOST, tuple(self._new_host), {"interval": interval_s}), guests, parameters, taken_us)
        line = write_snapshot(snapshot, continues=self._begun)
        self._begun, self._new_host, self._new = True, [], {}
        return line
