# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespaces that make the throw-away host, seen from outside: start, enter, command, end."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.common import PATH, PYTHON, ROOT, LabError
from lab.mounts import Wishes

# How long the supervisor may take to end by itself.
GRACE_S = 2.0
KINDS = ["--mount", "--pid", "--ipc", "--uts", "--net"]
BUS = "unix:path=/run/dbus/system_bus_socket"
SURROUNDINGS = {"PATH": PATH, "LANG": "C.UTF-8", "DBUS_SYSTEM_BUS_ADDRESS": BUS, "LIBVIRT_DEFAULT_URI": "qemu:///system"}


class Namespace:
    """Namespaces for mounts, processes, IPC, host name and network, with the supervisor as first process."""

    def __init__(self, wishes: Wishes, report: int, surroundings: dict[str, str]) -> None:
        """report: the guardian's pipe, which the supervisor takes over. surroundings: more for the environment of programs inside.

        Raises LabError when the kernel or mount refuses.
        """
        self._surroundings = {**SURROUNDINGS, **surroundings}
        self._control, inner = socket.socketpair()
        self._replies = self._control.makefile("rb")
        self._lock = threading.Lock()
        supervisor = [PYTHON, "-m", "lab.supervisor", str(inner.fileno()), str(report), json.dumps(asdict(wishes))]
        with inner:
            self._process = subprocess.Popen(
                ["unshare", *KINDS, "--fork", "--kill-child", "--propagation", "private", *supervisor],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=(inner.fileno(), report), start_new_session=True,
                env={"PATH": PATH, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        os.close(report)
        self.pid: int = self._reply()["init"]
        self.init, self._kinds = self.pid, KINDS

    def enter(self, pid: int) -> None:
        """From now on programs run, and paths are seen, where this process is: the first one of a host that was booted inside."""
        self.pid, self._kinds = pid, [*KINDS, "--cgroup"]

    def ask(self, do: str, **what: object) -> dict[str, Any]:
        """Have the supervisor do something; its answer tells how daemons and orphans are. Raises LabError."""
        with self._lock:
            try:
                self._control.sendall(json.dumps({"do": do, **what}).encode() + b"\n")
            except OSError as error:
                raise LabError("the lab is gone") from error
            return self._reply()

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise LabError("the lab could not start: namespaces or mounts are not permitted here, or its first process was killed")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"lab: {answer['error']}")
        return answer

    def command(self, argv: Sequence[str], user: str = "root", cwd: str = "/") -> list[str]:
        """The command line that runs argv inside as a user, from a folder; killed when whoever runs it is."""
        enter = ["nsenter", f"--target={self.pid}", *self._kinds, f"--wdns={cwd}"]
        who = [] if user == "root" else [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*enter, "setpriv", "--pdeathsig=KILL", *who, "--", *argv]

    def environment(self, user: str = "root", own: dict[str, str] | None = None) -> dict[str, str]:
        """What a program inside finds in its environment."""
        home = "/root" if user == "root" else f"/home/{user}"
        return {**self._surroundings, "HOME": home, "USER": user, "LOGNAME": user, **(own or {})}

    def path(self, inside: str | Path) -> Path:
        """Where the machine sees a file of the lab. Not for absolute symbolic links, which lead out of it."""
        return Path(f"/proc/{self.pid}/root") / Path(inside).relative_to("/")

    def close(self) -> None:
        """End the supervisor and with it every process inside."""
        self._control.close()
        self._replies.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.kill(self.init, signal.SIGKILL)
            self._process.wait()
