# SPDX-License-Identifier: GPL-2.0-or-later
"""A user at a terminal who answers a question for a password."""

from __future__ import annotations

import os
import select
import subprocess
import termios
import time
from typing import Any

DEADLINE_S = 60


def answered(outer: int, process: subprocess.Popen[Any], keys: str) -> tuple[int, str]:
    """The exit status of a program at a terminal, where `keys` answer each of its questions, and what it has shown.

    `outer`: the terminal's other end; somebody else keeps the terminal open as well.
    """
    shown, typed, end = b"", 0, time.monotonic() + DEADLINE_S
    while process.poll() is None or select.select([outer], [], [], 0)[0]:
        assert time.monotonic() < end, shown
        if select.select([outer], [], [], 0.1)[0]:
            shown += os.read(outer, 65536)
        # The agent switches the echo off, and drops what was typed before that.
        if typed < len(shown) and shown.endswith(b"Password: ") and not termios.tcgetattr(outer)[3] & termios.ECHO:
            os.write(outer, keys.encode())
            typed = len(shown)
    return process.wait(), shown.decode()
