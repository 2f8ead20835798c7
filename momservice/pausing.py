# SPDX-License-Identifier: GPL-2.0-or-later
"""Pauses that clients ask for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

log = logging.getLogger(__name__)


class Pausing:
    """Whether the service is to decide. All in its event loop. `reason`: why it isn't to, one line; "" when it is."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called when a pause has begun, ended or been replaced by another one."""
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self.reason = ""

    def begin(self, reason: str, seconds: int) -> None:
        """Pause for so long from now, 0: until `end`."""
        self._forget()
        self.reason = reason or "paused by a client"
        log.info("paused %s: %s", f"for {seconds} s" if seconds else "until Resume", self.reason)
        if seconds:
            self.reason += f" ({_end(seconds)})"
            self._timer = asyncio.get_running_loop().call_later(seconds, self.end)
        self._changed()

    def end(self) -> None:
        """End the pause. Without one nothing happens."""
        if self.reason:
            self._forget()
            log.info("resumed")
            self._changed()

    def _forget(self) -> None:
        self.reason = ""
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _end(seconds: int) -> str:
    """When that is: a time of the day, not what is left, since the reason must not change all the time."""
    try:
        # With the date and the distance from UTC: clients may live by another clock than the host.
        return f"until {datetime.fromtimestamp(time.time() + seconds, UTC).astimezone().isoformat(' ', 'seconds')}"
    except (OverflowError, ValueError, OSError):
        # Beyond what the host's clock can show.
        return f"for {seconds} s"
