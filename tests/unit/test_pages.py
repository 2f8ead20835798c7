# SPDX-License-Identifier: GPL-2.0-or-later
"""The man pages are made of the tables that the program uses, and groff takes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from momservice import config
from momservice.collectors import registry
from momservice.parts import CONTROLS

ROOT = Path(__file__).parent.parent.parent


def page(name: str) -> str:
    done = subprocess.run(["/usr/bin/python3", ROOT / "doc/pages.py", name], capture_output=True, text=True, check=True)
    return done.stdout


def shown(name: str) -> str:
    """The page as a reader sees it; whatever groff complains of fails the test."""
    command, environment = ["man", "--warnings", "-E", "UTF-8", "-l", "-"], {"MANWIDTH": "200", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, input=page(name), capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_setting_is_on_its_page() -> None:
    text = shown("momd.conf.5")
    for _, row in config.settings():
        assert row.key in text
        assert row.doc.split(":")[0] in text


def test_every_field_and_control_is_on_its_page() -> None:
    text = shown("mom-fields.7")
    for table in [part.FIELDS for part in registry.HOST.values()] + [part.FIELDS for part in registry.GUEST.values()]:
        for field in table:
            assert field.name in text
    for control in CONTROLS:
        assert control.name in text


@pytest.mark.parametrize(("name", "word"), [("momservice.8", "--check-config"), ("momctl.1", "policy check")])
def test_the_pages_of_programs_show_their_options(name: str, word: str) -> None:
    assert word.upper() in shown(name).upper()
