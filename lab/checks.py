# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev test and ./dev lint."""

import os
import subprocess

from lab.common import CACHE, PYTHON, ROOT
from lab.packages import ensure_packages, ensure_venv

# Two workers: what the smallest machine has. Tests that share one lab host stay together on one of them (xdist_group).
PYTEST = [PYTHON, "-m", "pytest", "--numprocesses=2", "--dist=loadgroup", "--durations=10", "-o", f"cache_dir={CACHE / 'pytest'}"]


def test(selection: list[str]) -> int:
    """Run pytest with the selection, which may be any of its arguments. Its exit status."""
    ensure_packages()
    ensure_venv()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*PYTEST, *selection], cwd=ROOT, env=environment, check=False).returncode


def lint() -> int:
    """Check types, then style; both always run. 0 when both are clean."""
    ensure_packages()
    programs = ensure_venv()
    commands = ([str(programs / "mypy")], [str(programs / "ruff"), "check"])
    return max([subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands])
