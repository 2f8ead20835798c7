# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl: the command line, and how it ends."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from momservice import __version__
from momservice.bus.connection import CallError
from momservice.cli import explain, parameters, policies, record, show
from momservice.cli.output import Problem, Usage, complain
from momservice.client import ServiceUnavailable
from momservice.errors import InteractiveAuthorizationRequired

FAILED, WRONG_USAGE, NO_SERVICE = 1, 2, 3
EXITS = "Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 no service there."


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    json_option = argparse.ArgumentParser(add_help=False)
    json_option.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    description = "Talk to the Memory Overcommitment Manager."
    parser = argparse.ArgumentParser("momctl", description=description, epilog=EXITS, parents=[json_option])
    parser.add_argument("--version", action="version", version=f"momctl {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    show.add(verbs, json_option)
    policies.add(verbs, json_option)
    parameters.add(verbs, json_option)
    explain.add(verbs, json_option)
    record.add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run momctl; gives the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or file that can't show a character gets another one, not a traceback.
        sys.stdout.reconfigure(errors="replace")
    options = arguments().parse_args(argv, argparse.Namespace(json=False))
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except ServiceUnavailable as error:
        complain(str(error))
        return NO_SERVICE
    except InteractiveAuthorizationRequired as error:
        complain(f"{error}; run momctl as root, or start a polkit agent for this session (pkttyagent)")
        return FAILED
    except Usage as error:
        complain(str(error))
        return WRONG_USAGE
    except (CallError, Problem) as error:
        complain(str(error))
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has gone: python's last flush must not complain of it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        complain(f"internal error, please report it: {type(error).__name__}: {error}")
        return FAILED
