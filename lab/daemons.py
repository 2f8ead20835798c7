# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs in the lab besides the guests, and the configuration it is given."""

import os
import shutil
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from lab.packages import ensure_dbus_fast

LIBRARY = "MOM_BUS_LIBRARY"
QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
stdio_handler = "file"
"""
# The socket is open to all and polkit decides, so that the rule shipped for mom-guests is what lets its helper write.
LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0777"
auth_unix_ro = "none"
auth_unix_rw = "polkit"
host_uuid = "00000000-0000-4000-8000-00000000f00d"
"""
# A tenth of the usual intervals: what takes minutes on a host can be watched.
SERVICE_CONF = """\
[main]
main-loop-interval: 1
host-monitor-interval: 1
guest-monitor-interval: 1
guest-manager-interval: 1
policy-engine-interval: 2
"""
# Stands in for systemd when a helper is activated: out of dbus-daemon's hands into the supervisor's, its own log, and for
# root no capabilities. {0}: the folder of the logs. {1}: the bus library, if not the usual one.
ACTIVATE = """\
#!/bin/sh
exec >>"{0}/$(basename "$1").log" 2>&1
export STATE_DIRECTORY="/var/lib/$(basename "$1")" MOM_BUS_LIBRARY="{1}"
exec setsid --fork setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""


@dataclass(frozen=True)
class Recipe:
    """A daemon: how it is started, by which of its restarts."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    restart_s: float | None = None


DBUS = Recipe("dbus", ["dbus-daemon", "--system", "--nofork", "--nopidfile"])
POLKIT = Recipe("polkit", ["/usr/lib/polkit-1/polkitd", "--no-debug"])
LIBVIRT = Recipe("libvirt", ["/usr/sbin/libvirtd", "--timeout", "0"])
AS_MOM = ["setpriv", "--reuid=mom", "--regid=mom", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
SERVICE = Recipe(
    "momservice", [*AS_MOM, "/usr/bin/momservice", "--config", "/etc/momd.conf"], {"STATE_DIRECTORY": "/var/lib/mom"}, restart_s=1
)


def configure_bus(root: Path) -> None:
    """Folders and settings of dbus-daemon and polkitd. root: where the machine sees the lab's."""
    make_folder(root / "run/dbus")
    make_folder(root / "run/lock", 0o1777)
    machine_id = root / "etc/machine-id"
    if not machine_id.exists() or not machine_id.read_text(encoding="ascii").strip():
        machine_id.write_text("6d6f6d6c61626d6f6d6c61626d6f6d00\n", encoding="ascii")
    # Debian keeps this folder from everybody but polkitd; tests put rules there as root and polkitd has to see them.
    make_folder(root / "etc/polkit-1/rules.d")


def configure_activation(root: Path, logs: Path) -> None:
    """Put the stand-in for systemd before the programs of the installed activation files."""
    script = root / "usr/libexec/lab-activate"
    script.write_text(ACTIVATE.format(logs, bus_library().get(LIBRARY, "")), encoding="utf-8")
    script.chmod(0o755)
    for file in (root / "usr/share/dbus-1/system-services").glob("org.ovirt.Mom*.service"):
        lines = file.read_text(encoding="utf-8").replace("Exec=", "Exec=/usr/libexec/lab-activate ")
        file.write_text(lines, encoding="utf-8")


def bus_library() -> dict[str, str]:
    """What tells the project's programs which bus library to use, if the surroundings of ./dev do."""
    return {LIBRARY: os.environ[LIBRARY]} if os.environ.get(LIBRARY) else {}


def configure_library(root: Path) -> None:
    """Put the bus library that isn't Debian's where the project's programs find it."""
    if bus_library():
        shutil.copytree(ensure_dbus_fast() / "dbus_fast", root / "usr/lib/python3/dist-packages/dbus_fast")


def configure_libvirt(root: Path) -> None:
    """libvirtd's settings: nothing of the machine's networks, no security driver, polkit on the writing socket."""
    etc = root / "etc/libvirt"
    for name in ("networks", "autostart"):
        shutil.rmtree(etc / "qemu" / name, ignore_errors=True)
    (etc / "qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
    (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF, encoding="utf-8")


def configure_service(root: Path, drop_in: str, policy: Path | None) -> None:
    """The service's drop-in: short intervals, the user's policy if given, then whatever a test wants."""
    text = SERVICE_CONF
    if policy is not None:
        kind = "policy-dir" if policy.is_dir() else "policy"
        place = copy_policy(root, policy)
        other = {"policy": "policy-dir", "policy-dir": "policy"}[kind]
        text += f"{kind}: {place}\n{other}:\n"
    folder = root / "etc/momd.conf.d"
    make_folder(folder)
    (folder / "50-lab.conf").write_text(text, encoding="utf-8")
    if drop_in:
        (folder / "60-test.conf").write_text(textwrap.dedent(drop_in), encoding="utf-8")


def copy_policy(root: Path, policy: Path) -> str:
    """Copy the user's policy to where user mom can read it; its place inside."""
    place = root / "etc/mom-lab"
    make_folder(place)
    for file in sorted(policy.glob("*.policy")) if policy.is_dir() else [policy]:
        shutil.copyfile(file, place / file.name)
        (place / file.name).chmod(0o644)
    return "/etc/mom-lab" if policy.is_dir() else f"/etc/mom-lab/{policy.name}"


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder, or give the present one this mode."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
