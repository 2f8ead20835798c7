# SPDX-License-Identifier: GPL-2.0-or-later
"""A throw-away host that was booted: systemd is its first process, and units start everything else, the bus included."""

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import daemons
from lab.anyhost import SERVICE_NAME, AnyHost
from lab.buses import BROKER, DAEMON, comm, descendants, ensure_broker
from lab.common import ROOT, LabError, tail
from lab.daemons import Recipe
from lab.mounts import Wishes

BOOT_S = 180.0
KSM = "/sys/kernel/mm/ksm"
# Names as all hosts have them, and units where those are named differently.
UNITS = {"libvirt": "libvirtd.service"}
# What would start it again if it stayed.
SOCKETS = {"libvirt": ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"]}
PROJECT = ("momservice", "momhelper", "momhelper-guests", "mom-rpc-bridge")
# What would set the machine up, could it write there.
UNWANTED = ("systemd-sysctl.service", "systemd-udevd.service", "systemd-udev-trigger.service")
# The settings of the kernel are opened to services when systemd has been through its own, so that nothing but what their units say keeps
# services from them; without KSM its knobs stay closed. {0}: more commands.
OPEN = """\
[Unit]
DefaultDependencies=no
After=sysinit.target
Before=basic.target
[Service]
Type=oneshot
ExecStart=mount -o remount,rw /sys
{0}"""
CLOSE_KSM = f"ExecStart=mount --bind {KSM} {KSM}\nExecStart=mount -o remount,bind,ro {KSM}\n"
# Joins the control group that was made for it, then boots. Arguments: the group, those of systemd-nspawn.
BOOT = 'echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"; shift; exec systemd-nspawn "$@"'
OPTIONS = ["--machine=mom-lab", "--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe"]
# What the README has administrators do after an installation.
RELOAD = [["systemctl", "daemon-reload"], ["systemctl", "reload", "dbus"]]


class BootedHost(AnyHost):
    """With systemd and dbus-broker."""

    bus = BROKER

    def _wishes(self) -> Wishes:
        return replace(super()._wishes(), boot=self.state.name)

    def _furnish(self) -> None:
        self._prepare(self._ns.path(self.state / "work/root"))
        self.boot()
        self.install_project()
        root = self.path("/")
        daemons.configure_library(root)
        daemons.configure_service(root, self._drop_in, self._policy)
        for command in RELOAD:
            self.check(command)

    def _prepare(self, root: Path) -> None:
        """Make the machine's files those of a host that starts nothing but the bus and what belongs to systemd."""
        daemons.configure_bus(root)
        (root / "etc/fstab").write_text("", encoding="ascii")
        # It would clean /tmp, where the state is.
        cleaning = root / "etc/tmpfiles.d/tmp.conf"
        cleaning.unlink(missing_ok=True)
        cleaning.symlink_to("/dev/null")
        units = root / "etc/systemd/system"
        shutil.rmtree(units, ignore_errors=True)
        daemons.make_folder(units)
        if self.bus == BROKER:
            for folder in ("usr", "lib"):
                shutil.copytree(ensure_broker() / folder, root / folder, dirs_exist_ok=True)
            # What enabling it does.
            (units / "dbus.service").symlink_to("/lib/systemd/system/dbus-broker.service")
        for name in UNWANTED:
            (units / name).symlink_to("/dev/null")
        (units / "lab-open.service").write_text(OPEN.format("" if self._ksm or not Path(KSM).is_dir() else CLOSE_KSM), encoding="ascii")
        daemons.make_folder(units / "basic.target.wants")
        (units / "basic.target.wants/lab-open.service").symlink_to("../lab-open.service")
        for name in PROJECT if daemons.bus_library() else ():
            daemons.make_folder(units / f"{name}.service.d")
            setting = "".join(f"Environment={key}={value}\n" for key, value in daemons.bus_library().items())
            (units / f"{name}.service.d/50-lab.conf").write_text(f"[Service]\n{setting}", encoding="utf-8")

    def power_off(self) -> None:
        """Shut it down as its administrator would: every unit is stopped."""
        self.run(["systemctl", "poweroff"])
        self.wait_for(lambda: self._ns.ask("tell")["daemons"]["boot"]["pid"] is None, "the host to power off", BOOT_S)

    def boot(self) -> None:
        """Boot it, again after power_off: with what is on its disks."""
        root = f"--directory={self.state / 'work/root'}"
        # The checkout and the state are where they are outside, on whatever file systems.
        shared = [f"--bind-ro={ROOT}", f"--bind={self.state}:{self.state}:norbind"]
        argv = ["sh", "-c", BOOT, "sh", self.state.name, root, *OPTIONS, *shared, "--resolv-conf=off", "--timezone=off"]
        log = str(self.logs / "boot.log")
        self._ns.ask("start", name="boot", argv=argv, env=self._ns.environment(), log=log, restart=None)
        self.wait_for(self._enter, "systemd to be started", BOOT_S)
        self.wait_for(self.path("/run/dbus/system_bus_socket").is_socket, "the bus of a booted host", BOOT_S)
        state = self.run(["systemctl", "is-system-running", "--wait"], timeout=BOOT_S).stdout.strip()
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout
            raise LabError(f"lab: the booted host is {state or 'gone'}: {tail(failed or self._console())}")

    def _enter(self) -> bool:
        """Have programs run inside as soon as there is a first process. Raises LabError when there will be none."""
        if self._ns.ask("tell")["daemons"]["boot"]["pid"] is None:
            raise LabError(f"lab: systemd-nspawn: {tail(self._console())}")
        # Processes come and go meanwhile.
        with suppress(OSError, StopIteration):
            self._ns.enter(next(pid for pid in descendants(self._ns.init) if comm(pid) == "systemd"))
            return True
        return False

    def _console(self) -> str:
        file = self.logs / "boot.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    # Daemons

    def start(self, recipe: Recipe) -> None:
        """Start the unit of this name: how is for its file to say, not for the recipe."""
        self.check(["systemctl", "start", unit(recipe.name)])

    def daemon(self, name: str) -> dict[str, Any]:
        """The unit's main process: pid inside, starts since somebody asked for it, wait status of its last end."""
        shown = self.properties(name, "MainPID", "NRestarts", "ExecMainStartTimestampMonotonic", "ExecMainCode", "ExecMainStatus")
        pid, restarts, started, code, status = map(int, shown)
        ended = {os.CLD_EXITED: status << 8, os.CLD_KILLED: status, os.CLD_DUMPED: status | 0x80}
        return {"pid": pid or None, "starts": restarts + bool(started), "status": ended.get(code)}

    def properties(self, name: str, *properties: str) -> list[str]:
        """Properties of a unit as systemctl prints them, in this order."""
        lines = self.check(["systemctl", "show", f"--property={','.join(properties)}", unit(name)]).splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[each] for each in properties]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the unit's main process."""
        self.check(["systemctl", "kill", "--kill-whom=main", f"--signal={signal.Signals(number).name}", unit(name)])

    def stop(self, name: str, timeout: float = 60) -> int:
        """Stop the unit; systemd starts it again only when it is activated."""
        self.check(["systemctl", "stop", "--no-block", unit(name), *SOCKETS.get(name, [])])
        ended = ("inactive", "failed")
        self.wait_for(lambda: self.properties(name, "ActiveState")[0] in ended, f"the end of {name}", timeout, name)
        return int(self.daemon(name)["status"] or 0)

    def log(self, name: str) -> str:
        """What the unit's processes have written to the journal."""
        return self._journal(f"_SYSTEMD_UNIT={unit(name)}")

    def events(self, name: str) -> str:
        """The same with what systemd has to say of the unit."""
        return self._journal(f"--unit={unit(name)}")

    def _journal(self, which: str) -> str:
        self.check(["journalctl", "--sync"])
        return self.run(["journalctl", "--boot", "--no-pager", "--quiet", "--output=cat", which]).stdout

    def start_service(self) -> None:
        """Start momservice by its unit, which is ready when it owns its name."""
        if self.run(["systemctl", "start", "momservice"]).returncode:
            raise LabError(f"lab: momservice doesn't stay up: {tail(self.log('momservice'))}")
        self.wait_for(lambda: self.owned(SERVICE_NAME), "momservice", log="momservice")


class BootedDaemonHost(BootedHost):
    """With systemd and dbus-daemon, which Debian has unless told otherwise."""

    bus = DAEMON


def unit(name: str) -> str:
    """The unit of a daemon, or of a unit's own name."""
    return UNITS.get(name, name if "." in name else f"{name}.service")
