# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords at the terminal: polkit's text agent, started when a call needs it and not before."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from momservice.client import DIALOG_DEADLINE_S, Client
from momservice.errors import InteractiveAuthorizationRequired

AGENT: Final = ("pkttyagent", "--notify-fd")
# Where the session has an agent of its own, a window on a desktop, that one asks. Without a session polkit uses no fallback.
FALLBACK: Final = ("--fallback",)
# How long polkit may take to know of the agent.
READY_S: Final = 10.0


class Agent:
    """polkit's agent for this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: list[Any] = []

    def begin(self) -> bool:
        """Start it and wait until polkit knows it; False if that can't be."""
        self._terminal = termios.tcgetattr(sys.stdin)
        ready, notify = os.pipe()
        try:
            fallback = FALLBACK if os.environ.get("XDG_SESSION_ID") else ()
            self._process = subprocess.Popen([*AGENT, str(notify), *fallback], pass_fds=[notify])
        except OSError:
            return False
        finally:
            # The agent's copy is then the last: the pipe ends when the agent says that it is ready, or when it ends.
            os.close(notify)
            if self._process is not None:
                select.select([ready], [], [], READY_S)
            os.close(ready)
        return self._process.poll() is None

    def end(self) -> None:
        """End it, if it was started. One that is ended while it asks leaves the terminal without echo."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(READY_S)
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)


class AskingClient(Client):
    """A client that has a person asked for a password where that helps: the refused call, which did nothing, is made once more.

    `interactive`: whether somebody has been.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._agent = Agent()

    async def close(self) -> None:
        """End the agent and the connection."""
        self._agent.end()
        await super().close()

    async def _call(self, interface: str, member: str, signature: str = "", *args: Any) -> Sequence[Any]:
        try:
            return await super()._call(interface, member, signature, *args)
        except InteractiveAuthorizationRequired:
            if self.interactive or not await asyncio.to_thread(self._agent.begin):
                raise
        self.interactive, self._deadline_s = True, DIALOG_DEADLINE_S
        return await super()._call(interface, member, signature, *args)
