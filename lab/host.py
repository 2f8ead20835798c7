# SPDX-License-Identifier: GPL-2.0-or-later
"""A throw-away host in namespaces: dbus-daemon, polkit, libvirtd and guests, the project installed and running."""

from typing import Any

from lab import daemons
from lab.anyhost import SERVICE_NAME, AnyHost
from lab.common import LabError, tail
from lab.daemons import Recipe

# A service that ended so often before it owned its name won't do better.
MAX_STARTS = 4
# What systemd's unit files would see to.
FOLDERS: list[list[str]] = [
    ["install", "--directory", "--owner=mom", "--group=mom", "--mode=0750", "/var/lib/mom"],
    ["install", "--directory", "--mode=0700", "/var/lib/momhelper"],
]


class Host(AnyHost):
    """With dbus-daemon, in namespaces; daemons are started by the lab's supervisor."""

    def _furnish(self) -> None:
        self._install()
        self._start_daemons()

    def _install(self) -> None:
        """Install the project by its own means, then what the lab puts around it."""
        self.install_project()
        for command in FOLDERS:
            self.check(command)
        root = self.path("/")
        daemons.configure_bus(root)
        daemons.configure_activation(root, self.logs)
        daemons.configure_library(root)
        daemons.configure_service(root, self._drop_in, self._policy)
        self.check(["chown", "messagebus", "/run/dbus"])

    def _start_daemons(self) -> None:
        self.start(daemons.DBUS)
        self.wait_for(self.path("/run/dbus/system_bus_socket").is_socket, "dbus-daemon", log="dbus")
        self.start(daemons.POLKIT)
        self.wait_for(lambda: self.owned("org.freedesktop.PolicyKit1"), "polkitd", log="polkit")

    # Daemons

    def start(self, recipe: Recipe) -> None:
        """Start a daemon in the lab; its output goes to log(recipe.name)."""
        environment = self._ns.environment("root", recipe.environment)
        log = str(self.logs / f"{recipe.name}.log")
        self._ns.ask("start", name=recipe.name, argv=recipe.argv, env=environment, log=log, restart=recipe.restart_s)

    def daemon(self, name: str) -> dict[str, Any]:
        """A daemon's pid inside (None when it isn't running), starts so far, last wait status (None before its first end)."""
        found: dict[str, Any] = self._ns.ask("tell")["daemons"][name]
        return found

    def ended_helper(self, name: str) -> int | None:
        """The wait status of the last activated helper of that name that ended; names as the kernel cuts them, 15 letters."""
        status: int | None = self._ns.ask("tell")["orphans"].get(name[:15])
        return status

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a daemon."""
        self._ns.ask("signal", name=name, signal=number)

    def stop(self, name: str, timeout: float = 60) -> int:
        """End a daemon with SIGTERM, for good; its wait status. Raises LabError when it takes longer than timeout."""
        self._ns.ask("stop", name=name)
        self.wait_for(lambda: self.daemon(name)["pid"] is None, f"the end of {name}", timeout, name)
        return int(self.daemon(name)["status"] or 0)

    def log(self, name: str) -> str:
        """What a daemon or helper has written: dbus, polkit, libvirt, momservice, momhelper, momhelper-guests."""
        file = self.logs / f"{name}.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def start_service(self) -> None:
        """Start momservice as user mom and wait until it owns its name."""
        self.start(daemons.SERVICE)
        self.wait_for(self._service_up, "momservice", log="momservice")

    def _service_up(self) -> bool:
        if self.daemon("momservice")["starts"] >= MAX_STARTS:
            raise LabError(f"lab: momservice doesn't stay up: {tail(self.log('momservice'))}")
        return self.owned(SERVICE_NAME)
