# SPDX-License-Identifier: GPL-2.0-or-later
"""Controllers: one file per kind of control, each declares its controls in a table. They clamp, refuse, apply, confirm and say why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Protocol

from momservice.bus.connection import BusLost, CallError, Connection
from momservice.bus.refusals import told
from momservice.decisions import Wanted
from momservice.fields import Control
from momservice.hypervisor import GuestRecord
from momservice.snapshot import Sample, Value

# applied: sent and confirmed; unchanged: nothing to send; clamped: applied after clamping; held: not sent because the guest is held;
# refused: never sent (bad value, unsafe); failed: sent, and the helper or libvirt said no.
Status = Literal["applied", "unchanged", "clamped", "held", "refused", "failed"]
# Those of controls that reached kernel or guest.
SENT: Final = ("applied", "clamped")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one control. `wanted` is the policy's value, `applied` what was sent; `reason`: one line, "" if none is needed.

    `item`: of an object's setter, its name (a disk's), else "".
    """

    entity: str
    control: str
    wanted: Value
    applied: int | None
    status: Status
    reason: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """What controllers need beside the decisions, always collected: the newest host fields, the guests as libvirt tells them.

    `monotonic_s`, `wall_s`: now. `interval_s`: the guest interval; statistics older than three of them are stale.
    """

    host: Sample
    guests: Mapping[str, GuestRecord]
    monotonic_s: float
    wall_s: float
    interval_s: float


class HelperUnavailable(Exception):
    """A helper can't be reached or refuses: one line of text says why."""


class Controller(Protocol):
    """One kind of control."""

    NAME: ClassVar[str]
    CONTROLS: ClassVar[Sequence[Control]]

    async def apply(self, wanted: Sequence[Wanted], world: World) -> list[Outcome]:
        """Act on those of the wanted controls that are this controller's. Raises HelperUnavailable if nothing could be sent at all."""

    async def probe(self) -> None:
        """Ask the helper whether it is there, without wanting anything of it. Raises HelperUnavailable."""


async def ping(connection: Connection, name: str, path: str) -> None:
    """Have the bus start a helper and wait for its answer. Raises HelperUnavailable."""
    try:
        await connection.call(name, path, "org.freedesktop.DBus.Peer", "Ping")
    except (BusLost, CallError) as error:
        raise HelperUnavailable(f"{name}: {told(error)}") from error
