# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of a snapshot as columns: for each field the newest values of all guests, and sums over the history.

Samples come in as rows (a mapping per guest) and stay so; a column is made when a policy first reads its field, and from then on with each
sample. Sums are kept of integers only: adding and taking away floats would give another mean than adding them up anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from operator import add, is_not
from struct import unpack
from types import MappingProxyType
from typing import Any, Final, NamedTuple, overload

from momservice.snapshot import EMPTY, Entity, Sample, Value

# Integers beyond it are no values of the language.
_WIDE: Final = 1 << 256
_COUNT_BYTES: Final = 4
_INT_OR_NIL: Final = {int, type(None)}
_PLAIN: Final = frozenset({type(None), bool, float})
NO_VARIABLES: Mapping[str, Mapping[str, Value]] = MappingProxyType({})
# Not EMPTY: that is what a guest gave that has nothing to tell.
NO_ROW: Final[Sample] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Raw:
    """In a column, a value that isn't nil, a boolean, a float or an integer of at most 256 bits."""

    value: Value


class _Integers(NamedTuple):
    """Of one field of all guests at one time the integers of at most 256 bits, 0 for all else.

    `odd`: by guest 1 for all else, else 0; empty where there is nothing else. Histories hold it thousands of times, so it is small.
    """

    values: Sequence[int]
    odd: bytes

    @property
    def none_at_all(self) -> bool:
        """Whether there is no integer."""
        return 0 not in self.odd if self.odd else not self.values


class Sums(NamedTuple):
    """The sums of one field over the history, by guest; None where some sample has no plain integer. `samples`: how many there are."""

    by_guest: Sequence[int | None]
    samples: int


class _Averaged:
    """The history of one field that is averaged: its columns, oldest first, and their running sums."""

    __slots__ = ("_columns", "_odd", "_running", "sums")

    def __init__(self, columns: Sequence[_Integers], running: Sequence[int], odd: int) -> None:
        """`odd`: how many columns have something else than an integer there, as `_counted` has it."""
        self._columns = columns
        self._running = running
        self._odd = odd
        self.sums = Sums(self._with_gaps() if odd else running, len(columns))

    @classmethod
    def of(cls, columns: Sequence[_Integers]) -> _Averaged:
        """The sums of some columns."""
        with_integers = [column.values for column in columns if not column.none_at_all]
        running = list(map(sum, zip(*with_integers, strict=True))) if with_integers else [0] * len(columns[0].values)
        return cls(columns, running, sum(_counted(column.odd) for column in columns))

    def _with_gaps(self) -> Sequence[int | None]:
        guests = len(self._running)
        counts = unpack(f"<{guests}I", self._odd.to_bytes(_COUNT_BYTES * guests, "little"))
        return [None if odd else total for total, odd in zip(self._running, counts, strict=True)]

    def after(self, new: _Integers, length: int) -> _Averaged:
        """The same with one more column, the oldest gone if there are more than `length`."""
        columns = [*self._columns, new]
        odd = self._odd + _counted(new.odd)
        if len(columns) <= length:
            return _Averaged(columns, list(map(add, self._running, new.values)), odd)
        gone = columns.pop(0)
        running = [total + value - old for total, value, old in zip(self._running, new.values, gone.values, strict=True)]
        return _Averaged(columns, running, odd - _counted(gone.odd))


def _counted(odd: bytes) -> int:
    """What can be added up for all guests at once: a number for each that no history is long enough to exceed."""
    counts = bytearray(_COUNT_BYTES * len(odd))
    counts[::_COUNT_BYTES] = odd
    return int.from_bytes(counts, "little")


def in_column(value: Value) -> Value | Raw:
    """A value as columns have it."""
    if type(value) in _PLAIN or (type(value) is int and -_WIDE < value < _WIDE):
        return value
    if isinstance(value, int) and -_WIDE < value < _WIDE:
        return int(value)
    return Raw(value)


def _integers(sampled: Sequence[Value]) -> _Integers:
    # The class before the range, and as much as possible by C code alone: a history may be some million values.
    types = [*map(type, sampled)]
    kinds = {*types}
    if int not in kinds:
        return _Integers(bytes(len(sampled)), b"\1" * len(sampled))
    values: Sequence[Any] = sampled
    odd = b"" if len(kinds) == 1 else bytes(map(is_not, types, repeat(int)))
    if kinds == _INT_OR_NIL:
        values = [value or 0 for value in sampled]
    elif odd:
        values = [0 if other else value for value, other in zip(sampled, odd, strict=True)]
    if max(values) < _WIDE and min(values) > -_WIDE:
        return _Integers(values, odd)
    odd = bytes(type(value) is not int or not -_WIDE < value < _WIDE for value in sampled)
    return _Integers([0 if other else value for value, other in zip(values, odd, strict=True)], odd)


