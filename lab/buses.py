# SPDX-License-Identifier: GPL-2.0-or-later
"""A private message bus without a lab host, dbus-daemon's or dbus-broker's: for tests and benches of the connection."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.common import CACHE, PYTHON, LabError, locked, tail
from lab.packages import apt_with_update, require_root

DAEMON, BROKER = "dbus-daemon", "dbus-broker"
# The system bus's limits, but for the one that would keep a caller from having many answers unread.
MANY_REPLIES = 50_000
CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={0}</listen><auth>EXTERNAL</auth>
<limit name="max_replies_per_connection">{1}</limit>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/><allow receive_type="method_return"/><allow receive_type="error"/>
</policy></busconfig>
"""
# dbus-broker's launcher takes its broker from /usr/bin and wants a journal. Arguments: the folder of the programs, the bus's socket, its
# configuration, the interpreter.
BROKER_START = """\
set -eu
mount -t overlay none -o "lowerdir=$1:/usr/bin" /usr/bin
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/journal
"$4" -I -c 'import socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
while True: journal.recv(65536)' &
while [ ! -S /run/systemd/journal/socket ]; do sleep 0.05; done
exec systemd-socket-activate --listen="$2" --setenv="DBUS_SYSTEM_BUS_ADDRESS=unix:path=$2" \\
  /usr/bin/dbus-broker-launch --scope system --config-file="$3"
"""
IN_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]
START_S = 60.0


class PrivateBus:
    """A bus that any user may connect to. `address`: where, always the same. `kind`: whose."""

    def __init__(self, kind: str, folder: Path, replies: int = MANY_REPLIES) -> None:
        """`replies`: how many answers a caller may wait for. Raises LabError when it doesn't start."""
        self.kind = kind
        self._place, self._log, configuration = folder / "bus", folder / "log", folder / "bus.conf"
        self.address = f"unix:path={self._place}"
        configuration.write_text(CONFIGURATION.format(self._place, replies), encoding="utf-8")
        self._argv = [DAEMON, f"--config-file={configuration}", "--nofork"]
        if kind == BROKER:
            programs = ensure_broker() / "usr/bin"
            require_root()
            self._argv = [*IN_NAMESPACES, "sh", "-c", BROKER_START, "sh", str(programs), str(self._place), str(configuration), PYTHON]
        self.start()

    def start(self) -> None:
        """Start it, again after `kill`, and wait until it listens. Raises LabError."""
        self._place.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while not listens(self._place):
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise LabError(f"{self.kind} doesn't start: {tail(self._log.read_text(encoding='utf-8', errors='replace'))}")
            time.sleep(0.02)
        self._place.chmod(0o666)

    def signal(self, number: int) -> None:
        """Send a signal to the process that hands messages on. It runs from the first connection on."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process that hands messages on."""
        return next(pid for pid in descendants(self._process.pid) if comm(pid) == self.kind)


def listens(place: Path) -> bool:
    """Whether somebody waits for connections to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as trial:
        return not trial.connect_ex(str(place))


def comm(pid: int) -> str:
    """A process's name, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        yield from descendants(int(child))


@contextmanager
def private_bus(kind: str = DAEMON) -> Iterator[PrivateBus]:
    """Run a bus. Raises LabError when it doesn't start."""
    folder = Path(tempfile.mkdtemp(prefix="mom-bus-"))
    folder.chmod(0o755)
    try:
        bus = PrivateBus(kind, folder)
        try:
            yield bus
        finally:
            bus.kill()
    finally:
        shutil.rmtree(folder)


def ensure_broker() -> Path:
    """The folder with the files of dbus-broker's package. Unpacked, not installed: the package makes itself the machine's bus."""
    folder = CACHE / "dbus-broker"
    with locked(CACHE / "dbus-broker.lock", "waiting for another dev that downloads dbus-broker"):
        if not folder.exists():
            CACHE.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="dbus-broker-") as work:
                apt_with_update("download", "dbus-broker", cwd=Path(work))
                (package,) = Path(work).glob("*.deb")
                subprocess.run(["dpkg-deb", "--extract", str(package), f"{work}/made"], check=True)
                (Path(work) / "made").replace(folder)
    return folder
