# SPDX-License-Identifier: GPL-2.0-or-later
"""Collectors: one file per source, each declares its fields in a table. A field without a value is left out of the sample (nil)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.snapshot import Sample


@dataclass(frozen=True, slots=True)
class Moment:
    """When a sample is taken, and which guests libvirt last told of.

    `monotonic_s`: for elapsed times; `wall_s`: seconds since the epoch, for ages of statistics; `interval_s`: the guest interval.
    """

    monotonic_s: float
    wall_s: float
    interval_s: float
    guests: Sequence[GuestRecord] = ()


class HostCollector(Protocol):
    """One source of host fields. `collect` never raises for a missing file; it leaves out what it can't tell."""

    NAME: ClassVar[str]
    FIELDS: ClassVar[Sequence[Field]]

    def collect(self, moment: Moment) -> Sample:
        """The fields that have a value now."""


class GuestCollector(Protocol):
    """One source of guest fields."""

    NAME: ClassVar[str]
    FIELDS: ClassVar[Sequence[Field]]

    def collect(self, guest: GuestRecord, moment: Moment) -> Sample:
        """The fields of one guest that have a value now."""

    def forget(self, uuid: str) -> None:
        """The guest is gone: drop what was kept of it."""
