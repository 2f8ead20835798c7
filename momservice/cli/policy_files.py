# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy files as momctl's verbs take them, and the names that policies may use off line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from momservice import config
from momservice.bus.checks import checked_name
from momservice.bus.names import MAIN_POLICY, TEXT_BYTES
from momservice.cli.output import Problem
from momservice.errors import InvalidArgs
from momservice.fields import Schema
from momservice.strict_json import read_text

STDIN: Final = "-"
SUFFIX: Final = ".policy"
FILES: Final = f'a policy file, a directory (its *{SUFFIX}), or "{STDIN}" for standard input'


class PolicyFile(NamedTuple):
    """A policy and where it was read; `path` is "<stdin>" for standard input."""

    path: str
    text: str


def add_files(parser: argparse.ArgumentParser, help_text: str = FILES, metavar: str = "FILE") -> None:
    """Lets a verb take policy files."""
    parser.add_argument("files", nargs="+", metavar=metavar, help=help_text)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Lets a verb take a configuration."""
    default = f"default: {config.DEFAULT_FILE}, if it is there"
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"whose collectors are in use ({default})")


def policy_files(arguments: Sequence[str]) -> list[str]:
    """The files that the arguments name: those of a directory in the order of their names. Raises Problem."""
    return [file for argument in arguments for file in (_inside(Path(argument)) if Path(argument).is_dir() else [argument])]


def _inside(folder: Path) -> list[str]:
    try:
        files = sorted(str(file) for file in folder.iterdir() if file.name.endswith(SUFFIX))
    except OSError as error:
        raise Problem(f"{folder}: {error.strerror}") from error
    if not files:
        raise Problem(f"{folder}: no *{SUFFIX} in this directory")
    return files


def read_policies(arguments: Sequence[str], name: str | None = None) -> dict[str, PolicyFile]:
    """Policies by name. `name`: what a single one is called. Raises Problem."""
    files = policy_files(arguments)
    if name and len(files) > 1:
        raise Problem("--name goes with a single FILE")
    policies: dict[str, PolicyFile] = {}
    for file in files:
        called = name or (MAIN_POLICY if file == STDIN else Path(file).name.removesuffix(SUFFIX))
        try:
            checked_name(called)
        except InvalidArgs as error:
            raise Problem(f"{file}: {error}; rename the file or use --name") from None
        if called in policies:
            raise Problem(f"{file}: another file gives a policy named {called}")
        policies[called] = read_policy(file)
    return policies


def read_policy(file: str) -> PolicyFile:
    """One policy file. Raises Problem."""
    try:
        return PolicyFile("<stdin>" if file == STDIN else file, read_text(file, TEXT_BYTES))
    except ValueError as error:
        raise Problem(str(error)) from error


def texts(policies: dict[str, PolicyFile]) -> dict[str, str]:
    """The policies' texts by name."""
    return {name: policy.text for name, policy in policies.items()}


def names_in_use(file: Path | None) -> Schema:
    """The names that policies may use under a configuration; None: the system's, or without one the default. Raises Problem."""
    from momservice.parts import schema  # noqa: PLC0415 - those who ask a service should not wait for every collector and controller

    try:
        return schema(settings_in_use(file))
    except config.ConfigError as error:
        raise Problem(str(error)) from error


def settings_in_use(file: Path | None) -> config.Config:
    """A configuration; None: the system's, or without one the default. Raises Problem."""
    default = config.DEFAULT_FILE if config.DEFAULT_FILE.exists() else None
    try:
        used = file or default
        return config.load(used) if used else config.Config()
    except config.ConfigError as error:
        raise Problem(str(error)) from error
