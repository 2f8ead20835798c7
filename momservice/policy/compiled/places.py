# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in the policy something happened: from frames and numbered sites of generated code to places."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final

from momservice.decisions import CALLS, Call, Place
from momservice.policy.compiled.shape import GENERATED, Abandoned, Compiled, Site

# What takes a place gets this one where a site tells it.
NOWHERE: Final = Place("", 0, 0)


def site_of(compiled: Compiled, trace: TracebackType | None, calls: Sequence[tuple[str, int]]) -> int | Site:
    """Where in the policy an error came from: the innermost frame of generated code tells. `calls`: those under way."""
    innermost = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename is GENERATED:
            innermost = trace
        trace = trace.tb_next
    if innermost is None:
        raise Abandoned("an error from nowhere")
    # Line numbers are looked for in a table from its start: once for each instruction is enough.
    key = (innermost.tb_frame.f_code, innermost.tb_lasti)
    line = compiled.lines.get(key)
    if line is None:
        line = compiled.lines[key] = innermost.tb_lineno - 1
    if calls:
        return compiled.sites[line][0], tuple(calls)
    return line


def whereabouts(compiled: Compiled, site: int | Site) -> tuple[Place, Sequence[Call]]:
    """The place of a site, and the innermost of the calls that led there."""
    known = compiled.whereabouts.get(site)
    if known is None:
        start, calls = compiled.sites[site] if isinstance(site, int) else site
        place = compiled.place
        known = place(start), tuple(Call(name, place(where)) for name, where in calls[-CALLS:])
        if isinstance(site, int):
            compiled.whereabouts[site] = known
    return known
