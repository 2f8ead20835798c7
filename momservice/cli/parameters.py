# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl params: the parameters of the policies in force."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from momservice.cli.output import Problem, local_time, say, say_done, say_json, say_table, shown
from momservice.cli.service import add_asking, connected
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import Parameter, Scalar

INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
VALUES = """\
VALUE is a number, true, false, or a text; in quotes, which the shell must leave alone, it is a text whatever it looks like:
momctl params set 'label="5"'. A parameter takes values of the type of its default in the policy."""


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "show or set the parameters of the policies"
    params = add_verb(verbs, "params", what, show_parameters, parents=[json_option], epilog=VALUES)
    params.set_defaults(names=[])
    actions = params.add_subparsers(metavar="ACTION")
    get = add_verb(actions, "get", "show these, or all (what `momctl params` does)", show_parameters, parents=[json_option])
    get.add_argument("names", nargs="*", metavar="NAME")
    for action, run, help_text in (
        ("set", set_parameters, "set these and leave the others"),
        ("replace", replace_parameters, "set these; all others go back to the policies' defaults"),
    ):
        parser = add_verb(actions, action, help_text, run, parents=[json_option], epilog=VALUES)
        add_asking(parser)
        parser.add_argument("values", nargs="+" if action == "set" else "*", type=assignment, metavar="NAME=VALUE")


def assignment(text: str) -> tuple[str, Scalar]:
    """`NAME=VALUE` as name and value."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, _value(value)


def _value(text: str) -> Scalar:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        return text[1:-1]
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def show_parameters(options: argparse.Namespace) -> int:
    """`momctl params`, `momctl params get`."""
    with connected() as client:
        parameters = client.parameters()
    chosen = {name: _get(parameters, name) for name in options.names} or parameters
    if options.json:
        say_json({name: asdict(parameter) for name, parameter in chosen.items()})
    elif chosen:
        say_table(("NAME", "VALUE", "FROM", "SET AT", "BY UID"), [_row(name, parameter) for name, parameter in sorted(chosen.items())])
    else:
        say("the policies in force have no parameters")
    return 0


def _get(parameters: Mapping[str, Parameter], name: str) -> Parameter:
    if name not in parameters:
        raise Problem(f"no policy in force has a parameter {name}; `momctl params` lists all")
    return parameters[name]


def _row(name: str, parameter: Parameter) -> Sequence[str]:
    value = str(parameter.value) if isinstance(parameter.value, float) else shown(parameter.value)
    uid = "" if parameter.uid is None else str(parameter.uid)
    return name, value, parameter.origin, local_time(parameter.time_us), uid


def set_parameters(options: argparse.Namespace) -> int:
    """`momctl params set`."""
    with connected(options) as client:
        generation = client.set_parameters(dict(options.values))
    say_done(options, f"generation {generation}", generation=generation)
    return 0


def replace_parameters(options: argparse.Namespace) -> int:
    """`momctl params replace`."""
    with connected(options) as client:
        generation = client.replace_parameters(dict(options.values))
    say_done(options, f"generation {generation}", generation=generation)
    return 0
