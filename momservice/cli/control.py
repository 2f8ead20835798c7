# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl pause, resume, reload, log-level."""

from __future__ import annotations

import argparse
import re
from typing import Final

from momservice.bus.checks import MAX_SECONDS
from momservice.cli.output import say_done
from momservice.cli.service import add_asking, connected
from momservice.cli.verbs import Verbs, add_verb

UNITS_S: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION: Final = re.compile("".join(f"(?:([0-9]{{1,20}}){unit})?" for unit in UNITS_S), re.ASCII)
# The service also takes the numbers that configurations of old have.
LEVELS: Final = ("debug", "info", "warn", "error", "critical")


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    pause = add_verb(verbs, "pause", "stop deciding; knobs and balloons stay as they are", pause_service, parents=[json_option])
    pause.add_argument("--reason", default="", metavar="TEXT", help="why; `momctl status` shows it, with the end of the pause")
    how_long = "end by itself after so long: 90, 45s, 10m, 1h30m, 2d (default: with `momctl resume`, or the service)"
    pause.add_argument("--for", dest="seconds", type=duration, default=0, metavar="TIME", help=how_long)
    resume = add_verb(verbs, "resume", "end a pause", resume_service, parents=[json_option])
    again = add_verb(verbs, "reload", "read configuration and policy files again", reload_service, parents=[json_option])
    more = "It lasts until the configuration is read again, by `momctl reload` or at the next start."
    level = add_verb(verbs, "log-level", "say how much the service logs", set_level, more=more, parents=[json_option])
    level.add_argument("level", choices=LEVELS, metavar="LEVEL", help=f"one of {', '.join(LEVELS)}")
    for verb in (pause, resume, again, level):
        add_asking(verb)


def duration(text: str) -> int:
    """A time in seconds: a number of them, or numbers with d, h, m and s in this order."""
    found = DURATION.fullmatch(text + "s" if text.isdigit() else text)
    seconds = sum(int(number or 0) * unit for number, unit in zip(found.groups(), UNITS_S.values(), strict=True)) if found else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time like 90, 45s, 10m, 1h30m or 2d")
    if seconds > MAX_SECONDS:
        most = f"at most {MAX_SECONDS // UNITS_S['d']}d; without --for it lasts until `momctl resume`"
        raise argparse.ArgumentTypeError(f"'{text}' is too long: {most}")
    return seconds


def pause_service(options: argparse.Namespace) -> int:
    """`momctl pause`."""
    with connected(options) as client:
        client.pause(options.reason, options.seconds)
    say_done(options)
    return 0


def resume_service(options: argparse.Namespace) -> int:
    """`momctl resume`."""
    with connected(options) as client:
        client.resume()
    say_done(options)
    return 0


def reload_service(options: argparse.Namespace) -> int:
    """`momctl reload`."""
    with connected(options) as client:
        client.reload()
    say_done(options)
    return 0


def set_level(options: argparse.Namespace) -> int:
    """`momctl log-level`."""
    with connected(options) as client:
        client.set_verbosity(options.level)
    say_done(options)
    return 0
