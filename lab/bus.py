# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's bus interfaces as anybody on the host uses them: by busctl, not by the project's own client."""

import json
from subprocess import CompletedProcess
from typing import Any, Protocol

from lab.common import LabError, tail

NAME, PATH = "org.ovirt.Mom1", "/org/ovirt/Mom1"


class Runs(Protocol):
    """A host, as far as it is needed here."""

    def run(self, argv: list[str], /) -> CompletedProcess[str]:
        """Run a program in it."""


def call(host: Runs, interface: str, member: str, *arguments: str) -> list[Any]:
    """Call a method of the service as root; its results without their types. interface: full, or its last part.

    Raises LabError with the error's text.
    """
    full = interface if "." in interface else f"{NAME}.{interface}"
    result = host.run(["busctl", "--json=short", "call", NAME, PATH, full, member, *arguments])
    if result.returncode:
        raise LabError(f"{member}: {tail(result.stderr)}")
    return [plain(value) for value in json.loads(result.stdout or '{"data": []}')["data"]]


def plain(value: Any) -> Any:
    """busctl's JSON without the types of variants."""
    if isinstance(value, dict):
        if value.keys() == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def properties(host: Runs) -> dict[str, Any]:
    """All properties of the service's Manager interface."""
    found: dict[str, Any] = call(host, "org.freedesktop.DBus.Properties", "GetAll", "s", f"{NAME}.Manager")[0]
    return found


def set_parameters(host: Runs, values: dict[str, float]) -> None:
    """Change parameters of the policy, all of them floats. Raises LabError."""
    pairs = [text for name, value in values.items() for text in (name, "d", str(value))]
    call(host, "Policy", "SetParameters", "a{sv}", str(len(values)), *pairs)
