#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory each guest has, and one parameter set: the service from dbus-python (package python3-dbus)."""

import sys

import dbus

BUS_NAME, PATH = "org.ovirt.Mom1", "/org/ovirt/Mom1"

service = dbus.SystemBus().get_object(BUS_NAME, PATH)
manager = dbus.Interface(service, "org.ovirt.Mom1.Manager")
policy = dbus.Interface(service, "org.ovirt.Mom1.Policy")

host, guests = manager.GetStatistics()
print(f"host: {host['mem_free']} of {host['mem_available']} KiB free")
names = {str(uuid): str(name) for uuid, name in manager.GetActiveGuests()}
for uuid, fields in guests.items():
    print(f"{names.get(uuid, uuid)}: balloon at {fields.get('balloon_cur', '?')} KiB")

try:
    # An integer, a float, a boolean and a text arrive as what they are.
    policy.SetParameters({"pressure_threshold": 0.3})
except dbus.DBusException as error:
    # The name says what went wrong (org.ovirt.Mom1.Error.UnknownParameter), the message why.
    sys.exit(f"{error.get_dbus_name()}: {error.get_dbus_message()}")
print(f"pressure_threshold: {policy.GetParameters()['pressure_threshold']['value']}")
