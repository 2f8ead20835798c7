# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy test: cases of policies, without a service."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from momservice.cli.output import Problem, one_line, say, say_json
from momservice.cli.policy_files import names_in_use
from momservice.cli.verbs import Verbs, add_verb

if TYPE_CHECKING:
    from momservice.policy.cases import CaseResult

MORE = """\
A case says what policies decide in a world. Prints what differs from that, and how many cases passed. \
Exit status: 0 all passed, 1 some failed, or a file is not one of cases."""


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    test = add_verb(actions, "test", "run cases of policies, without a service", test_policies, more=MORE, parents=[json_option])
    test.add_argument("files", nargs="+", type=Path, metavar="CASES.json", help="a file of cases")
    only = "only cases whose name matches, as file names do in a shell: 'balloon-*'; may be given several times"
    test.add_argument("--only", action="append", default=[], metavar="PATTERN", help=only)


def test_policies(options: argparse.Namespace) -> int:
    """`momctl policy test`."""
    from momservice.policy.cases import run_file  # noqa: PLC0415 - those who ask a service should not wait for the compiler

    known = names_in_use(None)
    try:
        results = [(file, result) for file in options.files for result in run_file(file, known, patterns=options.only)]
    except ValueError as error:
        raise Problem(str(error)) from error
    if options.only and not results:
        raise Problem(f"no case has a name like {' or '.join(options.only)}")
    failed = sum(not result.passed for _, result in results)
    if options.json:
        say_json({"passed": len(results) - failed, "failed": failed, "cases": [_plain(file, result) for file, result in results]})
    else:
        _say(results)
        say(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _plain(file: Path, result: CaseResult) -> dict[str, object]:
    details = [difference._asdict() for difference in result.details]
    return {"file": str(file), "name": result.name, "passed": result.passed, "differences": result.differences, "details": details}


def _say(results: Sequence[tuple[Path, CaseResult]]) -> None:
    for file, result in results:
        if not result.passed:
            say(one_line(f"{file}: {result.name}:"))
        for difference in result.details:
            what, got, expected = map(one_line, difference)
            say(f"    {what}\n        got       {got}\n        expected  {expected}")
