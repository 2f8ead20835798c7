# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl explain: why a guest or the host got what it got."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Final

from momservice.bus.names import MAX_RUNS
from momservice.cli.output import count, local_time, one_line, say, say_json
from momservice.cli.service import add_asking, connected, guest_uuid
from momservice.cli.values import plain_calls, readable, written
from momservice.cli.verbs import Verbs, add_verb
from momservice.explained import Explanation
from momservice.snapshot import HOST
from momservice.strict_json import Json

MORE = """\
Shows what the last runs of the policies wanted, what became of it and why, the rule and the line that it came from, and the inputs that \
were read on the way. Runs are evaluated once more for that, which takes long for thousands of guests."""
# What is said where there is no control to tell of.
_OTHERS: Final = {
    "ended": "the run went beyond its budget of steps: none of its controls was applied",
    "nothing": "nothing was wanted",
    "absent": "the guest wasn't there",
    "skipped": "not explained: no time was left; ask for fewer runs",
}


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "why a guest or the host got what it got"
    parser = add_verb(verbs, "explain", what, explain, more=MORE, parents=[json_option])
    parser.add_argument("entity", metavar="GUEST", help=f'a guest (name or UUID), or "{HOST}"')
    runs = f"how many of the last runs, 1 to {MAX_RUNS} (default: 1)"
    parser.add_argument("--runs", type=int, choices=range(1, MAX_RUNS + 1), default=1, metavar="N", help=runs)
    add_asking(parser)


def explain(options: argparse.Namespace) -> int:
    """`momctl explain`."""
    with connected(options) as client:
        entity = HOST if options.entity == HOST else guest_uuid(client, options.entity).lower()
        rows = client.explain(entity, options.runs)
        names = dict(client.active_guests())
    if options.json:
        say_json([_plain(row) for row in rows])
    elif not rows:
        say("no policy has run yet")
    for run, of_run in groupby(rows if not options.json else (), key=lambda row: row.run):
        told = list(of_run)
        say(f"run {run}, {local_time(told[0].time_us)}, generation {told[0].generation}")
        for row in told:
            say("\n".join(map(one_line_kept, _lines(row, names))))
    return 0


def one_line_kept(text: str) -> str:
    """One line, with the space that it begins with."""
    return " " * (len(text) - len(text.lstrip(" "))) + one_line(text)


# --- for programs ------------------------------------------------------------------------------------------------------------------------


def _plain(row: Explanation) -> dict[str, Json]:
    return {
        **{key: value for key, value in asdict(row).items() if key != "line"},
        "text": row.line,
        "rule": row.rule,
        "wanted": written(row.wanted),
        "place": None if row.place is None else asdict(row.place),
        "calls": plain_calls(row.calls),
        "reads": [{**asdict(read), "value": written(read.value)} for read in row.reads],
    }


# --- for people --------------------------------------------------------------------------------------------------------------------------


def _lines(row: Explanation, names: Mapping[str, str]) -> Iterator[str]:
    if row.kind == "control":
        yield f"    {row.item + '.' if row.item else ''}{row.control}: {_outcome(row)}"
        yield from _where(row)
        for read in row.reads:
            whose = read.entity if read.entity == HOST else names.get(read.entity, read.entity)
            yield f"        read {read.kind} {read.name} of {whose}: {readable(read.value)}"
        if row.reads_left_out:
            yield f"        and {count(row.reads_left_out, 'more input')}"
    elif row.kind in ("dropped", "failed"):
        what = "the guest was dropped from the run" if row.kind == "dropped" else "a form failed and was undone"
        yield f"    {what}: {row.code}: {row.message}"
        yield from _where(row)
    elif row.kind == "more":
        yield f"    and {row.more} more"
    else:
        yield f"    {_OTHERS.get(row.kind, row.kind)}"


def _outcome(row: Explanation) -> str:
    done = f"{row.status} as {row.applied}" if row.applied is not None and row.applied != row.wanted else row.status
    return f"wanted {readable(row.wanted)}, {done if row.status != 'none' else 'nothing done'}{f': {row.reason}' if row.reason else ''}"


def _where(row: Explanation) -> Sequence[str]:
    rule = f"by {row.rule}, " if row.rule else "by "
    calls = [f"        {call.function} was called at {call.place}" for call in reversed(row.calls)]
    return [f"        {rule}{row.place}: {row.line.strip()}", *calls]
