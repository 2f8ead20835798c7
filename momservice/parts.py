# SPDX-License-Identifier: GPL-2.0-or-later
"""From the names in the configuration to the collectors and controllers that do the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Protocol

from momservice.bus.connection import Connection
from momservice.chosen import Parts
from momservice.collectors import planned as planned_collectors
from momservice.collectors import registry
from momservice.config import Config, ConfigError
from momservice.controllers import Controller, planned
from momservice.controllers.balloon import Balloon
from momservice.controllers.guest_helper import GuestHelper
from momservice.controllers.ksm import Ksm
from momservice.controllers.stats_period import StatsPeriod
from momservice.fields import GUEST_PROPERTIES, HOST_PROPERTIES, Control, Field, Schema, names

# The KSM controller compares what it wants with what there is, and clients see the host's memory whatever policies see.
ALWAYS = ("HostKSM", "HostMemory", "HostPressure")
CONTROLLERS: Mapping[str, type[Ksm] | type[Balloon]] = {part.NAME: part for part in (Balloon, Ksm)}
CONTROLS: Sequence[Control] = [
    *chain.from_iterable(part.CONTROLS for part in CONTROLLERS.values()),
    *chain.from_iterable(planned.CONTROLLERS.values()),
]


class HasFields(Protocol):
    """A collector class: all that the schema needs of it."""

    FIELDS: Sequence[Field]


def schema(config: Config) -> Schema:
    """The names that policies may use under a configuration. Raises ConfigError for collectors and controllers that there aren't."""
    problems = [
        *_missing("[host] collectors", config.host_collectors, registry.HOST, ()),
        *_missing("[guest] collectors", config.guest_collectors, registry.GUEST, planned_collectors.PLANNED),
        *_missing("[main] controllers", config.controllers, CONTROLLERS, planned.CONTROLLERS),
    ]
    if problems:
        raise ConfigError(problems)
    return Schema(
        names(
            _fields(registry.HOST[name].FIELDS for name in config.host_collectors),
            _fields(part.FIELDS for part in registry.HOST.values()),
            [control for control in CONTROLS if control.entity == "host"],
            HOST_PROPERTIES,
        ),
        names(
            _fields(registry.GUEST[name].FIELDS for name in config.guest_collectors),
            _fields(chain((part.FIELDS for part in registry.GUEST.values()), planned_collectors.PLANNED.values())),
            [control for control in CONTROLS if control.entity == "guest"],
            GUEST_PROPERTIES,
        ),
    )


def _fields(tables: Iterable[Sequence[Field]]) -> list[Field]:
    return list(chain.from_iterable(tables))


def _missing(where: str, wanted: Iterable[str], built: Iterable[str], unbuilt: Iterable[str]) -> Iterable[str]:
    for name in wanted:
        if name in unbuilt:
            yield f"{where}: {name} isn't built yet; there are {', '.join(built)}"
        elif name not in built:
            yield f"{where}: there is no {name}; there are {', '.join(built)}"


class Workshop:
    """Makes the parts. Controllers live as long as the service, so that a reload forgets nothing that they learned."""

    def __init__(self, connection: Connection) -> None:
        guest_helper = GuestHelper(connection)
        self._balloon = Balloon(guest_helper)
        self._ksm = Ksm(connection)
        self._period = StatsPeriod(guest_helper)

    def balloon_works(self, uuid: str) -> bool | None:
        """Whether a guest's balloon followed its targets; None when that hasn't been seen yet."""
        return self._balloon.works(uuid)

    def parts(self, config: Config) -> Parts:
        """The parts that a configuration names. Raises ConfigError."""
        known = schema(config)
        controllers: Mapping[str, Controller] = {Balloon.NAME: self._balloon, Ksm.NAME: self._ksm}
        return Parts(
            known,
            [registry.HOST[name]() for name in config.host_collectors],
            [registry.HOST[name]() for name in ALWAYS if name not in config.host_collectors],
            [registry.make_guest(name, self._balloon.works) for name in config.guest_collectors],
            [controllers[name] for name in config.controllers],
            self._period.ensure,
            self._ksm.begin,
            self._ksm.renew,
            self._ksm.restore,
        )
