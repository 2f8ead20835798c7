# SPDX-License-Identifier: GPL-2.0-or-later
"""What all throw-away hosts are for those who use them, whichever bus and first process they have."""

import json
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import daemons, guests, knobs
from lab.common import CACHE, ROOT, LabError, locked, tail
from lab.daemons import Recipe
from lab.guardian import Guardian
from lab.guests import Guest
from lab.image import ensure_image
from lab.mounts import Wishes
from lab.namespace import Namespace
from lab.packages import ensure_packages, require_root

SERVICE_NAME = "org.ovirt.Mom1"
# Nothing has to be built without these: an installation takes a second.
UNBUILT = ["-Dman=false", "-Dcompletion=false"]
MESON = ["meson", "setup", "--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var", *UNBUILT, str(ROOT), "/run/lab-build"]
# Users before the bus and polkitd read their files: both resolve names then.
INSTALL: list[list[str]] = [
    MESON,
    ["meson", "install", "--no-rebuild", "-C", "/run/lab-build"],
    ["systemd-sysusers"],
    ["useradd", "--create-home", "alice"],
]


class AnyHost(ABC):
    """A host as a context manager; everything in it ends with the block, or with the process that holds it."""

    def __init__(
        self,
        guests: int | Sequence[Guest] = 3,
        *,
        service: bool = True,
        libvirt: bool = True,
        ksm: bool = True,
        settle: bool = False,
        policy: Path | None = None,
        drop_in: str = "",
    ) -> None:
        """guests: how many, or which ones; none without libvirt. service: whether momservice runs from the start.
        ksm: whether the kernel's knobs can be written: one such host at a time, the next one waits; without it the knobs
        are read-only and hosts run side by side. settle: wait until the service is active and all guests have fresh
        statistics. policy: a file or folder in place of the installed policies. drop_in: text for /etc/momd.conf.d.
        """
        self.guests = [Guest(number + 1) for number in range(guests)] if isinstance(guests, int) else list(guests)
        self._libvirt, self._service, self._ksm, self._settle = libvirt, service, ksm, settle
        self._policy, self._drop_in = policy, drop_in
        self._exit = ExitStack()
        self.knobs_before: dict[str, str] = {}
        """The KSM knobs as found, empty without ksm."""

    def __enter__(self) -> Self:
        """Start everything. Raises LabError with one line."""
        require_root()
        ensure_packages()
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End everything and put the knobs back."""
        self._exit.close()

    def _start(self) -> None:
        image = ensure_image() if self._libvirt and self.guests else None
        keep: tuple[int, ...] = ()
        if self._ksm:
            keep = (self._exit.enter_context(locked(knobs.LOCK, "waiting for another lab that uses KSM")),)
            self.knobs_before = knobs.read()
        self.state = Path(tempfile.mkdtemp(prefix="mom-lab-", dir="/tmp"))
        """A folder that inside and outside see under the same path: logs, files to hand over."""
        self.state.chmod(0o755)
        self.logs = self.state / "log"
        daemons.make_folder(self.logs, 0o1777)
        guardian = Guardian(self.state, self.knobs_before if self._ksm else None, keep)
        self._exit.callback(guardian.close)
        self._ns = Namespace(self._wishes(), guardian.report, {"MOM_LAB": str(self.state), **daemons.bus_library()})
        self._exit.callback(self._ns.close)
        self._furnish()
        if self._libvirt:
            self.start_libvirt()
        if image is not None:
            guests.create(self.run, self.guests, image, self.state)
        if self._service:
            self.start_service()
        if self._settle:
            self.settle()

    def _wishes(self) -> Wishes:
        work, capabilities = self.state / "work", CACHE / "libvirt"
        daemons.make_folder(work)
        daemons.make_folder(capabilities)
        return Wishes(str(work), str(capabilities), self._ksm)

    @abstractmethod
    def _furnish(self) -> None:
        """Install the project, and start bus and polkit."""

    def install_project(self) -> None:
        """Install the project by its own means, with an ordinary user beside it."""
        for command in INSTALL:
            self.check(command)

    # Running things inside

    def run(
        self,
        argv: Sequence[str],
        user: str = "root",
        input: str | None = None,  # noqa: A002 - the name that subprocess.run gives it
        timeout: float | None = 120,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end, as subprocess.run with captured text."""
        environment = self._ns.environment(user, dict(env or {}))
        # An empty standard input unless one is given: programs must not eat the terminal's.
        command = self._ns.command(argv, user, cwd)
        return subprocess.run(command, input=input or "", capture_output=True, text=True, timeout=timeout, env=environment, check=False)

    def popen(
        self, argv: Sequence[str], user: str = "root", cwd: str = "/", env: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[Any]:
        """Start a program inside, as subprocess.Popen. Its pid is that of nsenter outside; killing that kills the program."""
        return subprocess.Popen(self._ns.command(argv, user, cwd), env=self._ns.environment(user, dict(env or {})), **more)

    def check(self, argv: Sequence[str], **more: Any) -> str:
        """Standard output of a program inside. Raises LabError with its last words if it fails."""
        result = self.run(argv, **more)
        if result.returncode:
            raise LabError(f"lab: {argv[0]} fails: {tail(result.stderr or result.stdout)}")
        return result.stdout

    def environment(self, user: str = "root") -> dict[str, str]:
        """What programs inside find in their environment: the bus's address, libvirt's, a path without private interpreters."""
        return self._ns.environment(user)

    def path(self, inside: str | Path) -> Path:
        """Where this process sees a file of the lab. Not for symbolic links to absolute paths (/var/run)."""
        return self._ns.path(inside)

    @property
    def bus_address(self) -> str:
        """The lab's system bus, for this process. Who connects from outside is root, with a process ID unknown inside."""
        return f"unix:path={self.path('/run/dbus/system_bus_socket')}"

    # Daemons

    @abstractmethod
    def start(self, recipe: Recipe) -> None:
        """Start a daemon by the host's own means; its output goes to log(recipe.name)."""

    @abstractmethod
    def daemon(self, name: str) -> dict[str, Any]:
        """A daemon's pid inside (None when it isn't running), starts so far, last wait status (None before its first end)."""

    @abstractmethod
    def signal(self, name: str, number: int) -> None:
        """Send a signal to a daemon."""

    @abstractmethod
    def stop(self, name: str, timeout: float = 60) -> int:
        """End a daemon with SIGTERM, for good; its wait status. Raises LabError when it takes longer than timeout."""

    @abstractmethod
    def log(self, name: str) -> str:
        """What a daemon or helper has written: dbus, polkit, libvirt, momservice, momhelper, momhelper-guests."""

    def start_libvirt(self) -> None:
        """Start libvirtd and wait until it answers."""
        daemons.configure_libvirt(self.path("/"))
        self.start(daemons.LIBVIRT)
        self.wait_for(lambda: self.run(["virsh", "--readonly", "list"]).returncode == 0, "libvirtd", log="libvirt")

    @abstractmethod
    def start_service(self) -> None:
        """Start momservice as user mom and wait until it owns its name."""

    def stop_service(self) -> int:
        """Stop momservice; it isn't started again. Its wait status."""
        return self.stop("momservice")

    def kill_service(self) -> None:
        """Kill momservice as a crash would: it is started again after a second, as Restart=on-failure does."""
        self.signal("momservice", signal.SIGKILL)

    # Waiting

    def owned(self, name: str) -> bool:
        """Whether a bus name has an owner; asking activates nothing."""
        call = ["call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", name]
        return self.run(["busctl", *call]).stdout.strip() == "b true"

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = 90, log: str = "") -> None:
        """Wait until a condition holds. Raises LabError when it doesn't in time, with the last line of a log if one is named."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise LabError(f"lab: waited {timeout:g} s for {what} in vain" + (f" ({tail(self.log(log))})" if log else ""))
            time.sleep(0.05)

    def settle(self, timeout: float = 180) -> None:
        """Wait until the service is active and every guest's statistics are fresh, for libvirt and then for the service."""
        self.wait_for(lambda: self.status() == "active", "momservice to be active", timeout, "momservice")
        self.wait_for(self._all_fresh, "statistics of all guests", timeout)
        self.wait_for(self._all_seen, "momservice to see the statistics of all guests", timeout, "momservice")

    def status(self) -> str:
        """The service's Status property, empty without an answer."""
        answer = self.run(["busctl", "get-property", SERVICE_NAME, "/org/ovirt/Mom1", f"{SERVICE_NAME}.Manager", "Status"]).stdout
        return answer.strip().removeprefix("s ").strip('"')

    def _all_fresh(self) -> bool:
        known = guests.statistics(self.run)
        return all(guests.fresh(known.get(guest.name, {})) for guest in self.guests)

    def _all_seen(self) -> bool:
        manager = [SERVICE_NAME, "/org/ovirt/Mom1", f"{SERVICE_NAME}.Manager"]
        answer = self.run(["busctl", "--json=short", "call", *manager, "GetStatistics"]).stdout
        seen = json.loads(answer)["data"][1].values() if answer else []
        return sum("mem_unused" in guest for guest in seen) == len(self.guests)

    def balloons(self) -> dict[str, int]:
        """Each guest's balloon in bytes by name, as libvirt tells it, apart from the service."""
        return guests.balloons(self.run)
