# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl's connection to the service."""

from __future__ import annotations

import argparse
import sys

from momservice.cli.asking import AskingClient
from momservice.client import BlockingClient, Client

NO_ASKING = "--no-ask-password"


def add_asking(verb: argparse.ArgumentParser) -> None:
    """Lets a verb that may need a password be told not to ask for one."""
    what = "don't ask for a password: fail where one is needed"
    verb.add_argument(NO_ASKING, action="store_true", default=argparse.SUPPRESS, help=what)


def connected(options: argparse.Namespace | None = None) -> BlockingClient:
    """A client. Where a person sits at the terminal and the options don't forbid it, polkit may ask for a password."""
    forbidden = getattr(options, "no_ask_password", False)
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    return BlockingClient(kind=AskingClient if at_terminal and not forbidden else Client)