def _column(sampled: Sequence[Value], integers: _Integers) -> Sequence[Value | Raw]:
    """The values as columns have them."""
    return sampled if {*map(type, compress(sampled, integers.odd))} <= _PLAIN else list(map(in_column, sampled))


class GuestTable(Sequence[Entity]):
    """All guests at one moment, in the order of the snapshot; immutable. As a sequence it gives each guest as an `Entity`.

    `keys`: of the guests. `rows`: oldest first, at each time one sample per guest, in their order; `NO_ROW` where a guest wasn't there.
    `variables`: those kept by `SetVar`, by key.
    """

    def __init__(
        self,
        keys: Sequence[str],
        properties: Sequence[Mapping[str, Value]],
        rows: Sequence[Sequence[Sample]],
        variables: Mapping[str, Mapping[str, Value]] = NO_VARIABLES,
    ) -> None:
        self.keys = keys
        self.properties = properties
        self.rows = rows
        self.variables = variables
        # Of each field that has been read, the newest values and what is an integer of them.
        self._newest: dict[str, tuple[Sequence[Value], _Integers]] = {}
        self._columns: dict[str, Sequence[Value | Raw]] = {}
        self._averaged: dict[str, _Averaged] = {}
        # What the table before this one was asked for.
        self._inherited: dict[str, _Averaged] = {}

    @classmethod
    def of(cls, entities: Iterable[Entity]) -> GuestTable:
        """A table of guests that are there already."""
        guests = list(entities)
        length = max((len(guest.samples) for guest in guests), default=0)
        histories = [[*repeat(NO_ROW, length - len(guest.samples)), *guest.samples] for guest in guests]
        rows = [list(row) for row in zip(*histories, strict=True)]
        kept = {guest.key: guest.variables for guest in guests if guest.variables}
        return cls([guest.key for guest in guests], [guest.properties for guest in guests], rows, kept)

    def after(self, row: Sequence[Sample], length: int) -> GuestTable:
        """The table with one more sample per guest; of more than `length` the oldest is gone."""
        table = GuestTable(self.keys, self.properties, [*self.rows[-length + 1 :], row] if length > 1 else [row], self.variables)
        # Of tables that no policy saw, for samples come more often than runs, the heirs inherit from the one before.
        # (A copy: a trial of another policy may be asking this table in its own thread.)
        for name, averaged in list((self._averaged or self._inherited).items()):
            table._inherited[name] = averaged.after(table._read(name)[1], length)
        return table

    def with_variables(self, variables: Mapping[str, Mapping[str, Value]]) -> GuestTable:
        """The same guests with other variables; what has been read of them stays known."""
        table = GuestTable(self.keys, self.properties, self.rows, variables)
        table._newest, table._columns, table._averaged, table._inherited = self._newest, self._columns, self._averaged, self._inherited
        return table

    def column(self, name: str) -> Sequence[Value | Raw]:
        """The newest value of a field of each guest; None for nil."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _column(*self._read(name))
        return column

    def _read(self, name: str) -> tuple[Sequence[Value], _Integers]:
        newest = self._newest.get(name)
        if newest is None:
            sampled = [row.get(name) for row in (self.rows[-1] if self.rows else [NO_ROW] * len(self.keys))]
            # Whichever thread is first: all get the same.
            newest = self._newest.setdefault(name, (sampled, _integers(sampled)))
        return newest

    def sums(self, name: str) -> Sums:
        """The sums of a field over the history."""
        if not self.rows:
            return Sums([None] * len(self.keys), 0)
        averaged = self._averaged.get(name)
        if averaged is None:
            # A field that nobody averages any more isn't inherited by the next table.
            averaged = self._inherited.get(name) or _Averaged.of([_integers([sample.get(name) for sample in row]) for row in self.rows])
            self._averaged[name] = averaged
        return averaged.sums

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Entity: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Entity]: ...

    def __getitem__(self, index: int | slice) -> Entity | Sequence[Entity]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        samples = tuple(row[index] for row in self.rows)
        first = next((number for number, sample in enumerate(samples) if sample is not NO_ROW), len(samples))
        key = self.keys[index]
        return Entity(key, samples[first:], self.properties[index], self.variables.get(key, EMPTY))
