# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's signals in words. Those that aren't known, or aren't as they should be, are told as they are. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from momservice.bus.connection import Signal, Variant
from momservice.bus.names import MANAGER, PATH, POLICY
from momservice.cli.output import mib, one_line

# UUID -> name of the guests that are known.
Names: TypeAlias = Mapping[str, str]
Told: TypeAlias = list[str]

PROPERTIES_CHANGED: Final = ("org.freedesktop.DBus.Properties", "PropertiesChanged")
OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"
# Guests' objects are below it.
GUESTS: Final = f"{PATH}/guest/"


def plain(value: Any) -> Any:
    """An argument without the types of its variants."""
    match value:
        case Variant():
            return plain(value.value)
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return list(value)
        case _:
            return value


def told(signal: Signal, names: Names) -> Told:
    """The lines that tell a signal: one, or one for each thing that a batched signal is about."""
    args = plain(list(signal.args))
    tell = KNOWN.get((signal.interface, signal.member))
    try:
        texts = tell(args, names, signal.path) if tell else [_generic(signal, args)]
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        # A later service may tell more than this program knows.
        texts = [_generic(signal, args)]
    return [one_line(f"{signal.member}: {text}") for text in texts]


def _generic(signal: Signal, args: Sequence[Any]) -> str:
    return f"{signal.interface} at {signal.path}: {', '.join(map(_value, args)) or 'no arguments'}"


def _value(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return str(value)


def _name(entity: str, names: Names) -> str:
    return names.get(entity) or entity


def _policies(args: Sequence[Any], _names: Names, _path: str) -> Told:
    generation, policies = args
    return [f"generation {generation}: {', '.join(policies) or 'no policies'}"]


def _parameters(args: Sequence[Any], _names: Names, _path: str) -> Told:
    (values,) = args
    return [", ".join(f"{name}={value}" for name, value in sorted(values.items())) or "some are gone or have no value"]


def _balloons(args: Sequence[Any], names: Names, _path: str) -> Told:
    (targets,) = args
    return [
        f"{_name(uuid, names)}: {mib(old / 1024)} -> {mib(new / 1024)} MiB{f': {reason}' if reason else ''}"
        for uuid, old, new, _, reason in targets
    ]


def _guests(args: Sequence[Any], names: Names, _path: str) -> Told:
    added, removed = args
    return [f"{what}: {', '.join(_name(uuid, names) for uuid in who)}" for what, who in (("added", added), ("removed", removed)) if who]


def _states(args: Sequence[Any], names: Names, _path: str) -> Told:
    (states,) = args
    return [f"{_name(uuid, names)}: {state}{f': {reason}' if reason else ''}" for uuid, state, reason in states]


def _pressure(args: Sequence[Any], _names: Names, _path: str) -> Told:
    level, some, full = args
    return [f"{level}: some {some:.2f} %, full {full:.2f} % of the last 10 s"]


def _failures(args: Sequence[Any], names: Names, _path: str) -> Told:
    (failures,) = args
    return [f"{_name(entity, names) or 'policy'}: {code} at {fragment}:{line}" for entity, code, fragment, line in failures]


def _controls(args: Sequence[Any], names: Names, _path: str) -> Told:
    (controls,) = args
    return [f"{_name(entity, names)}: {control}: {reason}" for entity, control, reason in controls]


def _properties(args: Sequence[Any], names: Names, path: str) -> Told:
    interface, changed, invalidated = args
    told_of = names.get(uuid_of(path), "") or interface.rpartition(".")[2]
    return [f"{told_of}: {', '.join([f'{name}={_value(value)}' for name, value in changed.items()] or invalidated)}"]


def _objects(args: Sequence[Any], names: Names, _path: str) -> Told:
    path, interfaces = args
    return [f"{names.get(uuid_of(path), '') or path}: {', '.join(interfaces)}"]


def uuid_of(path: str) -> str:
    """The UUID of the guest whose object this is; "" for other objects."""
    return path.removeprefix(GUESTS).replace("_", "-") if path.startswith(GUESTS) else ""


def is_noise(signal: Signal) -> bool:
    """Whether it only says that figures have changed, as they do all the time, or repeats for a guest's object what others tell of all."""
    if (signal.interface, signal.member) == PROPERTIES_CHANGED:
        return signal.path.startswith(GUESTS) or (len(signal.args) > 1 and not signal.args[1])
    return signal.interface == OBJECTS


KNOWN: Final[Mapping[tuple[str, str], Callable[[Sequence[Any], Names, str], Told]]] = {
    (POLICY, "PolicyChanged"): _policies,
    (POLICY, "ParametersChanged"): _parameters,
    (MANAGER, "BalloonTargetsChanged"): _balloons,
    (MANAGER, "GuestsChanged"): _guests,
    (MANAGER, "GuestStateChanged"): _states,
    (MANAGER, "PressureChanged"): _pressure,
    (MANAGER, "EvaluationFailed"): _failures,
    (MANAGER, "EvaluationRecovered"): lambda args, _names, _path: ["all is well again"] if not args else [_value(args)],
    (MANAGER, "ControlFailed"): _controls,
    PROPERTIES_CHANGED: _properties,
    (OBJECTS, "InterfacesAdded"): _objects,
    (OBJECTS, "InterfacesRemoved"): _objects,
}
