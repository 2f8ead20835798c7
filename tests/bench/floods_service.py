# SPDX-License-Identifier: GPL-2.0-or-later
"""Not a bench: the service as `./dev bench floods` runs it, which measures itself. Arguments: its configuration, where the figures go.

What is measured is wrapped around the code; the service itself carries nothing of it. On SIGUSR1 the figures since the last one are
written.
"""

import array
import fcntl
import json
import selectors
import signal
import sys
import termios
import time
from collections import deque
from pathlib import Path
from typing import Any

from momservice import __main__ as program
from momservice.bus.reading import Header, Taker
from momservice.bus.serving import Server
from momservice.bus.wire import Bus
from momservice.watching import Watchers

MEASURED = "Ping"


class Clock:
    """Since when what is read from the bus has been readable, at the earliest."""

    def __init__(self) -> None:
        self.floor_s = self._returned_s = time.monotonic()
        self._select = selectors.DefaultSelector.select
        # How many bytes the bus had sent in all by then, for what hasn't been handled yet.
        self.stamps: deque[tuple[int, float]] = deque()
        self.read_bytes = 0

    def select(self, selector: selectors.DefaultSelector, timeout: float | None = None) -> Any:
        """The loop's wait. What is readable after a wait wasn't before; otherwise it may have been since the last look."""
        before = time.monotonic()
        events = self._select(selector, timeout)
        now = time.monotonic()
        self.floor_s = now if now - before > 50e-6 else self._returned_s
        self._returned_s = now
        return events

    def look(self, descriptor: int) -> None:
        """Before something is read."""
        waiting = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
        last = self.stamps[-1] if self.stamps else (self.read_bytes, 0.0)
        if self.read_bytes + waiting[0] > last[0]:
            self.stamps.append((self.read_bytes + waiting[0], max(self.floor_s, last[1])))

    def readable_s(self, position: int) -> float:
        """Since when the byte at this position of the stream has been readable."""
        while len(self.stamps) > 1 and self.stamps[0][0] < position:
            self.stamps.popleft()
        return self.stamps[0][1]


class Figures:
    """Seconds, by name."""

    def __init__(self) -> None:
        self.lists: dict[str, list[float]] = {"answers_s": [], "runs_s": []}

    def write(self, place: Path) -> None:
        """Write and forget them."""
        place.with_suffix(".new").write_text(json.dumps(self.lists), encoding="utf-8")
        place.with_suffix(".new").replace(place)
        for values in self.lists.values():
            values.clear()


def measure(figures: Figures) -> None:
    """Wrap the clock around reading and answering, and note the runs of the policy."""
    clock, began = Clock(), dict[tuple[str, int], float]()
    feed, look, on_call, reply, tell = Bus._read, clock.look, Server.on_call, Server._reply, Watchers.tell
    buses: list[Bus] = []

    def read(self: Bus) -> None:
        if self not in buses:
            buses.append(self)
            whole = self._reader.feed

            def fed(data: bytes) -> None:
                clock.read_bytes += len(data)
                whole(data)

            self._reader.feed = fed  # type: ignore[method-assign]  # that is the measuring
        look(self._stream.fileno())
        feed(self)

    def called(self: Server, header: Header) -> Taker:
        position = clock.read_bytes - len(buses[0]._reader._buffer) + header.body_bytes
        since = clock.readable_s(position)
        if header.member == MEASURED:
            began[header.sender, header.serial] = since
        return on_call(self, header)

    def replied(self: Server, header: Header, *rest: Any) -> None:
        reply(self, header, *rest)
        if since := began.pop((header.sender, header.serial), 0.0):
            figures.lists["answers_s"].append(time.monotonic() - since)

    def told(self: Watchers, what: str, *args: object) -> None:
        if what == "ran":
            figures.lists["runs_s"].append(time.monotonic())
        tell(self, what, *args)

    def select(selector: selectors.DefaultSelector, timeout: float | None = None) -> Any:
        return clock.select(selector, timeout)

    selectors.DefaultSelector.select = select  # type: ignore[method-assign,assignment]
    Bus._read, Server.on_call, Server._reply, Watchers.tell = read, called, replied, told  # type: ignore[method-assign,assignment]


def main() -> int:
    """Be the service."""
    configuration, place = sys.argv[1:]
    figures = Figures()
    measure(figures)
    signal.signal(signal.SIGUSR1, lambda *_: figures.write(Path(place)))
    return program.main(["--config", configuration])


if __name__ == "__main__":
    sys.exit(main())
