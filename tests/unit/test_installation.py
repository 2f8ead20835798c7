# SPDX-License-Identifier: GPL-2.0-or-later
"""Every file of the project that belongs on a host is in a meson.build, and none that doesn't exist."""

from __future__ import annotations

import re
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
