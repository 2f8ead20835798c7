# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the service is on the bus, and the limits that service and clients keep to."""

from __future__ import annotations

import re
from typing import Final

NAME: Final = "org.ovirt.Mom1"
PATH: Final = "/org/ovirt/Mom1"
XML: Final = "org.ovirt.Mom1.xml"
MANAGER: Final = "org.ovirt.Mom1.Manager"
POLICY: Final = "org.ovirt.Mom1.Policy"
HOST: Final = "org.ovirt.Mom1.Host"
KSM: Final = "org.ovirt.Mom1.Ksm"
GUEST: Final = "org.ovirt.Mom1.Guest"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"

# The policy that SetPolicy and GetPolicy mean.
MAIN_POLICY: Final = "50_main_"
POLICY_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

MAX_POLICIES: Final = 256
# UTF-8 bytes of all policies that are loaded, from files and from clients together.
TEXT_BYTES: Final = 1024 * 1024
# UTF-8 bytes of all policy texts of one call, or of all parameter names and values.
MAX_TEXT_BYTES: Final = 256 * 1024
MAX_PARAMETERS: Final = 1024
MAX_PARAMETER_BYTES: Final = 64 * 1024
MAX_REASON_CHARACTERS: Final = 256
# How many runs can be explained.
MAX_RUNS: Final = 10
# Entries that a signal has at most.
MAX_ENTRIES: Final = 1000
# Of a text in a signal.
MAX_SIGNAL_CHARACTERS: Final = 200


def guest_path(uuid: str) -> str:
    """Where a guest's object is."""
    return f"{PATH}/guest/{uuid.replace('-', '_')}"
