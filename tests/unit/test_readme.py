# SPDX-License-Identifier: GPL-2.0-or-later
"""The README's commands and files exist as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"\./dev ([a-z]+)", README))))
def test_every_verb_of_dev_in_the_readme_has_help(verb: str) -> None:
    done = subprocess.run([ROOT / "dev", verb, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage:" in done.stdout


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:polkit|doc|dbus|momservice|lab|tests|conf)/[^`*]*|COPYING)`", README))))
def test_every_path_in_the_readme_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^momctl (policy [a-z]+|params(?: [a-z]+)?)\b", README, re.MULTILINE))))
def test_every_momctl_command_of_the_readme_is_known(command: str) -> None:
    done = subprocess.run([ROOT / "dev", "exec", "momctl", *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_policies_of_the_readme_are_well(tmp_path: Path) -> None:
    policies = re.findall(r"^```lisp\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert policies
    for policy in policies:
        (tmp_path / "my.policy").write_text(policy)
        check = ["lab/bin/momctl", "policy", "check", "--warnings-are-errors", str(tmp_path / "my.policy")]
        assert subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_in_the_readme_leads_to_a_file(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_policies_that_are_shipped_pass_the_check_of_the_readme() -> None:
    command = next(re.finditer(r"\./dev exec (momctl policy check [^`]*)`", README))[1]
    done = subprocess.run(f"./dev exec {command}", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_all_code_that_runs_as_root() -> None:
    told = README.partition("The root code is ")[2].partition("\n\n")[0]
    code = "import sys, momhelper.ksm; print(*[m.__file__ for name, m in sys.modules.items() if name.startswith('mom')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(path).name for path in done.stdout.split()} - {"__init__.py"}
    assert loaded == {Path(name).name for name in re.findall(r"`([^`]*\.py)`", told)}
