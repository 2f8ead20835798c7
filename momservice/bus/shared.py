# SPDX-License-Identifier: GPL-2.0-or-later
"""Large answers, marshalled once for all who ask until something changes. Any local user may ask, as often as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from momservice.bus.backend import Engine
from momservice.bus.connection import Call, Marshalled, Variant, clean
from momservice.bus.marshal import array, dictionaries, entries, keyed, of_arrays, texts
from momservice.controllers import World
from momservice.watching import Watcher

# Guests that are marshalled in one turn of the loop, or bytes of what is longer: 1 to 2 ms.
SLICE, SLICE_BYTES = 100, 16 << 10


async def in_slices(pieces: Iterable[bytes]) -> list[bytes]:
    """The pieces, made a few at a time."""
    made: list[bytes] = []
    count = size = 0
    for piece in pieces:
        made.append(piece)
        count, size = count + 1, size + len(piece)
        if count >= SLICE or size >= SLICE_BYTES:
            count = size = 0
            await asyncio.sleep(0)
    return made


async def dictionaries_in_slices(rows: Iterable[Mapping[str, Variant]], offset: int = 0) -> bytes:
    """An `aa{sv}` of rows that are made on the way; it will stand at this offset."""
    return of_arrays(await in_slices(dictionaries(rows, offset)), offset)


class SharedAnswer:
    """An answer that is made when it is first asked for. Nobody gets one that was outdated in the making: signals have told otherwise."""

    def __init__(self, make: Callable[[], Awaitable[Marshalled]]) -> None:
        self._make = make
        self._answer: asyncio.Future[Marshalled] | None = None

    def outdate(self) -> None:
        """Whoever asks from now on gets another one."""
        self._answer = None

    async def answer(self, _call: Call) -> Marshalled:
        """The answer, for a method."""
        while True:
            if self._answer is None:
                self._answer = asyncio.ensure_future(self._make())
            making = self._answer
            # A caller that has gone must not take it away from the others.
            answer = await asyncio.shield(making)
            if making is self._answer:
                return answer


class Statistics(Watcher):
    """The answers of GetStatistics, GetHostStatistics and GetActiveGuests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.statistics = SharedAnswer(self._statistics)
        self.host_statistics = SharedAnswer(self._host_statistics)
        self.active_guests = SharedAnswer(self._active_guests)

    def sampled(self, world: World) -> None:
        """See Watcher."""
        self.statistics.outdate()
        self.host_statistics.outdate()
        self.active_guests.outdate()

    async def _statistics(self) -> Marshalled:
        host, guests = self._engine.statistics()
        start = array(entries(host))
        pieces = await in_slices(keyed(uuid, entries(sample)) for uuid, sample in guests.items())
        return Marshalled(start + array(pieces, len(start)))

    async def _host_statistics(self) -> Marshalled:
        return Marshalled(array(entries(self._engine.statistics()[0])))

    async def _active_guests(self) -> Marshalled:
        return Marshalled(array(await in_slices(texts(uuid, clean(name)) for uuid, name in self._engine.active_guests())))
