# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings in policies, as momctl prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from momservice.cli.output import one_line, say
from momservice.cli.policy_files import PolicyFile
from momservice.decisions import Diagnostic
from momservice.excerpts import excerpt


def plain(found: Diagnostic, policies: Mapping[str, PolicyFile]) -> dict[str, object]:
    """A finding for JSON."""
    where = {"file": policies[found.place.fragment].path, **asdict(found.place)}
    return {"severity": found.severity, "code": found.code, **where, "message": found.message, "hint": found.hint}


def say_findings(findings: Sequence[Diagnostic], policies: Mapping[str, PolicyFile], out: Callable[[str], None] = say) -> None:
    """Each finding with its line and a caret."""
    for found in findings:
        out(f"{found.severity}: {found}\n{excerpt(found, policies[found.place.fragment].text)}")


def say_for_editors(findings: Sequence[Diagnostic], policies: Mapping[str, PolicyFile]) -> None:
    """A line for each finding that editors know to jump to: `file:line:column: severity: text`."""
    for found in findings:
        hint = f" ({found.hint})" if found.hint else ""
        where = f"{policies[found.place.fragment].path}:{found.place.line}:{found.place.column}"
        say(one_line(f"{where}: {found.severity}: {found.message}{hint}"))
