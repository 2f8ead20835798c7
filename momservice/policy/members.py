# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind a dot: fields and methods of entities, and of objects in fields (the disks of `io_tune`). Nothing else has members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from momservice.decisions import Place, Read
from momservice.policy.forms import METHODS, TUNE_FIELDS, TUNE_FIGURE_OF, TUNE_SETTERS
from momservice.policy.state import State
from momservice.policy.values import (
    FREE,
    NUMBERS,
    WIDE,
    Datum,
    List,
    PolicyError,
    Record,
    Thing,
    cost,
    inward,
    kind_of,
    outward,
    plain,
    short,
)
from momservice.snapshot import Value

# How many variables an entity may keep: they last from run to run.
KEPT: Final = 1000
# How long their names may be.
NAME: Final = 256
# How much their texts and lists may be in all, in values and in 16 characters of text.
KEPT_SIZE: Final = 8192
# Samples that an average looks through in a step.
SAMPLES_PER_STEP: Final = 4
Method: TypeAlias = "Callable[[State, Any, Sequence[Datum], Place], Datum]"


def member(machine: State, value: Datum, name: str) -> Datum:
    """The field `name` of a value. Raises PolicyError("name") without such a field, ("form") for a method that isn't called."""
    if type(value) is Record:
        return _member_of_record(machine, value, name)
    if type(value) is not Thing:
        raise PolicyError("name", f"{kind_of(value)} has no field '{short(name)}'")
    if name in METHODS:
        raise PolicyError("form", f"the method '{name}' is not called")
    if name not in value.names.declared and name not in value.names.known:
        raise PolicyError("name", f"the {value.kind} has no field '{short(name)}'")
    return _newest(machine, value, name)


def _member_of_record(machine: State, record: Record, name: str) -> Datum:
    if name not in TUNE_FIELDS:
        raise PolicyError("name", f"the object has no field '{short(name)}'")
    if record.role == "current" and record.item:
        # What the run has set is current from then on, as policies of 2011 expect.
        wanted = machine.wanted(record.owner, name, record.item)
        if wanted is not None:
            return _taken(machine, wanted)
    return _paid_text(machine, record.member(name, machine.charge))


def receiver(value: Datum, method: str) -> Thing | Record:
    """The entity or object whose method is called. Raises PolicyError("name")."""
    if type(value) is Thing and method in METHODS:
        return value
    if type(value) is Record and method in TUNE_SETTERS and value.role == "item" and value.item and value.owner:
        return value
    raise PolicyError("name", f"{kind_of(value)} has no method '{method}'")


def _taken(machine: State, value: Value, owner: str = "") -> Datum:
    """A value that is kept outside the run, paid for by its size: taking it in walks it."""
    if type(value) in FREE or (type(value) is int and -WIDE < value < WIDE):
        return value  # type: ignore[return-value]  # FREE types are of the language
    return _paid_text(machine, inward(value, owner, pay=machine.charge))


def _paid_text(machine: State, taken: Datum) -> Datum:
    """A value that has been taken in, now paid for if it is a text: all else has been on the way."""
    if type(taken) is str:
        machine.charge(cost(taken))
    return taken


def _pay(machine: State, value: Datum) -> None:
    if type(value) not in NUMBERS:
        machine.charge(cost(value))


def _newest(machine: State, thing: Thing, name: str) -> Datum:
    value = _taken(machine, machine.newest(thing, name), thing.key) if name in thing.names.declared else None
    _note(machine, thing, "stat", name, value)
    return value


def _note(machine: State, thing: Thing, kind: str, name: str, value: Datum) -> None:
    # What has been read is the same all through a run, but for variables.
    if machine.reads is not None and (kind == "variable" or (thing.key, kind, name) not in machine.reads):
        machine.reads[thing.key, kind, name] = Read(thing.key, kind, name, plain(value))


