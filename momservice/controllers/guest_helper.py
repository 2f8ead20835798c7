# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to momhelper-guests, the only process that may change guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from momservice.bus.connection import BusLost, CallError, Connection
from momservice.bus.refusals import told
from momservice.controllers import HelperUnavailable, ping

NAME = "org.ovirt.MomGuestHelper1"
PATH = "/org/ovirt/MomGuestHelper1"
DEADLINE_S = 10.0

# What became of one guest: ("ok" or another outcome of the interface, message).
Result = tuple[str, str]


class GuestHelper:
    """Calls the helper, which the bus starts when needed. All methods raise HelperUnavailable when there is no answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set_memory(self, targets_bytes: Mapping[str, int]) -> Mapping[str, Result]:
        """Set balloon targets by UUID, in bytes."""
        return await self._call("SetMemory", "a(st)", [list(target) for target in targets_bytes.items()])

    async def set_stats_period(self, uuids: Sequence[str], seconds: int) -> Mapping[str, Result]:
        """Set how often these guests report statistics."""
        return await self._call("SetStatsPeriod", "asu", list(uuids), seconds)

    async def probe(self) -> None:
        """Ask the helper whether it is there."""
        await ping(self._connection, NAME, PATH)

    async def _call(self, member: str, signature: str, *args: Any) -> Mapping[str, Result]:
        try:
            (outcomes,) = await self._connection.call(NAME, PATH, NAME, member, signature, *args, deadline_s=DEADLINE_S)
            return {uuid: (outcome, message) for uuid, outcome, message in outcomes}
        except (BusLost, CallError) as error:
            raise HelperUnavailable(f"momhelper-guests: {told(error)}") from error
        except (TypeError, ValueError) as error:
            raise HelperUnavailable("momhelper-guests answers something else than its interface says") from error
