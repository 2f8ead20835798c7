# SPDX-License-Identifier: GPL-2.0-or-later
"""A VDSM that knows nothing of us: how it calls MOM."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from typing import Any

# VDSM's client has this deadline for each step of a call.
VDSM_S = 2.0


class UnixTransport(xmlrpc.client.Transport):
    """HTTP over a Unix socket with a deadline, as VDSM has it."""

    def __init__(self, path: str, deadline_s: float) -> None:
        super().__init__()
        self._path, self._deadline_s = path, deadline_s

    def make_connection(self, _host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=self._deadline_s)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(self._deadline_s)
        connection.sock.connect(self._path)
        return connection


class OldVdsm:
    """What a VDSM that knows nothing of us does: the same calls, results and expectations. Only an OSError means to it that MOM is away."""

    def __init__(self, path: str, deadline_s: float = VDSM_S) -> None:
        self.mom = xmlrpc.client.ServerProxy("http://localhost/RPC2", UnixTransport(path, deadline_s), allow_none=True)
        self._parameters: dict[str, Any] = {}

    def ksm_stats(self) -> dict[str, Any]:
        try:
            host: Any = self.mom.getStatistics()["host"]  # type: ignore[index,call-overload]  # a struct
            return {
                "ksmState": bool(host["ksm_run"]),
                "ksmPages": host["ksm_pages_to_scan"],
                "ksmMergeAcrossNodes": bool(host["ksm_merge_across_nodes"]),
                "memShared": host["ksm_pages_sharing"] * 4096 // 2**20,
                "ksmCpu": host["ksmd_cpu_usage"],
            }
        except OSError:
            return {}

    def set_parameters(self, values: dict[str, Any]) -> None:
        self._parameters.update(values)
        text = "\n".join(f"(set {name} {value!r})" for name, value in self._parameters.items())
        assert self.mom.setNamedPolicy("01-parameters", text) is True

    def status(self) -> str:
        try:
            return "active" if self.mom.ping() else "inactive"
        except OSError:
            return "inactive"
