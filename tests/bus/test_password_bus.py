# SPDX-License-Identifier: GPL-2.0-or-later
"""A user at a terminal is asked for a password by the real agent of a real polkit, and gets what the password allows."""

from __future__ import annotations

import os
import pty
import signal
import termios
from collections.abc import Iterator
from functools import partial

import pytest
from terminal import answered

from lab.anyhost import AnyHost
from lab.hosts import host_with

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus) as running:
        running.check(["chpasswd"], input=f"root:{PASSWORD}\n")
        yield running


def asked(host: AnyHost, keys: str, *arguments: str) -> tuple[int, str, bool]:
    """momctl at a terminal of alice's, where `keys` answer the question: exit status, what was shown, and whether the echo is back."""
    outer, inner = pty.openpty()
    try:
        before = termios.tcgetattr(inner)
        command = ["setsid", "--ctty", "--wait", "momctl", *arguments]
        # Whoever runs the tests in the background has them ignore Ctrl-C.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = host.popen(command, "alice", stdin=inner, stdout=inner, stderr=inner, start_new_session=True, preexec_fn=heed)
        status, shown = answered(outer, process, keys)
        return status, shown, termios.tcgetattr(inner) == before
    finally:
        os.close(outer)
        os.close(inner)


def agents(host: AnyHost) -> str:
    return host.run(["pgrep", "pkttyagent"]).stdout


def test_the_right_password_lets_a_user_in(host: AnyHost) -> None:
    status, shown, restored = asked(host, f"{PASSWORD}\n", "pause", "--for", "1h")
    assert (status, restored) == (0, True), shown
    assert "org.ovirt.mom1.control" in shown
    assert PASSWORD not in shown
    assert host.status() == "paused"
    assert agents(host) == ""
    host.check(["momctl", "resume"])


def test_a_trial_asks_for_each_of_its_two_evaluations_and_no_more(host: AnyHost) -> None:
    host.path("/tmp/more.policy").write_text("(defvar more 1)\n", encoding="ascii")
    status, shown, _ = asked(host, f"{PASSWORD}\n", "policy", "try", "/tmp/more.policy")
    assert (status, shown.count("Password: ")) == (0, 2), shown
    assert "nothing would change" in shown


def test_a_wrong_password_does_not(host: AnyHost) -> None:
    status, shown, restored = asked(host, "wrong\n", "reload")
    assert (status, restored) == (4, True), shown
    assert "momctl: polkit does not grant org.ovirt.mom1.control" in shown.splitlines()[-1]
    assert agents(host) == ""


def test_ctrl_c_at_the_question_leaves_the_terminal_as_it_was(host: AnyHost) -> None:
    status, shown, restored = asked(host, "\x03", "policy", "reset")
    assert (status, restored) == (-2, True), shown
    assert "Traceback" not in shown
    assert agents(host) == ""


def test_nobody_is_asked_where_that_is_forbidden(host: AnyHost) -> None:
    status, shown, _ = asked(host, "", "pause", "--no-ask-password")
    assert status == 4
    assert "Password" not in shown
