# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy: show, load, remove; and off line, without a service: check and test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from momservice import config
from momservice.bus.arguments import checked_name
from momservice.bus.names import MAIN_POLICY
from momservice.cli.output import Problem, say, say_json
from momservice.cli.service import connected
from momservice.errors import InvalidArgs
from momservice.fields import Schema
from momservice.policy import TEXT_BYTES, Diagnostic, excerpt, load
from momservice.policy.cases import CaseResult, run_file

NAMES = f"""\
A policy is named like its file without ".policy"; standard input (-) is {MAIN_POLICY} unless --name says otherwise. Policies run in the
order of their names. Those that aren't named here stay, unless --replace is given."""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser], json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    policy = verbs.add_parser("policy", help="show, load, check and test policies")
    actions = policy.add_subparsers(metavar="ACTION", required=True)
    get = actions.add_parser("get", parents=[json_option], help="print one policy, or all")
    get.add_argument("name", nargs="?", metavar="NAME")
    get.set_defaults(run=get_policies)
    put = actions.add_parser("set", help="load policies, all or none", epilog=NAMES)
    put.add_argument("files", nargs="+", metavar="FILE")
    put.add_argument("--name", type=_policy_name, help="the policy's name; only with a single FILE")
    put.add_argument("--replace", action="store_true", help="remove all other policies, or hide them if they come from files")
    put.set_defaults(run=set_policies)
    remove = actions.add_parser("remove", help="remove a policy, or hide it if it comes from a file")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=remove_policy)
    actions.add_parser("reset", help="drop all that clients loaded and hid").set_defaults(run=reset_policies)
    check = actions.add_parser("check", parents=[json_option], help="check policy files as one set, without a service")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument(
        "--config", type=Path, metavar="FILE", help=f"whose collectors are in use (default: {config.DEFAULT_FILE}, if it is there)"
    )
    check.set_defaults(run=check_policies)
    test = actions.add_parser("test", parents=[json_option], help="run cases of policies, without a service")
    test.add_argument("files", nargs="+", type=Path, metavar="CASES.json")
    test.set_defaults(run=test_policies)


def _policy_name(text: str) -> str:
    try:
        return checked_name(text)
    except InvalidArgs as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _read(files: Sequence[str], name: str | None = None) -> dict[str, str]:
    """The texts of policy files, by the policies' names."""
    if name and len(files) > 1:
        raise Problem("--name goes with a single FILE")
    texts: dict[str, str] = {}
    for file in files:
        called = name or (MAIN_POLICY if file == "-" else Path(file).name.removesuffix(".policy"))
        try:
            checked_name(called)
        except InvalidArgs as error:
            raise Problem(f"{file}: {error}; rename the file or use --name") from None
        if called in texts:
            raise Problem(f"{file}: another file gives a policy named {called}")
        texts[called] = _read_text(file)
    return texts


def _read_text(file: str) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
            content = stream.read(TEXT_BYTES + 1)
        if len(content) > TEXT_BYTES:
            raise Problem(f"{file}: over {TEXT_BYTES // 1024} KiB")
        return content.decode("utf-8")
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Problem(f"{file}: not UTF-8 (byte {error.start})") from error


def get_policies(options: argparse.Namespace) -> int:
    """`momctl policy get`."""
    with connected() as client:
        policies = client.policies()
    if options.name is not None:
        if options.name not in policies:
            raise Problem(f"there is no policy named {options.name}; there are: {', '.join(sorted(policies)) or 'none'}")
        policies = {options.name: policies[options.name]}
    if options.json:
        say_json(policies)
    elif options.name is not None:
        say(policies[options.name])
    else:
        for name, text in sorted(policies.items()):
            say(f"# ---- {name}\n{text}")
    return 0


def set_policies(options: argparse.Namespace) -> int:
    """`momctl policy set`."""
    texts = _read(options.files, options.name)
    with connected() as client:
        generation = client.set_policies(texts, replace=options.replace)
    say(f"generation {generation}: loaded {', '.join(sorted(texts))}")
    return 0


def remove_policy(options: argparse.Namespace) -> int:
    """`momctl policy remove`."""
    with connected() as client:
        say(f"generation {client.remove_policy(options.name)}")
    return 0


def reset_policies(_options: argparse.Namespace) -> int:
    """`momctl policy reset`."""
    with connected() as client:
        say(f"generation {client.reset_policies()}")
    return 0


def _schema(file: Path | None) -> Schema:
    """The names that policies may use under a configuration."""
    # Only checks and tests need to know of every collector and controller.
    from momservice.parts import schema  # noqa: PLC0415 - those who ask a service should not wait for it

    default = config.DEFAULT_FILE if config.DEFAULT_FILE.exists() else None
    try:
        used = file or default
        return schema(config.load(used) if used else config.Config())
    except config.ConfigError as error:
        raise Problem(str(error)) from error


def check_policies(options: argparse.Namespace) -> int:
    """`momctl policy check`."""
    texts = _read(options.files)
    loaded = load(texts, _schema(options.config))
    if options.json:
        say_json({"diagnostics": [_plain(found) for found in loaded.diagnostics]})
    else:
        _say_findings(loaded.diagnostics, texts)
    return 0 if loaded.program else 1


def _plain(found: Diagnostic) -> dict[str, object]:
    place = asdict(found.place)
    return {"severity": found.severity, "code": found.code, **place, "message": found.message, "hint": found.hint}


def _say_findings(diagnostics: Sequence[Diagnostic], texts: Mapping[str, str]) -> None:
    for found in diagnostics:
        say(f"{found.severity}: {found}\n{excerpt(found, texts[found.place.fragment])}")
    errors = sum(found.severity == "error" for found in diagnostics)
    say(f"{', '.join(sorted(texts))}: {_count(errors, 'error')}, {_count(len(diagnostics) - errors, 'warning')}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def test_policies(options: argparse.Namespace) -> int:
    """`momctl policy test`."""
    known = _schema(None)
    try:
        results = [(file, result) for file in options.files for result in run_file(file, known)]
    except ValueError as error:
        raise Problem(str(error)) from error
    failed = [(file, result) for file, result in results if not result.passed]
    if options.json:
        cases = [{"file": str(file), **asdict(result)} for file, result in results]
        say_json({"passed": len(results) - len(failed), "failed": len(failed), "cases": cases})
    else:
        for file, result in failed:
            _say_case(file, result)
        say(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _say_case(file: Path, result: CaseResult) -> None:
    for difference in result.differences:
        say(f"{file}: {result.name}: {difference}")
