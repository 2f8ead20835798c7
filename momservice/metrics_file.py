# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of metrics for node_exporter's textfile collector (`[main] metrics-file`): counts what happens, writes after each policy run.

Nothing here can hold up or stop the cycle: it is written in a thread of its own, whole or not at all, and what goes wrong becomes a reason.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from momservice import __version__
from momservice.bus import backend
from momservice.controllers import Outcome, World
from momservice.controllers.balloon import TARGET
from momservice.hypervisor.workers import DeadlineMissed, NoThreadLeft, Workers
from momservice.metrics import State, Tally, text
from momservice.watching import PolicyRun, Watcher

DEADLINE_S: Final = 10.0
# Without runs, in a pause or before the first one, it is written when so many intervals have gone by.
PATIENCE: Final = 1.5
# For node_exporter, which is another user; the service's own umask lets nobody read.
MODE: Final = 0o644


class Engine(backend.Engine, Protocol):
    """What is needed of the engine."""

    @property
    def metrics_file(self) -> Path | None:
        """Where metrics are wanted; None: nowhere."""


class MetricsFile(Watcher):
    """Writes the file that the configuration in force names; a file that isn't named any more goes, and at the end the last one does:
    figures that nobody renews must not look like those of now.
    """

    def __init__(
        self,
        engine: Engine,
        generation: Callable[[], int],
        polkit_available: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`generation`: of the policies. `polkit_available`: whether polkit answered when it was last asked."""
        self._engine, self._generation, self._polkit_available, self._clock = engine, generation, polkit_available, clock
        self._workers = Workers(1, "metrics")
        self._tally = Tally()
        self._begun_s = float("-inf")
        self._writing: asyncio.Future[None] | None = None
        # What is on disk.
        self._file: Path | None = None

    # What is heard

    def ran(self, run: PolicyRun) -> None:
        """Count it and write."""
        self._tally.runs += 1
        self._tally.failures += len(run.decisions.failures)
        self._begin()

    def applied(self, _run: PolicyRun, outcomes: Sequence[Outcome]) -> None:
        """Count what became of controls; it is in the file with the next run."""
        self._tally.controls.update((outcome.control, outcome.status) for outcome in outcomes)
        targets = ((outcome.entity, outcome.applied) for outcome in outcomes if outcome.control == TARGET.name)
        self._tally.targets_kib.update((uuid, kib) for uuid, kib in targets if kib is not None)

    def sampled(self, world: World) -> None:
        """Forget guests that are gone; write if the policy doesn't run."""
        # Some may have gone before it was told what became of their controls.
        for uuid in self._tally.targets_kib.keys() - world.guests.keys():
            del self._tally.targets_kib[uuid]
        if self._clock() - self._begun_s > PATIENCE * self._engine.interval_ms / 1000:
            self._begin()

    # What is written

    def _begin(self) -> None:
        """Write, unless the last file is still being written."""
        self._begun_s = self._clock()
        wanted = self._engine.metrics_file
        if wanted is None and self._file is None:
            self._tell("")
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._renew(wanted))

    async def _renew(self, file: Path | None) -> None:
        state, before = self.state(), self._file
        try:
            await self._workers.run(lambda: renew(before, file, state), DEADLINE_S)
            self._file = file
            self._tell("")
        except OSError as error:
            self._tell(error.strerror or type(error).__name__)
        except (DeadlineMissed, NoThreadLeft) as error:
            self._tell(str(error))

    def _tell(self, reason: str) -> None:
        # Without the path: every local user can read it.
        self._engine.set_reason("metrics", f"the metrics file can't be written: {reason}" if reason else "")

    def state(self) -> State:
        """What there is to tell now; nothing of it changes any more."""
        host, guests = self._engine.statistics()
        tally = replace(self._tally, controls=Counter(self._tally.controls), targets_kib=dict(self._tally.targets_kib))
        return State(
            __version__,
            self._engine.status()[0],
            self._generation(),
            self._engine.interval_ms,
            self._engine.hypervisor_connected,
            self._engine.helper_available,
            self._polkit_available(),
            self._engine.last_evaluation_us,
            self._engine.evaluation_duration_us,
            host,
            guests,
            dict(self._engine.active_guests()),
            tally,
        )

    async def end(self) -> None:
        """Remove the file; what can't be removed stays."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._file is not None:
            await self._renew(None)


def renew(before: Path | None, file: Path | None, state: State) -> None:
    """Write a file of metrics, whole or not at all, and remove the one before if that was another. Raises OSError."""
    if file is not None:
        put(file, text(state).encode("utf-8", "replace"))
    if before is not None and before != file:
        before.unlink(missing_ok=True)


def put(file: Path, data: bytes) -> None:
    """Put a file in its place. Raises OSError."""
    # In the same folder, so that it can be renamed, and by a name that no collector reads. One name: a crash leaves one file at most.
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, MODE)
            stream.write(data)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
