# SPDX-License-Identifier: GPL-2.0-or-later
"""mom-fields(7): what policies can read and set, from the tables of collectors and controllers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from blocks import Block, Entry, Page, Part, Text, section

from momservice import config, parts
from momservice.collectors import planned, registry
from momservice.controllers import planned as planned_controllers
from momservice.fields import GUEST_PROPERTIES, HOST_PROPERTIES, Control, Field
from momservice.policy.forms import TUNE_FIELD_DOCS, TUNE_FIGURES, TUNE_SETTERS

_INTRO = (
    "What policies can read and set. `Host.mem_free` and `guest.mem_free` give the newest value of a field, nil if it has none now: no "
    "field, collector or file that is missing stops another. 1 KiB is 1024 bytes. A policy sees the fields of the collectors that are "
    "configured (momd.conf(5)); reading another one is nil, with a warning at load."
)
_CONTROLS = (
    "`(Host.Control 'name' value)` and `(guest.Control 'name' value)` ask for a control. nil: no control. A boolean counts as 0 or 1."
    " Fractions are rounded down. Text, a number that isn't finite and a negative one (where it means nothing of its own) are refused."
    " What is otherwise out of range is clamped, and reported as clamped. A refusal is reported with its reason and stops nothing else."
)
_SETTERS = "Each takes a limit, `(disk.setTotalBytesSec 1000000)`: only disks that differ are sent."
UNBUILT = "not built yet"


def fields() -> Page:
    """The page."""

    def blocks() -> Iterator[Block]:
        yield from section("Description", Text(_INTRO))
        host, guest = config.Config().host_collectors, config.Config().guest_collectors
        yield from section("Host fields", *_collectors({name: part.FIELDS for name, part in registry.HOST.items()}, host))
        yield from section("Guest fields", *_collectors({name: part.FIELDS for name, part in registry.GUEST.items()}, guest))
        yield from _collectors(planned.PLANNED, (), UNBUILT)
        yield from section("Objects in fields", *_disks())
        yield from section("Controls", Text(_CONTROLS))
        yield from _controllers({name: part.CONTROLS for name, part in parts.CONTROLLERS.items()})
        yield from _controllers(planned_controllers.CONTROLLERS, UNBUILT)
        yield from section("Properties", Text("`(Host.Prop 'name')` and `(guest.Prop 'name')` give what doesn't change."))
        yield from (Entry(f"host {name}", doc) for name, doc in HOST_PROPERTIES.items())
        yield from (Entry(f"guest {name}", doc) for name, doc in GUEST_PROPERTIES.items())
        yield from section("See also", Text("mom-policy(5), mom-metrics(7), momd.conf(5), momservice(8)"))

    return Page("mom-fields", 7, "fields and controls of policies of the Memory Overcommitment Manager", blocks())


def _collectors(tables: Mapping[str, Sequence[Field]], default: Iterable[str], note: str = "") -> Iterator[Block]:
    """Collectors with their fields; those with the same fields under one title."""
    alike: dict[tuple[Field, ...], list[str]] = {}
    for name, table in tables.items():
        alike.setdefault(tuple(table), []).append(name)
    for table, names in alike.items():
        notes = note or ("configured by default" if set(names) & set(default) else "")
        yield Part(_title(", ".join(names), notes))
        yield from (Entry(_title(field.name, ", ".join(filter(None, (field.type, field.unit)))), field.doc) for field in table)


def _controllers(tables: Mapping[str, Sequence[Control]], note: str = "") -> Iterator[Block]:
    for name, table in tables.items():
        yield Part(_title(name, note))
        yield from (Entry(_title(f"{control.entity} {control.name}", _range(control)), control.doc) for control in table)
        if not table:
            yield Text("The setters of the disks in `io_tune`.")


def _range(control: Control) -> str:
    also = "".join(f"{number} or " for number in sorted(control.also))
    return ", ".join(filter(None, (control.unit, f"{also}{control.minimum} to {control.maximum}")))


def _title(name: str, note: str) -> str:
    return f"{name} ({note})" if note else name


def _disks() -> Iterator[Block]:
    yield Part("A disk in io_tune: members")
    yield from (Entry(name, doc) for name, doc in TUNE_FIELD_DOCS.items())
    yield Text(f"Each of the sets of limits has the members {', '.join(f'`{figure}`' for figure in TUNE_FIGURES)}.")
    yield Part("A disk in io_tune: setters")
    yield Text(_SETTERS)
    yield from (Entry(setter.name, setter.doc) for setter in TUNE_SETTERS.values())
