# SPDX-License-Identifier: GPL-2.0-or-later
"""A few daemon threads for calls that block and may never return.

Not a ThreadPoolExecutor: that one is joined at exit, so one hung QEMU would hold up the stop of the whole service.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineMissed(Exception):
    """The call goes on in its thread, which is abandoned: its result will be dropped. It may still return, one day."""


class NoThreadLeft(Exception):
    """All threads are taken by calls that haven't returned."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a thread is to run, and whom to tell. `future` is done early when nobody waits any more."""

    function: Callable[[], Any]
    returned: Callable[[], None]
    future: asyncio.Future[Any]


class _Thread:
    """One daemon thread and the queue by which it gets its calls."""

    def __init__(self, name: str, idle: Callable[[_Thread], None]) -> None:
        self._idle = idle
        self._inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def give(self, call: _Call) -> None:
        """Have the call run."""
        self._inbox.put(call)

    def _work(self) -> None:
        # A function of its own for each call, so that no result is kept alive by the wait for the next call.
        while self._run_one(self._inbox.get()):
            pass

    def _run_one(self, call: _Call) -> bool:
        """False when the loop that wanted the call is gone."""
        result, error = None, None
        try:
            result = call.function()
        except Exception as caught:
            error = caught
        try:
            call.future.get_loop().call_soon_threadsafe(self._finish, call, result, error)
        except RuntimeError:
            return False
        return True

    def _finish(self, call: _Call, result: Any, error: Exception | None) -> None:
        """In the loop again."""
        self._idle(self)
        call.returned()
        if call.future.done():
            return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)


class Workers:
    """Runs blocking functions with deadlines in at most `limit` threads, made when needed. Belongs to one asyncio loop.

    A thread whose call missed its deadline counts against the limit until the call returns; then it is used again.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._made = 0
        self._idle: list[_Thread] = []

    async def run(self, function: Callable[[], T], deadline_s: float | None, returned: Callable[[], None] = lambda: None) -> T:
        """The result of `function`, or what it raised. Raises DeadlineMissed or NoThreadLeft.

        `deadline_s` None: waits as long as it takes. `returned` is called in the loop when the function has come back, however late.
        """
        thread = self._take()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        thread.give(_Call(function, returned, future))
        try:
            await asyncio.wait({future}, timeout=deadline_s)
            if not future.done():
                raise DeadlineMissed(f"no answer within {deadline_s} s")
            return future.result()
        finally:
            future.cancel()

    def _take(self) -> _Thread:
        if self._idle:
            return self._idle.pop()
        if self._made >= self._limit:
            raise NoThreadLeft(f"all {self._limit} threads wait for answers that don't come")
        self._made += 1
        return _Thread(f"{self._name}-{self._made}", self._idle.append)
