# SPDX-License-Identifier: GPL-2.0-or-later
"""Host and guests at one moment: everything a policy run can see, immutable.

`policy.evaluate(program, snapshot)` depends on nothing else, so a recorded snapshot gives the same decisions anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

# The values of the policy language that data can hold: nil, bool, int, float, string, list, and in fields objects (the disks of io_tune),
# by the names of their members. (Entities exist only inside a run.)
Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"
Sample: TypeAlias = Mapping[str, Value]

HOST = "host"
EMPTY: Mapping[str, Value] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entity:
    """The host (`key` is "host") or one guest (`key` is its UUID in the canonical spelling).

    `samples` are the last samples, oldest first; the last one is the newest and may be absent (nothing sampled yet). A field that a sample
    lacks, or holds as None, is nil. `variables` are those kept by `SetVar` from earlier runs. Units are those of the field tables.
    """

    key: str
    samples: Sequence[Sample] = ()
    properties: Mapping[str, Value] = field(default_factory=lambda: EMPTY)
    variables: Mapping[str, Value] = field(default_factory=lambda: EMPTY)

    def newest(self, name: str) -> Value:
        """The newest value of a field; None for nil."""
        return self.samples[-1].get(name) if self.samples else None

    def history(self, name: str) -> list[Value]:
        """The values of a field in all samples, oldest first, nil ones left out."""
        return [value for sample in self.samples if (value := sample.get(name)) is not None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world of one policy run. Guests are ordered by name, then UUID. `taken_us`: microseconds since the epoch, information only."""

    host: Entity = field(default_factory=lambda: Entity(HOST))
    guests: Sequence[Entity] = ()
    parameters: Mapping[str, Value] = field(default_factory=lambda: EMPTY)
    taken_us: int = 0
