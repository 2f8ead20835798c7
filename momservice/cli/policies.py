# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy: show, load, remove. What needs no service is in modules of its own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Final

from momservice.bus.checks import checked_name
from momservice.bus.names import MAIN_POLICY
from momservice.cli import case_runs, check, evaluation, reformat, replays, trial
from momservice.cli.output import Problem, say, say_done, say_json
from momservice.cli.policy_files import PolicyFile, add_files, read_policies, texts
from momservice.cli.service import add_asking, connected
from momservice.cli.verbs import Verbs, add_verb
from momservice.decisions import Diagnostic, Place
from momservice.errors import InvalidArgs, InvalidPolicy
from momservice.excerpts import excerpt

NAMES = f"""\
A policy is named like its file without ".policy"; standard input (-) is {MAIN_POLICY} unless --name says otherwise. Policies run in the
order of their names. Those that aren't named here stay, unless --replace is given."""


# What the text of InvalidPolicy begins with.
PLACE: Final = re.compile(r"(?P<fragment>[^:]+):(?P<line>[0-9]{1,9}):(?P<column>[0-9]{1,9}): ")


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    policy = verbs.add_parser("policy", help="show, load, check and test policies")
    actions = policy.add_subparsers(metavar="ACTION", required=True)
    get = add_verb(actions, "get", "print one policy, or all", get_policies, parents=[json_option])
    get.add_argument("name", nargs="?", metavar="NAME")
    put = add_verb(actions, "set", "load policies, all or none", set_policies, more=NAMES, parents=[json_option])
    add_files(put)
    put.add_argument("--name", type=_policy_name, help="the policy's name; only with a single FILE")
    put.add_argument("--replace", action="store_true", help="remove all other policies, or hide them if they come from files")
    what = "remove a policy, or hide it if it comes from a file"
    remove = add_verb(actions, "remove", what, remove_policy, parents=[json_option])
    remove.add_argument("name", metavar="NAME")
    reset = add_verb(actions, "reset", "drop all that clients loaded and hid", reset_policies, parents=[json_option])
    for changing in (put, remove, reset):
        add_asking(changing)
    check.add(actions, json_option)
    trial.add(actions, json_option)
    evaluation.add(actions, json_option)
    replays.add(actions, json_option)
    case_runs.add(actions, json_option)
    reformat.add(actions, json_option)


def _policy_name(text: str) -> str:
    try:
        return checked_name(text)
    except InvalidArgs as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    policies = read_policies(options.files, options.name)
    try:
        with connected(options) as client:
            generation = client.set_policies(texts(policies), replace=options.replace)
    except InvalidPolicy as error:
        raise Problem(str(error), _excerpt(str(error), policies)) from error
    names = sorted(policies)
    say_done(options, f"generation {generation}: loaded {', '.join(names)}", generation=generation, loaded=names)
    return 0


def _excerpt(refusal: str, policies: Mapping[str, PolicyFile]) -> str:
    """The line that a refusal points at, with a caret; "" if that isn't in these policies: it is the whole set that was refused."""
    found = PLACE.match(refusal)
    if not found or found["fragment"] not in policies:
        return ""
    place = Place(found["fragment"], int(found["line"]), int(found["column"]))
    return excerpt(Diagnostic("error", "", place, refusal), policies[place.fragment].text)


def remove_policy(options: argparse.Namespace) -> int:
    """`momctl policy remove`."""
    with connected(options) as client:
        generation = client.remove_policy(options.name)
    say_done(options, f"generation {generation}", generation=generation)
    return 0


def reset_policies(options: argparse.Namespace) -> int:
    """`momctl policy reset`."""
    with connected(options) as client:
        generation = client.reset_policies()
    say_done(options, f"generation {generation}", generation=generation)
    return 0
