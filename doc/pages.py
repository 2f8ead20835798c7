# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints a page of the manual, made from the tables that the program itself uses: `pages.py [--markdown] NAME`, e.g. `momd.conf.5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

# Run from the build tree by path: the project is not installed yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blocks import Page, markdown, roff
from cases import cases_and_snapshots
from interfaces import interfaces
from language import policy
from names import fields
from programs import configuration, program

from momservice import __main__ as service
from momservice.cli import command as momctl

PAGES: Final[Mapping[str, Callable[[], Page]]] = {
    "momd.conf.5": configuration,
    "mom-policy.5": policy,
    "mom-policy-test.5": cases_and_snapshots,
    "org.ovirt.Mom1.5": interfaces,
    "mom-fields.7": fields,
    "momservice.8": lambda: program(service.arguments(), 8, "momd.conf(5), mom-policy(5), momctl(1)"),
    "momctl.1": lambda: program(momctl.arguments(), 1, "mom-policy(5), mom-policy-test(5), momservice(8), momd.conf(5)"),
}


def main() -> None:
    """Print a page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", action="store_true", help="for a forge, not for man")
    parser.add_argument("name", choices=PAGES)
    options = parser.parse_args()
    sys.stdout.write((markdown if options.markdown else roff)(PAGES[options.name]()))


if __name__ == "__main__":
    main()
