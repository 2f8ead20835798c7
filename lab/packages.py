# SPDX-License-Identifier: GPL-2.0-or-later
"""Installs what is missing: Debian packages from one list, the linters into an environment of their own."""

import os
import shutil
import subprocess
from pathlib import Path

from lab.common import CACHE, PYTHON, ROOT, LabError, locked, say, tail

LIST = Path(__file__).with_name("packages.txt")
DBUS_FAST_LIST = Path(__file__).with_name("dbus-fast-requirements.txt")
LINT_LIST = Path(__file__).with_name("lint-requirements.txt")
VENV = ROOT / ".venv"


def wanted(text: str) -> dict[str, str]:
    """The list's packages with their reasons. A line without a reason is an error: nobody would dare to remove it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, reason = (part.strip() for part in line.partition("#"))
        if not name:
            continue
        if not reason:
            raise LabError(f"lab/packages.txt: {name} has no reason")
        found[name] = reason
    return found


def missing(names: list[str]) -> list[str]:
    """Those of the packages that dpkg doesn't know as installed."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def apt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run apt-get without questions; its output is kept from the user unless it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["apt-get", "--quiet", "--yes", "-o", "APT::Sandbox::User=root", "-o", "DPkg::Lock::Timeout=300", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, stdin=subprocess.DEVNULL)


def apt_with_update(*arguments: str, cwd: Path | None = None) -> None:
    """The same, once more after apt-get update when it fails: package lists age, and a fresh image has none."""
    result = apt(*arguments, cwd=cwd)
    if result.returncode:
        apt("update")
        result = apt(*arguments, cwd=cwd)
    if result.returncode:
        raise LabError(f"apt-get {' '.join(arguments)}: {tail(result.stderr or result.stdout)}")


def ensure_packages() -> None:
    """Install what is missing from the list.

    Raises LabError on a distribution without apt, or without root when something is missing.
    """
    if not (shutil.which("dpkg-query") and shutil.which("apt-get")):
        raise LabError("this needs Debian 12 or later: elsewhere run it in a container or virtual machine with Debian")
    names = list(wanted(LIST.read_text(encoding="utf-8")))
    if not missing(names):
        return
    if os.geteuid() != 0:
        raise LabError(f"packages are missing; run as root: apt-get install --no-install-recommends {' '.join(missing(names))}")
    with locked(CACHE / "apt.lock", "waiting for another dev that installs packages"):
        absent = missing(names)
        if absent:
            say(f"installing {' '.join(absent)}")
            apt_with_update("install", "--no-install-recommends", *absent)


def require_root() -> None:
    """Namespaces, mounts and the kernel's KSM knobs are root's. Raises LabError for anybody else."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root for its namespaces and for KSM: run it with sudo")


def ensure_venv() -> Path:
    """The folder with the linters' programs, made or renewed when the pinned versions changed."""
    stamp = VENV / "lint-requirements.txt"
    pinned = LINT_LIST.read_text(encoding="utf-8")
    with locked(CACHE / "venv.lock", "waiting for another dev that installs the linters"):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != pinned:
            say("installing the linters into .venv")
            make_venv()
            stamp.write_text(pinned, encoding="utf-8")
    return VENV / "bin"


def make_venv() -> None:
    """Make the environment. It sees the system's packages: the types of pytest are checked against Debian's."""
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(LINT_LIST)]
    for command in ([PYTHON, "-m", "venv", "--system-site-packages", str(VENV)], pip):
        run_pip(command)


def ensure_dbus_fast() -> Path:
    """The folder with the other bus library, for PYTHONPATH; Debian 12 has none. Renewed when the pinned version changes."""
    folder, pinned = CACHE / "dbus-fast", DBUS_FAST_LIST.read_text(encoding="utf-8")
    stamp = folder / DBUS_FAST_LIST.name
    with locked(CACHE / "dbus-fast.lock", "waiting for another dev that installs dbus-fast"):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != pinned:
            shutil.rmtree(folder, ignore_errors=True)
            pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            run_pip([*pip, "--target", str(folder), "-r", str(DBUS_FAST_LIST)])
            stamp.write_text(pinned, encoding="utf-8")
    return folder


def run_pip(command: list[str]) -> None:
    """Run it. Raises LabError."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)}: {tail(result.stderr or result.stdout)}")
