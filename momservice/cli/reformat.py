# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy format: policies with the house's spaces and line breaks, without a service."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from momservice.cli.findings import say_findings
from momservice.cli.output import Problem, Usage, one_line, say
from momservice.cli.policy_files import STDIN, PolicyFile, add_files, policy_files, read_policy
from momservice.cli.verbs import Verbs, add_verb

MORE = """\
Comments, the author's line breaks and the meaning stay. Without an option the text is printed. A file that can't be read as a policy \
is left alone, and what is wrong with it told. Exit status: 0 done, 1 a file is wrong, or with --check not formatted."""


def add(actions: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(actions, "format", "indent and space policy files in one style", format_policies, more=MORE)
    add_files(parser)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="only name the files that would change")
    modes.add_argument("--write", action="store_true", help="change the files")


def format_policies(options: argparse.Namespace) -> int:
    """`momctl policy format`."""
    files = policy_files(options.files)
    if options.write and STDIN in files:
        raise Usage("--write goes with files, not with standard input")
    return max([_format(file, options) for file in files])


def _format(file: str, options: argparse.Namespace) -> int:
    from momservice.policy.reader import Source, read  # noqa: PLC0415 - those who ask a service should not wait for the compiler

    policy = read_policy(file)
    faults = read(Source(policy.path, policy.text)).faults
    if faults:
        # Standard output may be taken for the policy.
        say_findings(faults, {policy.path: policy}, _say_error)
        return 1
    return _formatted(file, policy, options)


def _say_error(text: str) -> None:
    say(text, sys.stderr)


def _formatted(file: str, policy: PolicyFile, options: argparse.Namespace) -> int:
    from momservice.policy.format import formatted  # noqa: PLC0415 - those who ask a service should not wait for the compiler

    text = formatted(policy.text)
    if not (options.check or options.write):
        say(text)
        return 0
    if text == policy.text:
        return 0
    say(one_line(f"{policy.path}: {'formatted' if options.write else 'not formatted'}"))
    if options.write:
        _replace(Path(file), text)
    return 1 if options.check else 0


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
