# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the compiled form reads: entities, newest values, histories and means of their fields."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from momservice.columns import Raw, Sums, in_column
from momservice.fields import Schema
from momservice.policy.members import no_data
from momservice.policy.state import State
from momservice.policy.values import HOST_INDEX, Datum, List, Thing, cost, inward
from momservice.snapshot import HOST, Value


class RunFigures(State):
    """Reads the snapshot for generated code. `count`: how many guests there are."""

    count: int
    _schema: Schema
    # What few runs need is made when it is needed.
    _list: List | None = None
    _things: dict[int, Thing]
    # The fields whose history has been paid for.
    _summed: set[str]
    # Values of columns that have been taken in, by the identity of what holds them.
    _opened: dict[int, tuple[Raw, Datum]]
    _host_means: dict[str, float]

    @abstractmethod
    def pay(self, steps: int) -> None:
        """Takes steps from the run alone. Raises Abandoned."""

    # --- entities --------------------------------------------------------------------------------------------------------------------

    def thing(self, index: int) -> Thing:
        """A guest as a value."""
        thing = self._things.get(index)
        if thing is None:
            thing = self._things[index] = Thing("guest", self.table.keys[index], self._schema.guest, index)
        return thing

    @property
    def guest_list(self) -> List:
        """The value of `Guests`."""
        if self._list is None:
            self._list = List(map(self.thing, range(len(self.table.keys))))
        return self._list

    # --- newest values ---------------------------------------------------------------------------------------------------------------

    def host_value(self, name: str) -> Value | Raw:
        """The newest value of a field of the host, as columns have it."""
        return in_column(self._host.newest(name))

    def taken(self, value: Value | Raw, index: int) -> Datum:
        """A value of a column as one of the language. Raises PolicyError("value")."""
        if not isinstance(value, Raw):
            return value  # type: ignore[return-value]  # columns hold nothing else that isn't of the language
        opened = self._opened.get(id(value))
        if opened is not None:
            self.charge(cost(opened[1]))
            return opened[1]
        taken = inward(value.value, HOST if index == HOST_INDEX else self.table.keys[index], pay=self.charge)
        if type(taken) is str:
            self.charge(cost(taken))
        # With what holds it, so that nothing else can get its identity while the run lasts.
        self._opened[id(value)] = value, taken
        return taken

    # --- histories -------------------------------------------------------------------------------------------------------------------

    def history(self, thing: Thing, name: str) -> Sequence[Value]:
        """The values of a field in all samples."""
        # To look through samples takes longer than their steps tell.
        self.pay(4 * self.sample_count(thing))
        return super().history(thing, name)

    def sums(self, name: str) -> Sums:
        """The sums of a field over the history. Paid for as if they weren't there yet, so that the same run always costs the same."""
        if name not in self._summed:
            self._summed.add(name)
            self.pay(len(self.table.rows) * self.count)
        return self.table.sums(name)

    def mean(self, thing: Thing, name: str) -> float | None:
        """The mean of a field over the history; from the running sums where there are."""
        if thing.index != HOST_INDEX:
            sums = self.sums(name)
            total = sums.by_guest[thing.index]
            if total is not None:
                return total / sums.samples
        return super().mean(thing, name)

    def host_mean(self, name: str) -> float:
        """`Host.StatAvg` of a field that is collected; what it was the last time, for samples don't change within a run."""
        mean = self._host_means.get(name)
        if mean is None:
            mean = self.mean(self.host, name)
            if mean is None:
                raise no_data(name)
            self._host_means[name] = mean
        return mean

    def guest_mean(self, index: int, name: str) -> float:
        """`StatAvg` of a field that is collected, where there is no running sum."""
        mean = super().mean(self.thing(index), name)
        if mean is None:
            raise no_data(name)
        return mean
