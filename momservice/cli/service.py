# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl's connection to the service."""

from __future__ import annotations

import sys

from momservice.client import BlockingClient


def connected() -> BlockingClient:
    """A client. Where a person sits at the terminal, polkit may ask for a password."""
    return BlockingClient(interactive=sys.stdin is not None and sys.stdin.isatty())
