# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy check: what is wrong with policies, without a service."""

from __future__ import annotations

import argparse

from momservice.cli.findings import plain, say_findings, say_for_editors
from momservice.cli.output import Usage, count, say, say_json
from momservice.cli.policy_files import add_config, add_files, names_in_use, read_policies, texts
from momservice.cli.verbs import Verbs, add_verb

MORE = """\
The files are loaded as one set, as the service would. Exit status: 0 no errors, 1 errors; warnings count with --warnings-are-errors."""


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    check = add_verb(actions, "check", "check policy files, without a service", check_policies, more=MORE, parents=[json_option])
    add_files(check)
    add_config(check)
    check.add_argument("--editor", action="store_true", help="print a line for each finding: file:line:column: severity: text")
    check.add_argument("--warnings-are-errors", action="store_true", help="exit with 1 also for warnings")


def check_policies(options: argparse.Namespace) -> int:
    """`momctl policy check`."""
    from momservice.policy import load  # noqa: PLC0415 - those who ask a service should not wait for the compiler

    if options.json and options.editor:
        raise Usage("--json and --editor don't go together")
    policies = read_policies(options.files)
    found = load(texts(policies), names_in_use(options.config)).diagnostics
    errors = sum(finding.severity == "error" for finding in found)
    if options.json:
        say_json({"diagnostics": [plain(finding, policies) for finding in found]})
    elif options.editor:
        say_for_editors(found, policies)
    else:
        say_findings(found, policies)
        say(f"{', '.join(sorted(policies))}: {count(errors, 'error')}, {count(len(found) - errors, 'warning')}")
    return 1 if errors or (found and options.warnings_are_errors) else 0
