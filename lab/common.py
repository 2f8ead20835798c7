# SPDX-License-Identifier: GPL-2.0-or-later
"""What every module of the lab shares: places, the interpreter, the user's error, a lock between processes."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
# Not sys.executable: that may be a private interpreter which other users can't run and which doesn't see apt's modules.
PYTHON = "/usr/bin/python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """Something the user can act on: its text is one line, shown as it is."""


def say(text: str) -> None:
    """Tell the user what takes long or went wrong. On stderr, since stdout belongs to the command that runs in the lab."""
    sys.stderr.write(f"dev: {text}\n")
    sys.stderr.flush()


def tail(text: str) -> str:
    """The last line with anything in it: what programs say when they fail."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[int]:
    """Hold an exclusive lock on a file, made if need be; gives its descriptor.

    The lock belongs to the open file: whoever inherits the descriptor keeps the lock beyond this block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                say(waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
