# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev test and ./dev lint."""

import os
import subprocess

from lab.common import CACHE, PYTHON, ROOT, say
from lab.packages import ensure_dbus_fast, ensure_packages, ensure_venv

# Two workers: what the smallest machine has. Tests that share one lab host stay together on one of them (xdist_group).
PYTEST = [PYTHON, "-m", "pytest", "--numprocesses=2", "--dist=loadgroup", "--durations=10", "-o", f"cache_dir={CACHE / 'pytest'}"]
# What sends or receives; all of it runs with either bus library.
ON_BOTH_LIBRARIES = ["tests/bus", *(f"tests/unit/test_{name}.py" for name in ("connection", "decoder", "variants", "marshal"))]


def test(selection: list[str]) -> int:
    """Run pytest with the selection, which may be any of its arguments. Its exit status."""
    ensure_packages()
    ensure_venv()
    status = pytest(selection, {"PYTHONPATH": str(ROOT)})
    if selection:
        return status
    say("the connection once more, on dbus-fast")
    other = {"PYTHONPATH": f"{ROOT}:{ensure_dbus_fast()}", "MOM_BUS_LIBRARY": "dbus-fast"}
    return max(status, pytest(ON_BOTH_LIBRARIES, other))


def pytest(selection: list[str], environment: dict[str, str]) -> int:
    """Run pytest; its exit status."""
    surroundings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([*PYTEST, *selection], cwd=ROOT, env=surroundings, check=False).returncode


def lint() -> int:
    """Check types, then style; both always run. 0 when both are clean."""
    ensure_packages()
    programs = ensure_venv()
    commands = ([str(programs / "mypy")], [str(programs / "ruff"), "check"])
    return max([subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands])
