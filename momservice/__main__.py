# SPDX-License-Identifier: GPL-2.0-or-later
"""momservice: entry point; nothing but wiring."""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from momservice import __version__, building, config, parts, store
from momservice.bus import service
from momservice.bus.connection import BusLost, CallError, Connection
from momservice.chosen import Parts
from momservice.engine import Engine
from momservice.errors import Busy
from momservice.explanations import Explainer
from momservice.garbage import Garbage
from momservice.hypervisor.libvirt_source import Hypervisor
from momservice.hypervisor.workers import DeadlineMissed, NoThreadLeft, Workers
from momservice.keeping import Keeper
from momservice.metrics_file import MetricsFile
from momservice.notify import notify
from momservice.options import parsed
from momservice.stopping import stop_asked

log = logging.getLogger("momservice")

BUS_NAME = "org.ovirt.Mom1"
# Where the state is without systemd, which says so itself.
STATE = "/var/lib/mom"
LOAD_DEADLINE_S = 60
LOADING = "an earlier change of the policies is still being checked: try again later"
# Beyond what an explanation begins no further run after.
EXPLAIN_DEADLINE_S = 25
EXPLAINING = "something is being explained, which takes long for many guests and runs: try again later"
# While a thread loads or explains, the event loop gets its turn back after so long, which each of its calls to the system may cost.
SWITCH_S = 0.0005
EXITS = "Exit status: 0 after a stop, 1 when it cannot go on, 2 for a wrong command line or configuration."
# systemd is told to wait for a second; nothing below may take longer.
STOP_DEADLINE_S = 0.8


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    description = "The Memory Overcommitment Manager: shares a host's memory by policy."
    parser = argparse.ArgumentParser("momservice", description=description, epilog=EXITS)
    parser.add_argument("--version", action="version", version=f"momservice {__version__}")
    parser.add_argument("--config", type=Path, default=config.DEFAULT_FILE, metavar="FILE", help="configuration (default: %(default)s)")
    parser.add_argument("--check-config", action="store_true", help="check configuration and policies, say what is wrong, and exit")
    config.add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service. Exit status 0 after a stop, 1 when it can't go on, 2 for a wrong command line or configuration."""
    options = vars(parsed(arguments(), argv))
    file, check = options.pop("config"), options.pop("check_config")
    read = partial(config.load, file, {name: text for name, text in options.items() if text is not None})
    try:
        settings = read()
        if check:
            return check_all(settings)
        parts.schema(settings)
    except config.ConfigError as error:
        return complain(error.problems, 2)
    set_up_log(settings)
    try:
        status = asyncio.run(serve(settings, read))
    except (BusLost, CallError) as error:
        return complain([str(error)], 1)
    leave(status)


def complain(problems: Sequence[str], status: int) -> int:
    """One line for each problem."""
    for problem in problems:
        print(f"momservice: {problem}", file=sys.stderr)  # noqa: T201 - what a command line says
    return status


def check_all(settings: config.Config) -> int:
    """`--check-config`: warnings don't fail it, errors in policies do."""
    complain([f"warning: {warning}" for warning in settings.warnings], 0)
    _, problems = building.build_tolerantly(settings, parts.schema(settings))
    return complain(problems, 2 if problems else 0)


def set_up_log(settings: config.Config) -> None:
    """Log to standard error (the journal), or to the configured file, if it can be written."""
    handler: logging.Handler = logging.StreamHandler()
    problem = ""
    if settings.log and settings.log.exists() and not settings.log.is_file():
        # To open a FIFO would wait for ever.
        problem = f"the log file {settings.log} isn't a regular file; logging to standard error"
    elif settings.log:
        try:
            handler = logging.handlers.RotatingFileHandler(settings.log, maxBytes=settings.max_bytes, backupCount=settings.backup_count)
        except OSError as error:
            problem = f"cannot write the log file {settings.log}: {error.strerror}; logging to standard error"
    stamp = "%(asctime)s " if settings.log and not problem else ""
    logging.basicConfig(level=settings.verbosity, handlers=[handler], format=stamp + "%(levelname)s %(name)s: %(message)s")
    for warning in [*settings.warnings, *([problem] if problem else [])]:
        log.warning("%s", warning)


