# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's programs as they are in the source tree, on the path of a command."""

import os
from pathlib import Path

from lab.common import LabError
from lab.packages import ensure_packages

LAUNCHERS = Path(__file__).with_name("bin")


def execute(command: list[str]) -> int:
    """Become the command, with launchers for the source tree before everything else on its path."""
    if not command:
        raise LabError("exec: which command? ./dev exec COMMAND...")
    ensure_packages()
    environment = {**os.environ, "PATH": f"{LAUNCHERS}:{os.environ.get('PATH', '')}"}
    try:
        # Searched on the new path, not on ours.
        os.execvpe(command[0], command, environment)  # noqa: S606 - without a shell is what we want
    except OSError as error:
        raise LabError(f"exec: {command[0]}: {error.strerror}") from error
