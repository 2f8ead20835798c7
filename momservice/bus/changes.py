# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling clients that properties have changed and objects have come or gone: as the XML says, a few at a time, and not too often."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from momservice.bus.connection import Export, Variant
from momservice.watching import Watcher

log = logging.getLogger(__name__)

PROPERTIES = "org.freedesktop.DBus.Properties"
# An object's changes are told at most so often; a cycle takes no less.
INTERVAL_S = 1.0
# Signals that are made in one turn of the loop: 1 to 2 ms.
SLICE = 10


class Emits(Protocol):
    """The connection, as far as it is needed here."""

    def emit(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> None:
        """Send a signal."""


class Outbox:
    """Signals on their way, in order. Thousands of them must not hold up the loop."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, *sends: Callable[[], None]) -> None:
        """Have each of them called soon."""
        self._queue += sends
        if self._queue and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        while self._queue:
            for _ in range(min(SLICE, len(self._queue))):
                try:
                    self._queue.popleft()()
                except Exception:
                    # It must not keep those behind it.
                    log.exception("internal error while a signal was made")
            await asyncio.sleep(0)


class Changes:
    """Gathers what has changed and sends PropertiesChanged, one an object and interface, at most every second."""

    def __init__(self, emits: Emits, outbox: Outbox) -> None:
        self._emits, self._outbox = emits, outbox
        self._noted: dict[tuple[str, str], tuple[Export, set[str]]] = {}
        self._flushed_s = -INTERVAL_S
        self._timer: asyncio.TimerHandle | None = None

    def note(self, path: str, export: Export, names: Iterable[str]) -> None:
        """These properties of an object's interface have changed."""
        told = {name for name in names if export.interface.changes[name] in ("true", "invalidates")}
        if not told:
            return
        self._noted.setdefault((path, export.interface.name), (export, set()))[1].update(told)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._flushed_s + INTERVAL_S - loop.time()), self._flush)

    def forget(self, path: str, export: Export) -> None:
        """The object is gone."""
        self._noted.pop((path, export.interface.name), None)

    def _flush(self) -> None:
        noted, self._noted, self._timer = self._noted, {}, None
        self._flushed_s = asyncio.get_running_loop().time()
        self._outbox.put(*(partial(self._send, path, export, names) for (path, _), (export, names) in noted.items()))

    def _send(self, path: str, export: Export, names: set[str]) -> None:
        told = {name for name in names if export.interface.changes[name] == "true"}
        values: Mapping[str, Variant] = export.variants(told) if told else {}
        self._emits.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", export.interface.name, values, sorted(names - told))


class PropertyWatch(Watcher):
    """Looks at an object's properties whenever the engine tells something, and notes what has changed."""

    def __init__(self, path: str, exports: Sequence[Export], changes: Changes) -> None:
        self._path, self._changes = path, changes
        self._seen = [(export, dict(export.properties())) for export in exports]

    def told(self) -> None:
        """See Watcher."""
        for export, before in self._seen:
            now = export.properties()
            names = [name for name, value in now.items() if value != before[name]]
            before.update(now)
            self._changes.note(self._path, export, names)
