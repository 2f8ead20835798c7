# SPDX-License-Identifier: GPL-2.0-or-later
"""GuestQemuProc: what the host's kernel says of the guest's QEMU process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from momservice.collectors import Moment
from momservice.fields import Field
from momservice.hypervisor import GuestRecord
from momservice.hypervisor.processes import COMMAND, ProcessStat, read_stat
from momservice.snapshot import EMPTY, Sample, Value


class GuestQemuProc:
    """Resident size and page faults of the QEMU process that libvirt's pid file names."""

    NAME: ClassVar[str] = "GuestQemuProc"
    FIELDS: ClassVar[Sequence[Field]] = (
        Field("host_minor_faults", "int", "since the last sample", "/proc/PID/stat: page faults of QEMU without I/O"),
        Field("host_major_faults", "int", "since the last sample", "/proc/PID/stat: page faults of QEMU with I/O"),
        Field("rss", "int", "pages", "/proc/PID/stat: QEMU's resident memory"),
    )

    def __init__(self) -> None:
        self._last: dict[str, ProcessStat] = {}

    def collect(self, guest: GuestRecord, _moment: Moment) -> Sample:
        """Nothing without a process; no faults in its first sample."""
        now = read_stat(guest.pid) if guest.pid is not None else None
        if now is None or not now.command.startswith(COMMAND):
            self.forget(guest.uuid)
            return EMPTY
        before = self._last.get(guest.uuid)
        self._last[guest.uuid] = now
        sample: dict[str, Value] = {"rss": now.rss_pages}
        # Another start time: another process, whose counts began anew.
        if before is not None and before.start_ticks == now.start_ticks:
            sample["host_minor_faults"] = now.minor_faults - before.minor_faults
            sample["host_major_faults"] = now.major_faults - before.major_faults
        return sample

    def forget(self, uuid: str) -> None:
        """Drop the last counts."""
        self._last.pop(uuid, None)
