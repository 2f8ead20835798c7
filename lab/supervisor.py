# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process of the lab: makes the throw-away host's mounts, then plays the part of systemd.

It starts what it is told over a socket, restarts what asked for that, takes in orphans - daemonised QEMUs, activated
helpers - and reports a killed momhelper to the guardian. It ends when the socket's other end does, and all of the lab with it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import mounts

GUARDED = "momhelper"


@dataclass
class Daemon:
    """A program that runs in the lab."""

    argv: list[str]
    environment: dict[str, str]
    log: str
    restart_s: float | None
    pid: int | None = None
    starts: int = 0
    status: int | None = None
    due: float | None = None

    def start(self) -> None:
        """Start it, its output appended to its log."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, self.log, flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        ignored = (signal.SIGPIPE, signal.SIGINT)
        self.pid = os.posix_spawnp(
            self.argv[0], self.argv, self.environment, file_actions=actions, setsid=True, setsigmask=[], setsigdef=ignored
        )
        self.starts += 1
        self.due = None

    def ended(self, status: int) -> None:
        """Take note of its end. A clean end is not restarted, as with systemd's Restart=on-failure."""
        self.pid, self.status = None, status
        if status != 0 and self.restart_s is not None:
            self.due = time.monotonic() + self.restart_s


class Supervisor:
    """Daemons by name, and what is known of the ends of processes that nobody else waits for."""

    def __init__(self, control: socket.socket, report: int) -> None:
        """control: the socket that requests come from, a JSON object per line; report: the guardian's pipe."""
        self._control = control
        self._report = report
        self._daemons: dict[str, Daemon] = {}
        self._orphans: dict[str, int] = {}

    def run(self) -> None:
        """Serve until the other end of the socket is gone."""
        wake, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        buffered = b""
        while True:
            ready, _, _ = select.select([self._control.fileno(), wake], [], [], self._start_due())
            if wake in ready:
                os.read(wake, 4096)
            self._reap()
            if self._control.fileno() in ready:
                chunk = self._control.recv(65536)
                if not chunk:
                    return
                *lines, buffered = (buffered + chunk).split(b"\n")
                for line in lines:
                    self._control.sendall(json.dumps(self.answer(json.loads(line))).encode() + b"\n")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one thing: start, signal or stop a daemon, or tell how all are."""
        try:
            match request:
                case {"do": "start", "name": name, "argv": argv, "env": env, "log": log, "restart": restart}:
                    self._daemons[name] = Daemon(argv, env, log, restart)
                    self._daemons[name].start()
                case {"do": "stop", "name": name}:
                    self._daemons[name].restart_s = self._daemons[name].due = None
                    self._signal(name, signal.SIGTERM)
                case {"do": "signal", "name": name, "signal": number}:
                    self._signal(name, number)
        except OSError as error:
            return {"error": str(error)}
        daemons = {name: {"pid": d.pid, "starts": d.starts, "status": d.status} for name, d in self._daemons.items()}
        return {"daemons": daemons, "orphans": self._orphans}

    def _signal(self, name: str, number: int) -> None:
        pid = self._daemons[name].pid
        if pid is not None:
            os.kill(pid, number)

    def _start_due(self) -> float | None:
        """Start what is due; seconds until the next is, None for no such."""
        now = time.monotonic()
        for daemon in self._daemons.values():
            if daemon.due is not None and daemon.due <= now:
                daemon.start()
        due = [daemon.due for daemon in self._daemons.values() if daemon.due is not None]
        return max(0.0, min(due) - now) if due else None

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            # Left waiting for a moment, so that /proc still tells its name.
            while info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._ended(info.si_pid, Path(f"/proc/{info.si_pid}/comm").read_text(encoding="utf-8").strip())

    def _ended(self, pid: int, name: str) -> None:
        status = os.waitpid(pid, 0)[1]
        known = [daemon for daemon in self._daemons.values() if daemon.pid == pid]
        for daemon in known:
            daemon.ended(status)
        if not known:
            self._orphans[name] = status
        if name == GUARDED and os.WIFSIGNALED(status):
            os.write(self._report, b"killed %d\n" % pid)


def main() -> None:
    """Entry point: the descriptors of control socket and guardian's pipe, then the mounts' wishes as JSON."""
    control, report = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for descriptor in (control.fileno(), report):
        os.set_inheritable(descriptor, False)
    # The old /proc is still mounted: it tells the process ID by which the outside knows this process.
    os.write(report, b"init %d\n" % int(Path("/proc/self").readlink().name))
    outside = int(Path("/proc/self").readlink().name)
    try:
        wishes = mounts.Wishes(**json.loads(sys.argv[3]))
        mounts.make_root(wishes) if wishes.boot else mounts.make(wishes)
    except mounts.MountError as error:
        control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    control.sendall(json.dumps({"init": outside}).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        Supervisor(control, report).run()


if __name__ == "__main__":
    main()
