# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl's connection to the service."""

from __future__ import annotations

import argparse
import signal
import sys

from momservice.bus.names import UUID
from momservice.cli.asking import AskingClient
from momservice.cli.output import Problem
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


def guest_uuid(client: BlockingClient, guest: str) -> str:
    """The UUID of a guest by name or UUID. Raises Problem."""
    if UUID.fullmatch(guest.lower()):
        return guest
    found = [uuid for uuid, name in client.active_guests() if name == guest]
    if not found:
        raise Problem(f"no guest named {guest} is monitored; `momctl guests` lists those that are")
    return found[0]
