# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl top: host, KSM and guests, live."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Final

from momservice.bus.connection import CallError
from momservice.cli.frames import ASCII, BLOCKS, SORTS, Format, History, View, frame
from momservice.cli.output import finite, say
from momservice.cli.screen import Screen, can_steer, plain
from momservice.cli.show import needs_reasons
from momservice.cli.until import finish, first_of, on_the_bus
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import Client, ServiceUnavailable

MORE = """\
Asks at the interval of the service's policy runs; the small curves show what it has seen itself, the newest at the right: free \
memory, what KSM saves, and balloons as parts of their maximum. q or Ctrl-C ends it. Without a terminal, and on one that knows no \
escape codes, it prints a frame at each interval, with an empty line after it. NO_COLOR in the environment switches colors off. With \
--json: an object a line."""
DEADLINE_S: Final = 5.0
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.5, 86400.0


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    top = add_verb(verbs, "top", "watch host, KSM and guests", show_top, more=MORE, parents=[json_option])
    top.add_argument("--once", action="store_true", help="print one frame and end")
    what = "ask so often, in seconds (default: the interval of policy runs)"
    top.add_argument("--interval", type=_interval, metavar="N", help=what)
    top.add_argument("--sort", choices=SORTS, default="name", help="which guests come first; free: those with the smallest part of it free")


def _interval(text: str) -> float:
    with suppress(ValueError):
        if MIN_INTERVAL_S <= float(text) <= MAX_INTERVAL_S:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}")


def show_top(options: argparse.Namespace) -> int:
    """`momctl top`."""
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with on_the_bus(DEADLINE_S) as (connection, client, end):
        await first_of(end, connection, _show(client, options, end))


async def _show(client: Client, options: argparse.Namespace, end: asyncio.Future[None]) -> None:
    # Before the terminal is taken: what goes wrong now is told as in other verbs.
    top = Top(client, await _poll(client), options)
    if options.once or options.json or not can_steer():
        await top.print_frames(once=options.once)
        return
    with Screen() as screen:
        await top.fill(screen, end)


async def _poll(client: Client) -> View:
    status, statistics, guests = await client.status(), await client.statistics(), await client.active_guests()
    states = await client.guest_states() if needs_reasons(statistics.guests.values()) else {}
    return View(time.time(), status, statistics, dict(guests), states)


def _ticks() -> str:
    """Blocks where they can be shown."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


class Top:
    """Asks, remembers and shows."""

    def __init__(self, client: Client, view: View, options: argparse.Namespace) -> None:
        self._client, self._view, self._options = client, view, options
        self._history = History()
        self._history.add(view)
        self._ticks = _ticks()
        # Set when the frame is to be drawn anew before its time.
        self._wake = asyncio.Event()
        self._stops = False

    async def print_frames(self, *, once: bool) -> None:
        """Print frames, one below the other."""
        while True:
            self._print()
            if once:
                return
            await asyncio.sleep(self._interval_s)
            await self._next()

    async def fill(self, screen: Screen, end: asyncio.Future[None]) -> None:
        """Keep a terminal filled until the end."""
        loop = asyncio.get_running_loop()
        # Handlers only say what has happened: drawing may fail, and what fails there would be told by asyncio, with a traceback.
        loop.add_signal_handler(signal.SIGWINCH, self._wake.set)
        loop.add_signal_handler(signal.SIGTSTP, self._ask_to_stop)
        if sys.stdin is not None and sys.stdin.isatty():
            loop.add_reader(sys.stdin.fileno(), _read_keys, end)
        due_s = loop.time() + self._interval_s
        while True:
            if self._stops:
                self._stops = False
                _stop(screen)
            self._draw(screen)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(due_s - loop.time(), 0))
            self._wake.clear()
            if loop.time() >= due_s:
                await self._next()
                due_s = loop.time() + self._interval_s

    def _ask_to_stop(self) -> None:
        self._stops = True
        self._wake.set()

    @property
    def _interval_s(self) -> float:
        return float(self._options.interval or max(self._view.status.interval_ms / 1000, MIN_INTERVAL_S))

    async def _next(self) -> None:
        """Ask again; a service that is away is shown as such, and asked again in time."""
        try:
            self._view = await _poll(self._client)
        except (ServiceUnavailable, CallError) as error:
            self._view = replace(self._view, time_s=time.time(), problem=str(error))
        self._history.add(self._view)

    def _print(self) -> None:
        if self._options.json:
            say(json.dumps(finite(self._plain())))
        else:
            layout = Format(shutil.get_terminal_size().columns, None, self._ticks, self._options.sort)
            lines = [plain(line) for line in frame(self._view, self._history, layout)]
            say("\n".join([*lines, "" if self._options.once else "\n"]))
        sys.stdout.flush()

    def _plain(self) -> dict[str, object]:
        view = self._view
        if view.problem:
            return {"time_us": int(view.time_s * 1e6), "problem": view.problem}
        guests = {uuid: {"name": view.names.get(uuid, ""), "statistics": sample} for uuid, sample in view.statistics.guests.items()}
        return {"time_us": int(view.time_s * 1e6), "status": asdict(view.status), "host": view.statistics.host, "guests": guests}

    def _draw(self, screen: Screen) -> None:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        screen.draw(frame(self._view, self._history, Format(columns or 80, rows or 24, self._ticks, self._options.sort)))


def _stop(screen: Screen) -> None:
    """Ctrl-Z: the shell gets its terminal as it was."""
    screen.leave()
    os.kill(os.getpid(), signal.SIGSTOP)
    screen.enter()


def _read_keys(end: asyncio.Future[None]) -> None:
    try:
        keys = os.read(sys.stdin.fileno(), 64)
    except OSError:
        keys = b""
    # Nothing: whoever held the terminal's other end has gone.
    if not keys or b"q" in keys or b"Q" in keys:
        finish(end)
