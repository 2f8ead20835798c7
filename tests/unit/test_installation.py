# SPDX-License-Identifier: GPL-2.0-or-later
"""Every file of the project that belongs on a host is in a meson.build, and none that doesn't exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# What may be installed from each folder.
KINDS = {
    "momservice": "*.py",
    "momhelper": "*.py",
    "dbus": "*.*",
    "polkit": "*.*",
    "systemd": "*.*",
    "conf": "*.*",
    "doc": "*.py",
    "completion": "*.py",
}


def listed(folder: str) -> set[str]:
    """What the folder's meson.build names; templates by their file's name, or without the endings that a loop over them adds."""
    text = (ROOT / folder / "meson.build").read_text()
    return set(re.findall(r"'([\w./-]+)'", text))


@pytest.mark.parametrize("folder", KINDS)
def test_every_file_is_listed(folder: str) -> None:
    here = ROOT / folder
    # Resolved: the interfaces' folder in the package is a symbolic link to dbus/.
    files = {str(path.relative_to(here)) for path in here.rglob(KINDS[folder]) if path.is_file() and path.name != "meson.build"}
    names = listed(folder)
    assert not {file for file in files if not {file, file.removesuffix(".in"), file.removesuffix(".service.in")} & names}


@pytest.mark.parametrize("folder", ["momservice", "momhelper"])
def test_every_module_that_is_listed_exists(folder: str) -> None:
    assert not [name for name in listed(folder) if name.endswith(".py") and not (ROOT / folder / name).exists()]


def test_an_installation_has_everything_at_its_place(tmp_path: Path) -> None:
    build, root = tmp_path / "build", tmp_path / "root"
    setup = ["meson", "setup", "--prefix=/usr", "--sysconfdir=/etc", str(build), str(ROOT)]
    for command in (setup, ["meson", "install", "-C", str(build), "--destdir", str(root)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
        assert done.returncode == 0, done.stdout + done.stderr
    installed = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    for place in (
        "usr/bin/momctl",
        "usr/bin/momservice",
        "usr/libexec/momhelper",
        "usr/libexec/momhelper-guests",
        "usr/libexec/mom-rpc-bridge",
        "usr/share/dbus-1/interfaces/org.ovirt.Mom1.xml",
        "usr/share/dbus-1/system.d/org.ovirt.MomHelper1.conf",
        "usr/share/dbus-1/system-services/org.ovirt.MomGuestHelper1.service",
        "usr/share/polkit-1/actions/org.ovirt.mom1.policy",
        "usr/share/polkit-1/rules.d/mom-guests.rules",
        "usr/lib/systemd/system/momservice.service",
        "usr/lib/systemd/system/mom-rpc-bridge.service",
        "usr/lib/systemd/system/mom-rpc-bridge.socket",
        "usr/lib/sysusers.d/mom.conf",
        "usr/lib/tmpfiles.d/mom.conf",
        "usr/share/mom/policy.d/20_balloon.policy",
        "usr/share/man/man5/momd.conf.5",
        "usr/share/man/man5/mom-policy.5",
        "usr/share/man/man5/mom-policy-test.5",
        "usr/share/man/man7/mom-fields.7",
        "usr/share/man/man7/mom-metrics.7",
        "usr/share/man/man8/momservice.8",
        "usr/share/man/man8/mom-rpc-bridge.8",
        "usr/share/doc/mom/tutorial.md",
        "usr/share/doc/mom/examples/dbus_python.py",
        "usr/share/man/man1/momctl.1",
        "usr/share/bash-completion/completions/momctl",
        "usr/share/zsh/site-functions/_momctl",
        "usr/share/fish/vendor_completions.d/momctl.fish",
        "etc/momd.conf",
    ):
        assert {place, place + ".gz"} & installed, f"{place} is not among {sorted(installed)}"
