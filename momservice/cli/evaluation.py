# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy eval: what policies decide on a recorded snapshot, without a service."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING

from momservice.cli.findings import plain, say_findings
from momservice.cli.output import Problem, count, one_line, say, say_json
from momservice.cli.parameters import VALUES, assignment
from momservice.cli.policy_files import PolicyFile, add_config, add_files, names_in_use, read_policies, texts
from momservice.cli.values import plain_calls, shown_value, written
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import Scalar
from momservice.decisions import Decisions, Failure, Place, Read, Wanted
from momservice.excerpts import excerpt
from momservice.snapshot import HOST, Snapshot
from momservice.strict_json import Json
from momservice.text import shown

if TYPE_CHECKING:
    from momservice.policy import Program

MORE = """\
Shows the controls of each entity, what failed and why, and what debug gave. Nothing is applied. Exit status: 0 also if a failure was kept \
to one guest or form, as in the service; 1 for policies that the service would refuse, at load or for what their run shows, and for a run \
that went beyond its budget of steps."""


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "evaluate policy files on a recorded snapshot, without a service"
    parser = add_verb(actions, "eval", what, evaluate_policies, more=MORE, parents=[json_option], epilog=VALUES)
    add_files(parser)
    parser.add_argument("--snapshot", required=True, metavar="FILE", help='the world, a recorded snapshot; "-" for standard input')
    add_config(parser)
    add_parameters(parser)
    parser.add_argument("--explain", action="store_true", help="also show each control's rule, the calls to it, and the inputs it read")
    parser.add_argument("--results", action="store_true", help="also show the value of each form, and the variables that are kept")


def evaluate_policies(options: argparse.Namespace) -> int:
    """`momctl policy eval`."""
    from momservice.policy import evaluate, load, trial_errors  # noqa: PLC0415 - those who ask a service should not wait for the compiler
    from momservice.snapshot_file import read_snapshot, schema_of  # noqa: PLC0415 - as above

    policies = read_policies(options.files)
    try:
        snapshot = read_snapshot(options.snapshot)
    except ValueError as error:
        raise Problem(str(error)) from error
    loaded = load(texts(policies), schema_of(snapshot, names_in_use(options.config)))
    decisions = None
    if loaded.program is not None:
        world = with_parameters(snapshot, loaded.program, dict(options.param))
        decisions = evaluate(loaded.program, world, trace=options.explain)
    report = _Report(snapshot, policies)
    if options.json:
        findings = [plain(found, policies) for found in loaded.diagnostics]
        say_json({"diagnostics": findings, "decisions": None if decisions is None else report.plain(decisions)})
    else:
        say_findings(loaded.diagnostics, policies)
        report.say(decisions, results=options.results, explain=options.explain)
    return 1 if decisions is None or decisions.ended or trial_errors(decisions) else 0


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Lets a verb take parameters."""
    parameter = "set a parameter, in place of the snapshot's; may be given several times"
    parser.add_argument("--param", action="append", default=[], type=assignment, metavar="NAME=VALUE", help=parameter)


def with_parameters(snapshot: Snapshot, program: Program, given: Mapping[str, Scalar]) -> Snapshot:
    """The snapshot with other parameters. Raises Problem for those that the program doesn't have or take."""
    for name, value in given.items():
        try:
            program.coerce_parameter(name, value)
        except KeyError:
            there = ", ".join(sorted(program.parameters)) or "none"
            raise Problem(f"these policies have no parameter {name}; there are: {shown(there)}") from None
        except ValueError as error:
            raise Problem(str(error)) from error
    return replace(snapshot, parameters={**snapshot.parameters, **given})


