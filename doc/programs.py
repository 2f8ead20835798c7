# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of programs, from their command lines, and of the configuration, from the table of settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import groupby

from blocks import Block, Entry, Page, Part, Section, Text
from surroundings import environment, files

from momservice import config

_CONFIGURATION = (
    "Read in this order, later ones win: /etc/momd.conf, /etc/momd.conf.d/*.conf in name order, the command line of momservice. "
    "Sections in brackets, then lines `key: value` or `key = value`; '#' begins a comment line. An empty value means the default. "
    "`momservice --check-config` names every mistake with file and line."
)


def configuration() -> Page:
    """momd.conf(5)."""

    def blocks() -> Iterator[Block]:
        yield from (Section("Description"), Text(_CONFIGURATION), Section("Settings"))
        for section, rows in groupby((row for _, row in config.settings()), key=lambda row: row.section):
            yield Part(f"[{section}]")
            yield from (Entry(row.key, f"{row.doc} (default: {row.default or 'empty'})") for row in rows)
        yield from (Section("See also"), Text("momservice(8), mom-fields(7), momctl(1)"))

    return Page("momd.conf", 5, "configuration of the Memory Overcommitment Manager", blocks())


def program(parser: argparse.ArgumentParser, section: int, see: str) -> Page:
    """A program's page."""

    def blocks() -> Iterator[Block]:
        yield from (Section("Synopsis"), Text(_usage(parser)))
        yield from (Section("Description"), Text(parser.description or ""))
        yield from _options(parser)
        for name, verb in _verbs(parser):
            yield from (Section(name), Text(_usage(verb)), Text(verb.description or ""))
            yield from _options(verb)
            yield from [Text(verb.epilog)] if verb.epilog else ()
        yield from (Section("Exit status"), Text((parser.epilog or "").removeprefix("Exit status: ")))
        yield from (*environment(parser.prog), *files(parser.prog))
        yield from (Section("See also"), Text(see))

    about = (parser.description or "").split(":")[0].rstrip(".")
    return Page(parser.prog, section, about[:1].lower() + about[1:], blocks())


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All verbs below a parser with their full names; those that only group others are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                below = list(_verbs(verb))
                yield from below or [(verb.prog, verb)]


def _options(parser: argparse.ArgumentParser) -> Iterator[Block]:
    yield Part("Options")
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            yield Entry(formatter._format_action_invocation(action), formatter._expand_help(action) if action.help else "")