async def serve(settings: config.Config, read: Callable[[], config.Config]) -> int:
    """Connect, publish, run until a signal or the end of the bus. `read` reads the configuration anew. Gives the exit status."""
    sys.setswitchinterval(SWITCH_S)
    connection = await Connection.open()
    workshop = parts.Workshop(connection)
    # One thread for policies and one for variables, each of which has one write at a time. A write isn't given up: nobody could tell
    # whether the disk has it.
    folder, disk = Path(os.environ.get("STATE_DIRECTORY", STATE)), partial(Workers(2, "state").run, deadline_s=None)
    load = partial(offload, Workers(1, "policy"), LOAD_DEADLINE_S, LOADING)
    policies = store.PolicyStore(parts.schema(settings), load, disk, folder)
    again = partial(configure, read, workshop)
    engine = Engine(settings, workshop.parts(settings), again, policies, Hypervisor(settings.libvirt_uri))
    policies.world, policies.changed, policies.trouble = engine.snapshot, engine.wake, partial(engine.set_reason, "store")
    keeper = Keeper(folder, disk, policies, engine)
    await policies.start(settings)
    await keeper.restore()
    explainer = Explainer(engine.runs, partial(offload, Workers(1, "explain"), EXPLAIN_DEADLINE_S, EXPLAINING))
    gate = service.publish(connection, engine, policies, explainer, workshop.balloon_works)
    metrics = MetricsFile(engine, lambda: policies.generation, lambda: gate.available)
    engine.watchers.all.append(metrics)
    engine.watchers.all.append(Garbage())
    stop = stop_asked()
    reload_when_asked(engine)
    await connection.own(BUS_NAME)
    notify("READY=1")
    log.info("momservice %s runs", __version__)
    # Nothing is kept earlier: a second service that can't own the name must leave the state of the first alone.
    return await until_the_end(stop, connection, engine, keeper, metrics)


def configure(read: Callable[[], config.Config], workshop: parts.Workshop) -> tuple[config.Config, Parts]:
    """The configuration as it is now, and what it names. Raises ConfigError."""
    settings = read()
    return settings, workshop.parts(settings)


def reload_when_asked(engine: Engine) -> None:
    """SIGHUP reloads."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        task = loop.create_task(reload(engine))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, hang_up)


async def until_the_end(stop: asyncio.Event, connection: Connection, engine: Engine, keeper: Keeper, metrics: MetricsFile) -> int:
    """Run the engine. 0 when it was asked to stop, 1 when the bus went or the engine ended by itself."""
    loop = asyncio.get_running_loop()
    runs, _keeps = loop.create_task(engine.run(lambda: notify("WATCHDOG=1"))), loop.create_task(keeper.run())
    stopped, lost = loop.create_task(stop.wait()), loop.create_task(connection.lost())
    done, _ = await asyncio.wait({runs, stopped, lost}, return_when=asyncio.FIRST_COMPLETED)
    if stopped not in done:
        log.error("the system bus is gone" if lost in done else "the engine has ended: %s", *([] if lost in done else [runs.exception()]))
        return 1
    notify("STOPPING=1")
    runs.cancel()
    last = (engine.stop(), keeper.keep(), metrics.end())
    await asyncio.wait({loop.create_task(work) for work in last}, timeout=STOP_DEADLINE_S)
    return 0


async def reload(engine: Engine) -> None:
    """SIGHUP: as the method Reload; the log tells what came of it."""
    try:
        await engine.reload()
    except CallError as error:
        log.error("not reloaded: %s", error)


async def offload(workers: Workers, deadline_s: float, busy: str, function: Any) -> Any:
    """Run something outside the loop. Raises Busy with that text."""
    try:
        return await workers.run(function, deadline_s)
    except (NoThreadLeft, DeadlineMissed):
        raise Busy(busy) from None


def leave(status: int) -> NoReturn:
    """End without waiting for anything: a thread that hangs in libvirt must not hold up the stop."""
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
