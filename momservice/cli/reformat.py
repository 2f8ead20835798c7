# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy format: policies with the house's spaces and line breaks, without a service."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from momservice.cli.findings import plain, say_findings
from momservice.cli.output import Problem, Usage, one_line, say, say_json
from momservice.cli.policy_files import STDIN, add_files, policy_files, read_policy
from momservice.cli.verbs import Verbs, add_verb

MORE = """\
Comments, the author's line breaks and the meaning stay. Without an option the text is printed. A file that can't be read as a policy \
is left alone, and what is wrong with it told. Exit status: 0 done, 1 a file is wrong, or with --check not formatted."""


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "indent and space policy files in one style"
    parser = add_verb(actions, "format", what, format_policies, more=MORE, parents=[json_option])
    add_files(parser)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="only name the files that would change")
    modes.add_argument("--write", action="store_true", help="change the files")


def format_policies(options: argparse.Namespace) -> int:
    """`momctl policy format`."""
    files = policy_files(options.files)
    if options.write and STDIN in files:
        raise Usage("--write goes with files, not with standard input")
    outcomes = [_format(file, options) for file in files]
    if options.json:
        say_json({"files": [asdict(outcome) for outcome in outcomes]})
    return int(any(outcome.diagnostics or (options.check and outcome.changes) for outcome in outcomes))


@dataclass(frozen=True)
class Outcome:
    """Of one file. `text`: formatted, None if it can't be; `changes`: whether that is another; `diagnostics`: why it can't be."""

    file: str
    text: str | None
    changes: bool = False
    diagnostics: Sequence[Mapping[str, object]] = ()


def _format(file: str, options: argparse.Namespace) -> Outcome:
    from momservice.policy.format import formatted  # noqa: PLC0415 - those who ask a service should not wait for the compiler
    from momservice.policy.reader import Source, read  # noqa: PLC0415 - as above

    policy = read_policy(file)
    if faults := read(Source(policy.path, policy.text)).faults:
        policies = {policy.path: policy}
        if not options.json:
            # Standard output may be taken for the policy.
            say_findings(faults, policies, _say_error)
        return Outcome(policy.path, None, diagnostics=[plain(fault, policies) for fault in faults])
    text = formatted(policy.text)
    outcome = Outcome(policy.path, text, text != policy.text)
    if options.write and outcome.changes:
        _replace(Path(file), text)
    if not options.json:
        _say(outcome, options)
    return outcome


def _say(outcome: Outcome, options: argparse.Namespace) -> None:
    if not (options.check or options.write):
        say(str(outcome.text))
    elif outcome.changes:
        say(one_line(f"{outcome.file}: {'formatted' if options.write else 'not formatted'}"))


def _say_error(text: str) -> None:
    say(text, sys.stderr)


def _replace(file: Path, text: str) -> None:
    """Puts a text in a file's place, whole or not at all, with the file's owner and mode."""
    try:
        # A link stays one.
        target = file.resolve(strict=True)
        descriptor, new = tempfile.mkstemp(dir=target.parent, prefix=".momctl-")
        try:
            _write(descriptor, text, target.stat())
            Path(new).replace(target)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}") from error


def _write(descriptor: int, text: str, like: os.stat_result) -> None:
    with os.fdopen(descriptor, "wb") as new:
        new.write(text.encode())
        if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, like.st_mode & 0o7777)
        new.flush()
        os.fsync(descriptor)
