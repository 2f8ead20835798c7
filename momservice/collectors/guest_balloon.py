# SPDX-License-Identifier: GPL-2.0-or-later
"""GuestBalloon: size and bounds of the guest's balloon, as libvirt tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from momservice.collectors import Moment
from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.snapshot import Sample, Value


class GuestBalloon:
    """Balloon size and bounds. Without a balloon device the guest has its maximum, for good."""

    NAME: ClassVar[str] = "GuestBalloon"
    FIELDS: ClassVar[Sequence[Field]] = (
        Field("balloon_cur", "int", "KiB", "memory that the balloon leaves to the guest"),
        Field("balloon_max", "int", "KiB", "all memory of the guest's machine"),
        Field("balloon_min", "int", "KiB", "guaranteed minimum: oVirt's `minGuaranteedMemoryMb`, else memtune min_guarantee, else 0"),
    )

    def collect(self, guest: GuestRecord, _moment: Moment) -> Sample:
        """The three sizes, as far as libvirt tells them."""
        sample: dict[str, Value] = {"balloon_min": guest.facts.min_guarantee_kib}
        for field, name in (("balloon_cur", "current"), ("balloon_max", "maximum")):
            if name in guest.balloon:
                sample[field] = guest.balloon[name]
        return sample

    def forget(self, uuid: str) -> None:
        """Nothing is kept of a guest."""


class GuestBalloonOptional(GuestBalloon):
    """The same under the name of old configurations: every field is optional."""

    NAME = "GuestBalloonOptional"
