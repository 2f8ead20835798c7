# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl's connection to the service."""

from __future__ import annotations

import argparse
import signal
import sys

from momservice.cli.asking import AskingClient
from momservice.client import BlockingClient

NO_ASKING = "--no-ask-password"


def add_asking(verb: argparse.ArgumentParser) -> None:
    """Lets a verb that may need a password be told not to ask for one."""
    what = "don't ask for a password: fail where one is needed"
    verb.add_argument(NO_ASKING, action="store_true", default=argparse.SUPPRESS, help=what)


def connected(options: argparse.Namespace | None = None) -> BlockingClient:
    """A client. Where a person sits at the terminal and the options don't forbid it, polkit may ask for a password."""
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not at_terminal or getattr(options, "no_ask_password", False):
        return BlockingClient()
    # Ctrl-C then ends momctl no longer at once: an agent that asks has switched the terminal's echo off.
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return BlockingClient(kind=AskingClient)