def _name(value: Datum, method: str) -> str:
    if isinstance(value, str):
        return value
    raise PolicyError("type", f"'{method}' takes a name, a string, not {kind_of(value)}")


def _field_name(thing: Thing, value: Datum, method: str) -> str:
    name = _name(value, method)
    if name in thing.names.declared or name in thing.names.known:
        return name
    raise PolicyError("unknown-field", f"the {thing.kind} has no field '{short(name)}'")


def _prop(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    name = _name(operands[0], "Prop")
    if name not in thing.names.properties:
        raise PolicyError("unknown-prop", f"the {thing.kind} has no property '{short(name)}'")
    value = _taken(machine, machine.properties(thing).get(name))
    _note(machine, thing, "property", name, value)
    return value


def _stat(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    value = _newest(machine, thing, _field_name(thing, operands[0], "Stat"))
    return operands[1] if value is None and len(operands) > 1 else value


def no_data(name: str) -> PolicyError:
    """The error of an average of nothing."""
    return PolicyError("no-data", f"'{short(name)}' has no value to average")


def _average(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    name = _field_name(thing, operands[0], "StatAvg")
    # All samples are looked through, however few have a value; four take about as long as another operation. The longest history that can
    # be configured leaves a guest's round room for a dozen averages.
    machine.charge(machine.sample_count(thing) // SAMPLES_PER_STEP)
    mean = machine.mean(thing, name) if name in thing.names.declared else None
    if mean is None:
        raise no_data(name)
    _note(machine, thing, "average", name, mean)
    return mean


def _set_variable(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    name = _name(operands[0], "SetVar")
    _pay(machine, operands[1])
    kept = machine.kept(thing)
    if len(name) > NAME:
        raise PolicyError("limit", f"the name of a kept variable has at most {NAME} characters")
    if name not in kept and len(kept) >= KEPT:
        raise PolicyError("limit", f"an entity keeps at most {KEPT} variables")
    value = outward(operands[1])
    if type(operands[1]) is str or type(operands[1]) is List:
        # What comes from older runs has passed here too, so it isn't more.
        size = sum(_size(one) for other, one in kept.items() if other != name and isinstance(one, str | list)) + _size(value)
        machine.charge((len(kept) + size) // SAMPLES_PER_STEP)
        if size > KEPT_SIZE:
            raise PolicyError("limit", f"the texts and lists that an entity keeps are more than {KEPT_SIZE} values, or 16 characters each")
    machine.write(kept, name, value)
    return None


def _size(value: Value) -> int:
    """The size of a kept value."""
    return cost(inward(value))


def _get_variable(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    name = _name(operands[0], "GetVar")
    value = _taken(machine, machine.kept_value(thing, name))
    _note(machine, thing, "variable", name, value)
    return value


def _control(machine: State, thing: Thing, operands: Sequence[Datum], place: Place) -> Datum:
    name = _name(operands[0], "Control")
    _want(machine, thing.key, name, "", operands[1], place)
    return None


def _want(machine: State, key: str, name: str, item: str, value: Datum, place: Place) -> None:
    _pay(machine, value)
    machine.want(key, name, item, outward(value), place)


def _set_figure(name: str, machine: State, disk: Record, operands: Sequence[Datum], place: Place) -> Datum:
    _want(machine, disk.owner, name, disk.item, operands[0], place)
    return None


def _get_control(machine: State, thing: Thing, operands: Sequence[Datum], _place: Place) -> Datum:
    return _taken(machine, machine.wanted(thing.key, _name(operands[0], "GetControl")))


METHOD_CODE: Final[dict[str, Method]] = {
    "Prop": _prop,
    "Stat": _stat,
    "StatAvg": _average,
    "SetVar": _set_variable,
    "GetVar": _get_variable,
    "Control": _control,
    "GetControl": _get_control,
    **{setter: partial(_set_figure, name) for setter, name in TUNE_FIGURE_OF.items()},
}
