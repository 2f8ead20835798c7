# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl: the command line, and how it ends."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence

from momservice import __version__
from momservice.bus.connection import CallError
from momservice.cli import control, explain, ksm, metrics, monitor, parameters, policies, record, show, top
from momservice.cli.output import Problem, Usage, complain, hold_complaints, let_go, say
from momservice.cli.service import add_asking
from momservice.client import ServiceUnavailable
from momservice.errors import AccessDenied, InteractiveAuthorizationRequired
from momservice.options import UNWRITABLE, drop

FAILED, WRONG_USAGE, NO_SERVICE, NOT_ALLOWED, INTERRUPTED = 1, 2, 3, 4, 130
EXITS = (
    "Exit status: 0 done, 1 failed, refused, or the output can't be written, 2 wrong usage, 3 no service there, 4 not allowed. "
    "Verbs that go on until they are ended, top, monitor and record, end with 0 then; others that are interrupted end as the "
    "signal ends them."
)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    json_option = argparse.ArgumentParser(add_help=False)
    json_option.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    description = "Talk to the Memory Overcommitment Manager."
    parser = argparse.ArgumentParser("momctl", description=description, epilog=EXITS, parents=[json_option])
    add_asking(parser)
    parser.add_argument("--version", action="version", version=f"momctl {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for part in (show, top, ksm, policies, parameters, explain, control, monitor, metrics, record):
        part.add(verbs, json_option)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run momctl; gives the exit status."""
    hold_complaints()
    status = _guarded(argv)
    # Whatever isn't taken even now, the exit status has told.
    let_go()
    return status


def _guarded(argv: Sequence[str] | None) -> int:
    """Run momctl and tell how it ends."""
    if sys.stdout is None:
        complain("standard output is closed")
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or file that can't show a character gets another one, not a traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(argv)
        # What fails to be written must fail here: Python's own last flush would complain in its own words.
        sys.stdout.flush()
        return status
    except ServiceUnavailable as error:
        complain(str(error))
        return NO_SERVICE
    except InteractiveAuthorizationRequired as error:
        complain(f"{error}; run momctl as root, or at a terminal, where a password can be asked for")
        return NOT_ALLOWED
    except AccessDenied as error:
        complain(str(error))
        return NOT_ALLOWED
    except Usage as error:
        complain(str(error))
        return WRONG_USAGE
    except Problem as error:
        complain(str(error))
        say(error.more, sys.stderr)
        return FAILED
    except CallError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        # What had to be put in order is; the shell is to see what has ended it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone.
        drop(sys.stdout)
        return FAILED
    except OSError as error:
        # Files that can't be read are problems of their own; this is a full disk.
        complain(f"{UNWRITABLE}: {error.strerror or error}")
        drop(sys.stdout)
        return FAILED
    except Exception as error:
        complain(f"internal error, please report it: {type(error).__name__}: {error}")
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = arguments().parse_args(argv, argparse.Namespace(json=False))
    except SystemExit as end:
        # Help, the version or a wrong command line is told.
        return int(end.code or 0)
    return int(options.run(options))
