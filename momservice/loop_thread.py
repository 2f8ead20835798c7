# SPDX-License-Identifier: GPL-2.0-or-later
"""An event loop in a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopEnded(Exception):
    """The loop has been closed."""


class LoopThread:
    """Runs coroutines for any thread. The thread ends with `close`, or when nobody has the object any more."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        # Neither the thread nor what ends it may hold this object: it would live for ever.
        self._thread = threading.Thread(target=_turn, args=(self._loop,), name=name, daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """The coroutine's result. Raises what it raises, TimeoutError if that takes too long (it is cancelled), or LoopEnded."""
        with self._lock:
            if self._closed:
                work.close()
                raise LoopEnded
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError:
            raise LoopEnded from None
        finally:
            # For a caller who is interrupted or late; what has ended stays as it is.
            future.cancel()

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        # Whatever was taken before this has its task before the loop stops, and so its end.
        with self._lock:
            self._closed = True
        self._end()
        self._thread.join()


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
    finally:
        loop.close()


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
