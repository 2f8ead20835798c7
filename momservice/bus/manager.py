# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus interface org.ovirt.Mom1.Manager over the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from momservice import API_VERSION, __version__
from momservice.bus.arguments import checked_entity, checked_reason, checked_uuid, checked_verbosity
from momservice.bus.backend import Engine, Explainer, PolicyStore
from momservice.bus.checks import checked_runs
from momservice.bus.connection import Call, Marshalled, clean
from momservice.bus.polkit import PolkitGate
from momservice.bus.reports import explanation
from momservice.bus.shared import dictionaries_in_slices
from momservice.bus.variants import to_variants
from momservice.errors import UnknownGuest


class Manager:
    """One coroutine per method: types in, types out, one delegation. The large answers are in `shared`."""

    def __init__(self, engine: Engine, store: PolicyStore, gate: PolkitGate, explainer: Explainer) -> None:
        self._engine, self._store, self._gate, self._explainer = engine, store, gate, explainer

    def properties(self) -> Mapping[str, Any]:
        """All properties, plain."""
        engine = self._engine
        status, reasons = engine.status()
        return {
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "Status": status,
            "StatusReasons": [clean(reason) for reason in reasons],
            "Generation": self._store.generation,
            "Interval": engine.interval_ms,
            "GuestCount": len(engine.active_guests()),
            "HypervisorConnected": engine.hypervisor_connected,
            "HelperAvailable": engine.helper_available,
            "PolkitAvailable": self._gate.available,
            "LastEvaluation": engine.last_evaluation_us,
            "EvaluationDuration": engine.evaluation_duration_us,
            "LastError": clean(engine.last_error),
        }

    async def guard(self, call: Call) -> None:
        """polkit's word on the call."""
        await self._gate.authorize(call)

    async def ping(self, _call: Call) -> Sequence[Any]:
        """`Ping() -> b`."""
        return [True]

    async def get_guest_statistics(self, call: Call) -> Sequence[Any]:
        """`GetGuestStatistics(s) -> a{sv}`."""
        uuid = checked_uuid(call.args[0])
        guests = self._engine.statistics()[1]
        if uuid not in guests:
            raise UnknownGuest(f"no guest {uuid} is monitored")
        return [to_variants(guests[uuid])]

    async def explain(self, call: Call) -> Marshalled:
        """`Explain(s, u) -> aa{sv}`."""
        entity, last = call.args
        told = await self._explainer.explain(checked_entity(entity), checked_runs(last))
        return Marshalled(await dictionaries_in_slices(map(explanation, told)))

    async def pause(self, call: Call) -> Sequence[Any]:
        """`Pause(s, u)`."""
        reason, seconds = call.args
        self._engine.pause(checked_reason(reason), seconds)
        return []

    async def resume(self, _call: Call) -> Sequence[Any]:
        """`Resume()`."""
        self._engine.resume()
        return []

    async def reload(self, _call: Call) -> Sequence[Any]:
        """`Reload()`."""
        await self._engine.reload()
        return []

    async def set_verbosity(self, call: Call) -> Sequence[Any]:
        """`SetVerbosity(s)`."""
        self._engine.set_verbosity(checked_verbosity(call.args[0]))
        return []
