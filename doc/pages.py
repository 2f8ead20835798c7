# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints a man page made from the tables that the program itself uses: `pages.py NAME`, e.g. `pages.py momd.conf.5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path

# Run from the build tree by path: the project is not installed yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from momservice import __main__ as service
from momservice import __version__, config, parts
from momservice.cli import command as momctl
from momservice.collectors import planned, registry
from momservice.fields import Field


def roff(text: str) -> str:
    """Text as roff takes it: no line is taken for a request, no dash for a hyphen."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in safe.splitlines())


def page(name: str, section: int, what: str, body: Iterable[str]) -> str:
    """A whole page: title, name, and the given lines of roff."""
    head = [f'.TH {name.upper()} {section} "" "mom {__version__}"', ".SH NAME", f"{roff(name)} \\- {roff(what)}"]
    return "\n".join([*head, *body]) + "\n"


def item(term: str, text: str) -> list[str]:
    """One entry of a list: bold term, then text."""
    return [".TP", f".B {roff(term)}", roff(text)]


def momd_conf() -> str:
    """momd.conf(5), from the table of settings."""
    intro = (
        "Read in this order, later ones win: /etc/momd.conf, /etc/momd.conf.d/*.conf in name order, the command line of momservice. "
        'Sections in brackets, then lines "key: value" or "key = value"; \'#\' begins a comment line. An empty value means the default. '
        "momservice --check-config names every mistake with file and line."
    )

    def body() -> Iterator[str]:
        yield from [".SH DESCRIPTION", roff(intro)]
        for section, rows in groupby((row for _, row in config.settings()), key=lambda row: row.section):
            yield f'.SH "[{roff(section)}]"'
            for row in rows:
                yield from item(row.key, f"{row.doc} (default: {row.default or 'empty'})")
        yield from [".SH SEE ALSO", "momservice(8), mom\\-fields(7), momctl(1)"]

    return page("momd.conf", 5, "configuration of the Memory Overcommitment Manager", body())


def mom_fields() -> str:
    """mom-fields(7), from the tables of collectors and controllers."""

    def fields(title: str, collectors: Mapping[str, Iterable[Field]]) -> Iterator[str]:
        yield f".SH {title}"
        for name, table in collectors.items():
            yield f".SS {roff(name)}"
            yield from chain.from_iterable(item(f"{f.name} ({', '.join(filter(None, (f.type, f.unit)))})", f.doc) for f in table)

    def body() -> Iterator[str]:
        yield from [".SH DESCRIPTION", roff("What policies can read and set, by collector and controller. A field without a value is nil.")]
        yield from fields("HOST FIELDS", {name: part.FIELDS for name, part in registry.HOST.items()})
        yield from fields("GUEST FIELDS", {name: part.FIELDS for name, part in registry.GUEST.items()})
        yield from fields("FIELDS OF COLLECTORS THAT ARE NOT BUILT YET", planned.PLANNED)
        yield ".SH CONTROLS"
        for control in parts.CONTROLS:
            bounds = f"{control.minimum} to {control.maximum}"
            yield from item(f"{control.entity} {control.name} ({', '.join(filter(None, (control.unit, bounds)))})", control.doc)
        yield from [".SH SEE ALSO", "momd.conf(5), momservice(8)"]

    return page("mom-fields", 7, "fields and controls of policies of the Memory Overcommitment Manager", body())


def command(parser: argparse.ArgumentParser, section: int, see: str) -> str:
    """A page for a program, from its command line."""

    def body() -> Iterator[str]:
        yield from [".SH SYNOPSIS", roff(usage(parser))]
        yield from [".SH DESCRIPTION", roff(parser.description or "")]
        yield from options(parser)
        for name, verb in verbs(parser):
            yield from [f'.SH "{roff(name.upper())}"', roff(usage(verb)), ".PP", roff(verb.description or "")]
            yield from options(verb)
        yield from [".SH EXIT STATUS", roff((parser.epilog or "").removeprefix("Exit status: "))]
        yield from [".SH SEE ALSO", see]

    return page(parser.prog, section, (parser.description or "").split(":")[0].rstrip(".").lower(), body())


def usage(parser: argparse.ArgumentParser) -> str:
    """The synopsis."""
    return parser.format_usage().removeprefix("usage: ")


def verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All verbs below a parser with their full names; those that only group others are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                below = list(verbs(verb))
                yield from below or [(verb.prog, verb)]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options and arguments of one parser."""
    yield ".SS Options"
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            yield from item(formatter._format_action_invocation(action), formatter._expand_help(action) if action.help else "")


PAGES: Mapping[str, Callable[[], str]] = {
    "momd.conf.5": momd_conf,
    "mom-fields.7": mom_fields,
    "momservice.8": lambda: command(service.arguments(), 8, "momd.conf(5), momctl(1)"),
    "momctl.1": lambda: command(momctl.arguments(), 1, "momservice(8), momd.conf(5)"),
}


if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