class _Report:
    """What a run decided, as people and as programs read it."""

    def __init__(self, snapshot: Snapshot, policies: Mapping[str, PolicyFile]) -> None:
        self._policies = policies
        self._names = {guest.key: str(guest.properties.get("name", guest.key)) for guest in snapshot.guests}

    # --- for programs ---

    def plain(self, decisions: Decisions) -> dict[str, Json]:
        """The decisions for JSON; values as in files of snapshots."""
        return {
            "controls": [self._control(wanted) for wanted in decisions.controls],
            "failures": [self._failure(failure) for failure in decisions.failures],
            "debug": list(decisions.debug),
            "results": [written(result) for result in decisions.results],
            "variables": {entity: written(kept) for entity, kept in decisions.variables.items()},
            "steps": decisions.steps,
            "ended": decisions.ended,
            "degraded": decisions.degraded,
        }

    def _control(self, wanted: Wanted) -> dict[str, Json]:
        return {
            "entity": wanted.entity,
            "guest": self._names.get(wanted.entity),
            "control": wanted.name,
            "item": wanted.item,
            "value": written(wanted.value),
            **asdict(wanted.place),
            "calls": plain_calls(wanted.calls),
            "reads": [{"entity": r.entity, "kind": r.kind, "name": r.name, "value": written(r.value)} for r in wanted.reads],
        }

    def _failure(self, failure: Failure) -> dict[str, Json]:
        return {
            "code": failure.code,
            "message": failure.message,
            **asdict(failure.place),
            "form": failure.form,
            "entity": failure.entity,
            "guest": self._names.get(failure.entity or ""),
            "calls": plain_calls(failure.calls),
        }

    # --- for people ---

    def say(self, decisions: Decisions | None, *, results: bool, explain: bool) -> None:
        """Prints the decisions; None: the policies don't load."""
        if decisions is None:
            say("these policies don't load")
            return
        for entity, controls in groupby(decisions.controls, key=lambda wanted: wanted.entity):
            say(self._title(entity))
            for wanted in controls:
                self._say_control(wanted, explain=explain)
        if results:
            self._say_results(decisions)
        self._say_debug(decisions.debug)
        for failure in decisions.failures:
            self._say_failure(failure)
        if decisions.ended:
            say("the run went beyond its budget of steps: none of its controls would be applied")
        say(f"{count(len(decisions.controls), 'control')}, {count(len(decisions.failures), 'failure')}, {count(decisions.steps, 'step')}")

    def _title(self, entity: str) -> str:
        return "host" if entity == HOST else one_line(f"guest {self._names[entity]} ({entity})")

    def _say_control(self, wanted: Wanted, *, explain: bool) -> None:
        name = f"{wanted.item}.{wanted.name}" if wanted.item else wanted.name
        place = "" if explain else f"  ({wanted.place})"
        say(f"    {one_line(name)} = {shown_value(wanted.value)}{place}")
        if explain:
            self._explain(wanted)

    def _explain(self, wanted: Wanted) -> None:
        say(f"        set at {self._line(wanted.place)}")
        for call in reversed(wanted.calls):
            say(f"        in {shown(call.function, 60)} called at {self._line(call.place)}")
        for read in wanted.reads:
            say(f"        {self._read(read)}")

    def _line(self, place: Place) -> str:
        """A place with its line."""
        lines = self._policies[place.fragment].text.split("\n")
        return one_line(f"{place}: {shown(lines[place.line - 1].strip(), 100)}")

    def _read(self, read: Read) -> str:
        whose = "host" if read.entity == HOST else self._names[read.entity]
        return f"{one_line(f'read {read.kind} {read.name} of {whose}')}: {shown_value(read.value)}"

    def _say_results(self, decisions: Decisions) -> None:
        say("results")
        for number, result in enumerate(decisions.results):
            say(f"    form {number}: {shown_value(result)}")
        for entity, kept in decisions.variables.items():
            for name, value in kept.items():
                say(f"    {self._title(entity)} keeps {one_line(name)} = {shown_value(value)}")

    def _say_debug(self, lines: Sequence[str]) -> None:
        for line in lines:
            say(one_line(f"debug: {line}"))

    def _say_failure(self, failure: Failure) -> None:
        what = f"form {failure.form}" if failure.entity is None else f"{self._title(failure.entity)} dropped"
        say(one_line(f"failed: {what}: {failure}"))
        say(excerpt(failure, self._policies[failure.place.fragment].text))
