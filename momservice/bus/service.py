# SPDX-License-Identifier: GPL-2.0-or-later
"""All of the service's objects, put on the bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from momservice.bus.backend import Engine, Explainer, PolicyStore
from momservice.bus.changes import Changes, Outbox, PropertyWatch
from momservice.bus.connection import Connection, Export, load_interfaces
from momservice.bus.guests import Guests
from momservice.bus.host import HostObject
from momservice.bus.manager import Manager
from momservice.bus.names import GUEST, HOST, KSM, MANAGER, OBJECT_MANAGER, PATH, POLICY, XML
from momservice.bus.policy import Policy
from momservice.bus.polkit import PolkitGate
from momservice.bus.shared import Statistics
from momservice.bus.signals import Signals
from momservice.pressure import Pressure

# Methods that change nothing.
ANSWERING: Mapping[str, frozenset[str]] = {
    MANAGER: frozenset(["Ping", "GetStatistics", "GetHostStatistics", "GetGuestStatistics", "GetActiveGuests", "Explain"]),
    POLICY: frozenset(["GetPolicy", "GetNamedPolicies", "GetParameters", "ValidatePolicy", "Evaluate", "EvaluateNow"]),
    OBJECT_MANAGER: frozenset(["GetManagedObjects"]),
}


def publish(
    connection: Connection, engine: Engine, store: PolicyStore, explainer: Explainer, works: Callable[[str], bool | None]
) -> PolkitGate:
    """Answer calls for the engine and the store from now on, and signal what they tell. Owning the name is left to the caller.

    `works`: whether a guest's balloon followed its targets, by UUID; None when that hasn't been seen yet. Gives the gate that
    decides who may call what.
    """
    gate = PolkitGate(connection, partial(engine.set_reason, "polkit"))
    interfaces = load_interfaces(XML)
    statistics = Statistics(engine)
    manager, policy = Manager(engine, store, gate, explainer), Policy(store, gate, connection.uid_of)
    outbox, pressure = Outbox(), Pressure()
    changes, host = Changes(connection, outbox), HostObject(pressure)
    guests = Guests(connection, interfaces[GUEST], gate, outbox, changes, works)
    signals = Signals(connection, interfaces, pressure)
    guests.state_changed = signals.state_changed
    exports = [
        Export(
            interfaces[MANAGER],
            {
                "Ping": manager.ping,
                "GetStatistics": statistics.statistics.answer,
                "GetHostStatistics": statistics.host_statistics.answer,
                "GetGuestStatistics": manager.get_guest_statistics,
                "GetActiveGuests": statistics.active_guests.answer,
                "Explain": manager.explain,
                "Pause": manager.pause,
                "Resume": manager.resume,
                "Reload": manager.reload,
                "SetVerbosity": manager.set_verbosity,
            },
            manager.guard,
            manager.properties,
            guard_first=True,
            answering=ANSWERING[MANAGER],
        ),
        Export(
            interfaces[POLICY],
            {
                "GetPolicy": policy.get_policy,
                "GetNamedPolicies": policy.get_named_policies,
                "SetPolicy": policy.set_some,
                "SetNamedPolicy": policy.set_some,
                "SetPolicies": policy.set_policies,
                "RemoveNamedPolicy": policy.remove_named_policy,
                "ResetPolicies": policy.reset_policies,
                "ValidatePolicy": policy.validate_policy,
                "Evaluate": policy.evaluate,
                "EvaluateNow": policy.evaluate,
                "SetParameters": policy.set_parameters,
                "ReplaceParameters": policy.set_parameters,
                "GetParameters": policy.get_parameters,
            },
            policy.guard,
            answering=ANSWERING[POLICY],
        ),
        Export(interfaces[HOST], {}, gate.authorize, host.host_properties),
        Export(interfaces[KSM], {}, gate.authorize, host.ksm_properties),
        Export(
            interfaces[OBJECT_MANAGER],
            {"GetManagedObjects": guests.managed_objects.answer},
            gate.authorize,
            answering=ANSWERING[OBJECT_MANAGER],
        ),
    ]
    connection.serve(PATH, *exports)
    # In this order: whoever hears of something and asks gets no older answer; signals of what the guests have noted; then properties as the
    # others have left them.
    engine.watchers.all += [statistics, guests, signals, host, PropertyWatch(PATH, exports, changes)]
    return gate
