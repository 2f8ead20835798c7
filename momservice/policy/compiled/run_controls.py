# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the compiled form leaves: the controls it wants, the limits of disks as they make them, the variables entities keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from momservice.decisions import Place, Wanted
from momservice.policy.compiled.places import NOWHERE, whereabouts
from momservice.policy.compiled.run_steps import RunSteps
from momservice.policy.compiled.shape import Site
from momservice.policy.forms import TUNE_FIGURES
from momservice.policy.members import member
from momservice.policy.values import HOST_INDEX, LIST_DEPTH, NUMBERS, Datum, Record, Thing, cost, outward
from momservice.snapshot import EMPTY, HOST, Value

# What a setter takes for each disk of the same name.
_NAMESAKE: Final = 10


class RunControls(RunSteps):
    """Takes controls and kept variables. `controls`: by name and item, then by the guest's index, each with the site that wants it."""

    controls: dict[tuple[str, str], dict[int, tuple[Value, int | Site]]]
    # Where the control that is being taken is wanted.
    _site: int | Site = 0
    # The disks, by owner and name, that setters have been called of.
    _limited: set[tuple[str, str]]
    # The current limits of disks that have been read, by owner and name, each as it was and as setters have made it.
    _current: dict[tuple[str, str], tuple[tuple[Mapping[str, Value], dict[str, Value]], ...]]
    _indices: dict[str, int]
    _kept: dict[str, dict[str, Value]]

    # --- controls --------------------------------------------------------------------------------------------------------------------

    def _index(self, key: str) -> int:
        if key == HOST:
            return HOST_INDEX
        if not self._indices:
            self._indices = {known: index for index, known in enumerate(self.table.keys)}
        return self._indices[key]

    def want(self, key: str, name: str, item: str, value: Value, place: Place) -> None:  # the site tells the place
        """Takes a control of the entity `key`."""
        control = (name, item)
        table = self.controls.get(control)
        if table is None:
            table = self.controls[control] = {}
        self.write(table, self._index(key), (value, self._site))
        if item:
            disk = (key, item)
            self._limited.add(disk)
            known = self._current.get(disk, ())
            if len(known) > 1:
                # Usually no two disks of a guest have the same name.
                self.pay(_NAMESAKE * len(known))
            for limits, figures in known:
                self.write(figures, name, limits.get(name) if value is None else value)

    def wanted(self, key: str, name: str, item: str = "") -> Value:
        """The control that has been taken, None if none has."""
        taken = self.controls.get((name, item), {}).get(self._index(key))
        return None if taken is None else taken[0]

    def take_controls(self, name: str, table: dict[int, tuple[Value, int | Site]]) -> None:
        """Takes one control of many guests, by index, at the end of a form that has written them in order."""
        known = self.controls.get((name, ""))
        if known is None:
            self.controls[name, ""] = table
        else:
            known.update(table)

    def sendable(self, value: Datum) -> Value:
        """The value of a control. Raises PolicyError("type")."""
        if type(value) in NUMBERS:
            return value  # type: ignore[return-value]  # a number
        self.charge(cost(value))
        return outward(value)

    def _wanted(self) -> list[Wanted]:
        keys = (*self.table.keys, HOST)
        make = tuple.__new__  # What `Wanted` does itself, without naming each field: there may be thousands.
        found: list[Wanted] = []
        indices: list[int] = []
        for (name, item), table in sorted(self.controls.items()):
            told = {site: whereabouts(self._compiled, site) for site in {site for _, site in table.values()}}
            found += [make(Wanted, (keys[index], name, value, *told[site], item, ())) for index, (value, site) in table.items()]
            indices += table
        order = sorted(range(len(found)), key=indices.__getitem__)
        return [found[number] for number in order if indices[number] not in self.dropped]

    # --- limits of disks -------------------------------------------------------------------------------------------------------------

    def limit(self, disk: Record, figure: str, value: Datum, site: int) -> None:
        """Calls a setter of a disk."""
        self._site = (self._compiled.sites[site][0], tuple(self.calls)) if self.calls else site
        self.want(disk.owner, figure, disk.item, value if type(value) is int else self.sendable(value), NOWHERE)

    def limits(self, disk: Datum, name: str) -> Mapping[str, Value]:
        """What integers the limits of a disk are, by figure; those that aren't at hand have to be asked for. Raises PolicyError("name")."""
        limits = disk.source.get(name) if type(disk) is Record and disk.role == "item" else None
        if type(disk) is not Record or type(limits) is not dict or disk.depth >= LIST_DEPTH - 1:
            member(self, disk, name)
            return EMPTY
        if len(limits) > len(TUNE_FIGURES):
            # Beyond what the bounds of the code have for them.
            self.charge(len(limits))
        return self._followed(disk, limits) if name == "current" and disk.item else limits

    def part(self, disk: Datum, name: str) -> Datum:
        """The limits of a disk as a value."""
        value = member(self, disk, name)
        if type(value) is Record:
            value.figures = self.limits(disk, name)
        return value

    def _followed(self, disk: Record, limits: Mapping[str, Value]) -> Mapping[str, Value]:
        """The current limits of a disk, which become what setters set."""
        key = (disk.owner, disk.item)
        known = self._current.get(key, ())
        if len(known) > 1:
            self.pay(len(known))
        for source, figures in known:
            if source is limits:
                return figures
        figures = dict(limits)
        self._current[key] = (*known, (limits, figures))
        for name in TUNE_FIGURES if key in self._limited else ():
            value = self.wanted(disk.owner, name, disk.item)
            if value is not None:
                # So that it is undone with the setter.
                self.write(figures, name, value)
        return figures

    # --- kept variables --------------------------------------------------------------------------------------------------------------

    def kept(self, thing: Thing) -> dict[str, Value]:
        """The variables that an entity keeps, to be changed by `write`."""
        if thing.key not in self._kept:
            self._kept[thing.key] = dict(self._before(thing))
        return self._kept[thing.key]

    def kept_value(self, thing: Thing, name: str) -> Value:
        """One of them; None if there is none."""
        return (self._kept[thing.key] if thing.key in self._kept else self._before(thing)).get(name)

    def _before(self, thing: Thing) -> Mapping[str, Value]:
        if thing.index == HOST_INDEX:
            return self._host.variables
        return self.table.variables.get(thing.key, {})

    def _variables(self) -> Mapping[str, Mapping[str, Value]]:
        return {key: values for key, values in {**self.kept_before(), **self._kept}.items() if values}
