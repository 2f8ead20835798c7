# SPDX-License-Identifier: GPL-2.0-or-later
"""Worlds for generated policies: guests and histories whose fields are of every type there is, absent ones and absurd ones included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proof_choices import Choices

from momservice.fields import Names, Schema
from momservice.snapshot import HOST, Entity, Sample, Snapshot, Value

LENGTH: Final = 12
BIG: Final = 1 << 255


def _disk(name: str, figure: Value) -> Value:
    limits: Mapping[str, Value] = {"total_bytes_sec": figure, "read_iops_sec": 7, "write_bytes_sec": 0.5}
    return {"name": name, "path": f"/d/{name}", "guaranteed": limits, "maximum": {"total_bytes_sec": 9}, "current": {"total_bytes_sec": 4}}


def _each(value: Value) -> list[Value]:
    return [value] * LENGTH


def _at(places: Sequence[int], value: Value, others: Value = None) -> list[Value]:
    return [value if place in places else others for place in range(LENGTH)]


# By field, the histories that it may have, oldest first; the simplest first.
_NUMBERS: Final[list[list[Value]]] = [
    _each(1),
    list(range(LENGTH)),
    [1000 + (place * 7919) % 613 for place in range(LENGTH)],
    [-place for place in range(LENGTH)],
    _each(3),
    _each(0),
]
_ODD_NUMBERS: Final[list[list[Value]]] = [
    [True, 2, 3.5] * 4,
    _each(2 * BIG - 1),
    _each(BIG),
    [2 * BIG - 1, 1 - 2 * BIG] * 6,
    [1 << 53, 1, 1, 1] * 3,
    _at((11,), "text", 5),
    _at((2,), "text", 5),
    _at((11,), 2 * BIG, 5),
]
_GAPS: Final[list[list[Value]]] = [
    _at((), 1),
    _at((11,), 5),
    _at((0, 1, 2, 3), 6),
    _at((0, 4, 10, 11), 7),
    _at((11,), None, 8),
]
_FLOATS: Final[list[list[Value]]] = [
    _each(0.5),
    [0.1 * place for place in range(LENGTH)],
    [0.1, 0.2, 0.3, 1e16, -1e16, 0.7] * 2,
    _each(-0.0),
    _each(math.nan),
    _each(math.inf),
    [math.inf, -math.inf] * 6,
    _each(1e308),
    _at((11,), 1, 2.5),
    _at((3, 4, 11), 2.5),
]
_OTHERS: Final[list[list[Value]]] = [
    _each("s"),
    _each([]),
    _each({}),
    _each({"name": 5, "current": 1}),
    _each([1, [2, [3, "x"]], None]),
    _each(("a", 1.5)),
    _each(""),
    _each("ä" * 40),
]
_HISTORIES: Final[Mapping[str, list[list[Value]]]] = {
    "mem": [*_NUMBERS, *_NUMBERS, *_NUMBERS, *_NUMBERS, *_GAPS[:2]],
    "opt": [*_NUMBERS, *_GAPS, *_GAPS],
    "fl": [*_FLOATS, *_GAPS[:2]],
    "big": [*_ODD_NUMBERS, *_GAPS[:2]],
    "mix": [*_NUMBERS[:2], *_ODD_NUMBERS, *_FLOATS, *_OTHERS, *_GAPS],
    "flag": [_each(False), _each(True), [True, False] * 6, *_GAPS[:2]],
    "label": [_each("s"), _each("tu"), _each("mem"), _each("opt"), _each(""), *_GAPS[:1]],
    "lst": [_each([]), _each([1, 2]), _each([3]), _each([0, None, "x"]), _each([[1], [1]]), *_GAPS[:1]],
    "io_tune": [_each([_disk("vda", 5)]), _each([_disk("vda", 6), _disk("vdb", None)]), _each([]), _each([{"maximum": 1}]), *_GAPS[:1]],
    # A collector of it exists and isn't configured: nil, whatever the sample says.
    "later": [_each(1)],
    # No collector has it.
    "secret": [_each(1)],
}
FIELDS: Final = tuple(_HISTORIES)[:-2]
CONTROLS: Final = ("t", "u", "v")
PROPERTIES: Final = ("name", "uuid", "list")
_NAMES: Final = Names(frozenset(FIELDS), frozenset({*FIELDS, "later"}), frozenset(CONTROLS), frozenset(PROPERTIES))
SCHEMA: Final = Schema(_NAMES, Names(frozenset(FIELDS), frozenset({*FIELDS, "later"}), frozenset(CONTROLS), frozenset(PROPERTIES)))
_KEPT: Final[list[Value]] = [None, 1, 2.5, "k", True, [1, 2], [], "mem", -(2 * BIG - 1), [["n"], 1.0]]
_LENGTHS: Final = (1, 0, 2, 3, 4, 5, 7, 10, 12, 12, 12)
PARAMETERS: Final = ("p", "q", "r", "z")
_GIVEN: Final[list[Value]] = [5, True, 0.25, "given", None, [1, "x"], -1, 1 << 256, math.nan]


@dataclass(frozen=True)
class World:
    """A snapshot that shows itself as what makes it, for failing examples."""

    snapshot: Snapshot

    def __repr__(self) -> str:
        lines = [f"  parameters={dict(self.snapshot.parameters)!r}"]
        for entity in (self.snapshot.host, *self.snapshot.guests):
            lines += [f"  Entity({entity.key!r}, properties={dict(entity.properties)!r}, variables={dict(entity.variables)!r}, ["]
            lines += [f"    {dict(sample)!r}," for sample in entity.samples] + ["  ])"]
        return "\n".join(lines)


def world(choices: Choices, most: int = 6, parameters: Sequence[str] = PARAMETERS) -> World:
    """A world of at most so many guests."""
    guests = [_entity(choices, f"00000000-0000-0000-0000-{number:012}", f"vm{number}") for number in range(choices.below(most + 1))]
    given = {name: choices.pick(_GIVEN) for name in (*parameters, "unknown") if choices.chance(25)}
    return World(Snapshot(_entity(choices, HOST, "here"), tuple(guests), given))


def _entity(choices: Choices, key: str, name: str) -> Entity:
    histories = {field: choices.pick(histories) for field, histories in _HISTORIES.items()}
    length = choices.pick(_LENGTHS)
    # An absent field and one that is None are the same, and both occur.
    samples: list[Sample] = [
        {field: values[place] for field, values in histories.items() if values[place] is not None or place % 2}
        for place in range(LENGTH - length, LENGTH)
    ]
    if choices.chance(6) and samples:
        samples[-1] = {}
    kept = {variable: choices.pick(_KEPT) for variable in ("v", "w") if choices.chance(40)}
    return Entity(key, tuple(samples), {"name": name, "uuid": key, "list": [1, name], "hidden": 1}, kept)


_KIB: Final = 1 << 20
_HOST_FIGURES: Final[Mapping[str, Sequence[Value]]] = {
    "mem_available": (16 * _KIB, 64 * _KIB, 64 * _KIB, 1, 0, None),
    "mem_free": (_KIB, 8 * _KIB, 40 * _KIB, _KIB // 3, 0.5, None),
    "ksm_pages_to_scan": (100, 64, 1250, 0, None),
    "ksm_shareable": (20 * _KIB, 0, 60 * _KIB, None),
    "ksm_merge_across_nodes": (1, 1, 0, None),
    "ksm_pages_shared": (0, 5, 5, 0, None),
    "cpu_count": (8, 8, 64, None),
}


def _limited(name: str, figure: Value) -> Value:
    current = {f"{way}_{what}_sec": 100 for way in ("total", "read", "write") for what in ("bytes", "iops")}
    return {"name": name, "guaranteed": {**current, "read_bytes_sec": 300}, "maximum": dict.fromkeys(current, figure), "current": current}


_GUEST_FIGURES: Final[Mapping[str, Sequence[Value]]] = {
    "libvirt_curmem": (_KIB, _KIB // 2, 2 * _KIB, 3.5, 0, None),
    "libvirt_maxmem": (2 * _KIB, _KIB, 2 * _KIB, None),
    "mem_unused": (_KIB // 3, _KIB // 5, 100, 0, 0.1, None, "text"),
    "mem_free": (_KIB // 3, _KIB // 5, 100, None),
    "balloon_min": (0, _KIB // 2, None),
    "swap_in": (0, 10, None),
    "held": (False, False, True, None),
    "balloon_works": (True, True, False, None),
    "balloon_enabled": (True, False, None),
    "shares": (1000, 500, None),
    "vcpu_quota": (-1, 5000, 100_000, -1, None),
    "vcpu_period": (100_000, 100_000, 1000, None),
    "vcpu_user_limit": (100, 10, 50, 0, None),
    "vcpu_count": (2, 1, 16, 0, None),
    "io_tune": ([_limited("vda", 500), _limited("vdb", 0)], [_limited("vda", 5)], [], [_limited("vda", 0.5)], None),
}


def plausible(choices: Choices) -> World:
    """A world for policies that are in use: their fields, some of them missing."""
    host = _figures(choices, HOST, _HOST_FIGURES, {"interval": 10})
    keys = [f"00000000-0000-0000-0000-{number:012}" for number in range(choices.below(5))]
    guests = [_figures(choices, key, _GUEST_FIGURES, {"name": key[-3:], "uuid": key}) for key in keys]
    for guest in guests:
        # GuestLibvirt's names of 2011 and GuestBalloon's for the same.
        for sample in guest.samples:
            assert isinstance(sample, dict)
            sample |= {"balloon_cur": sample["libvirt_curmem"], "balloon_max": sample["libvirt_maxmem"]}
    return World(Snapshot(host, guests))


def _figures(choices: Choices, key: str, table: Mapping[str, Sequence[Value]], properties: Mapping[str, Value]) -> Entity:
    length = choices.pick((3, 1, 10, 0)) if choices.chance(20) else 3
    usual = {name: values[choices.below(4) if len(values) > 3 else 0] for name, values in table.items()}
    samples = [{name: choices.pick(table[name]) if choices.chance(4) else usual[name] for name in table} for _ in range(length)]
    return Entity(key, samples, properties)
