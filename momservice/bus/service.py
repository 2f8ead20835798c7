# SPDX-License-Identifier: GPL-2.0-or-later
"""All of the service's objects, put on the bus."""

from __future__ import annotations

from functools import partial

from momservice.bus.backend import Engine, PolicyStore
from momservice.bus.connection import Connection, Export, load_interfaces
from momservice.bus.manager import Manager
from momservice.bus.names import MANAGER, PATH, POLICY, XML
from momservice.bus.policy import Policy
from momservice.bus.polkit import PolkitGate


def publish(connection: Connection, engine: Engine, store: PolicyStore) -> None:
    """Answer calls for the engine and the store from now on. Owning the name is left to the caller."""
    gate = PolkitGate(connection, partial(engine.set_reason, "polkit"))
    interfaces = load_interfaces(XML)
    manager, policy = Manager(engine, store, gate), Policy(store, gate, connection.uid_of)
    connection.serve(
        PATH,
        Export(
            interfaces[MANAGER],
            {
                "Ping": manager.ping,
                "GetStatistics": manager.get_statistics,
                "GetHostStatistics": manager.get_host_statistics,
                "GetGuestStatistics": manager.get_guest_statistics,
                "GetActiveGuests": manager.get_active_guests,
                "Pause": manager.pause,
                "Resume": manager.resume,
                "Reload": manager.reload,
            },
            manager.guard,
            manager.properties,
            guard_first=True,
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
                "SetParameters": policy.set_parameters,
                "ReplaceParameters": policy.set_parameters,
                "GetParameters": policy.get_parameters,
            },
            policy.guard,
        ),
    )
