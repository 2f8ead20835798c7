# SPDX-License-Identifier: GPL-2.0-or-later
"""A user who has logged in at a terminal: logind knows the session, and polkit asks the agent that momctl brings along there."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Iterator

import pytest
from terminal import answered

from lab.booted import BootedHost

PASSWORD = "correct horse"
# With this variable momctl has its agent stand back behind one that the session has already.
SCRIPT = 'loginctl show-session "${XDG_SESSION_ID:?}" --property=Name; momctl pause --for 1h'
TIOCGPTN, TIOCSPTLCK = 0x80045430, 0x40045431


@pytest.fixture(scope="module")
def host() -> Iterator[BootedHost]:
    with BootedHost(guests=0, libvirt=False, ksm=False) as running:
        running.check(["chpasswd"], input=f"root:{PASSWORD}\n")
        yield running


@pytest.fixture
def terminal(host: BootedHost) -> Iterator[tuple[int, str]]:
    """A terminal of the host: the other end of it, and its name."""
    outer = os.open(host.path("/dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(outer, TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("I", fcntl.ioctl(outer, TIOCGPTN, bytes(4)))
        # Kept open: a terminal that nobody has open forgets its settings.
        inner = os.open(host.path(f"/dev/pts/{number}"), os.O_RDWR | os.O_NOCTTY)
        yield outer, f"/dev/pts/{number}"
        os.close(inner)
    finally:
        os.close(outer)


def asked(host: BootedHost, terminal: tuple[int, str], keys: str, *command: str) -> tuple[int, str]:
    """A command of alice's in a session of hers, where `keys` answer the question: exit status, and what was shown."""
    outer, name = terminal
    streams = [f"--property=Standard{stream}=tty" for stream in ("Input", "Output", "Error")]
    session = ["--uid=alice", "--property=PAMName=login", f"--property=TTYPath={name}", "--setenv=TERM=dumb", *streams]
    process = host.popen(["systemd-run", "--quiet", "--collect", "--wait", *session, "--", *command], stdin=subprocess.DEVNULL)
    return answered(outer, process, keys)


def test_the_password_is_asked_for_in_the_session(host: BootedHost, terminal: tuple[int, str]) -> None:
    before = termios.tcgetattr(terminal[0])
    status, shown = asked(host, terminal, f"{PASSWORD}\n", "sh", "-ec", SCRIPT)
    assert status == 0, shown
    assert "Name=alice" in shown
    assert "org.ovirt.mom1.control" in shown
    assert host.status() == "paused"
    assert termios.tcgetattr(terminal[0]) == before
    host.check(["momctl", "resume"])


def test_a_wrong_password_is_none_in_a_session_either(host: BootedHost, terminal: tuple[int, str]) -> None:
    status, shown = asked(host, terminal, "wrong\n", "momctl", "reload")
    assert status == 4, shown
    assert "momctl: polkit does not grant org.ovirt.mom1.control" in shown.splitlines()[-1]
