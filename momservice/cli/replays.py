# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy replay: what policies would have done over time, without a service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from momservice.cli.evaluation import add_parameters, with_parameters
from momservice.cli.findings import plain, say_findings
from momservice.cli.output import Problem, count, local_time, say, say_json, say_table
from momservice.cli.parameters import VALUES
from momservice.cli.policy_files import add_config, add_files, names_in_use, read_policies, settings_in_use, texts
from momservice.cli.values import plain_calls, readable, written
from momservice.cli.verbs import Verbs, add_verb
from momservice.decisions import Decisions, Failure, Wanted
from momservice.snapshot import HOST, Snapshot, Value
from momservice.strict_json import FILE_BYTES, Json, read_text

if TYPE_CHECKING:
    from momservice.series import Step

MORE = """\
Runs policies on one recorded snapshot after the other, as `momctl record` writes them, and shows each control that differs from what the \
run before wanted, and each failure that the run before didn't have. The history that policies see, and what SetVar keeps, come from the \
recording and the runs; the world goes on as it was recorded, whatever is decided. Exit status: as that of `momctl policy eval`."""


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "show what policies would have done over time, without a service"
    parser = add_verb(actions, "replay", what, replay_policies, more=MORE, parents=[json_option], epilog=VALUES)
    parser.add_argument("recording", type=Path, metavar="FILE", help='a file of `momctl record`; "-" for standard input')
    add_files(parser, metavar="POLICY_FILE")
    add_config(parser)
    add_parameters(parser)


class _Change(NamedTuple):
    """A control that isn't what the run before wanted. None: no control."""

    wanted: Wanted
    before: Wanted | None
    gone: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of the replay, for what is told of it."""

    number: int
    world: Snapshot
    decisions: Decisions
    changes: Sequence[_Change]
    new_failures: Sequence[Failure]

    def name(self, entity: str) -> str:
        """An entity's name."""
        return HOST if entity == HOST else _names(self.world).get(entity, entity)


def _names(world: Snapshot) -> Mapping[str, str]:
    return {guest.key: str(guest.properties.get("name", guest.key)) for guest in world.guests}


def replay_policies(options: argparse.Namespace) -> int:
    """`momctl policy replay`."""
    from momservice.policy import load, trial_errors  # noqa: PLC0415 - those who ask a service should not wait for the compiler
    from momservice.series import parse_series, replay, schema_of_all  # noqa: PLC0415 - as above

    policies = read_policies(options.files)
    try:
        series = parse_series(read_text(options.recording, FILE_BYTES), str(options.recording))
    except ValueError as error:
        raise Problem(str(error)) from error
    loaded = load(texts(policies), schema_of_all(series, names_in_use(options.config)))
    runs: list[_Run] = []
    if (program := loaded.program) is not None:
        worlds = [with_parameters(recorded.snapshot, program, dict(options.param)) for recorded in series]
        given = [recorded._replace(snapshot=world) for recorded, world in zip(series, worlds, strict=True)]
        runs = list(_runs(replay(program, given, settings_in_use(options.config).history_length)))
    if options.json:
        findings = [plain(found, policies) for found in loaded.diagnostics]
        say_json({"diagnostics": findings, "runs": [_plain(run) for run in runs], "summary": _summary(runs)})
    else:
        say_findings(loaded.diagnostics, policies)
        _say(runs) if runs else say("these policies don't load")
    bad = any(run.decisions.ended or trial_errors(run.decisions) for run in runs)
    return 1 if not runs or bad else 0


def _runs(steps: Iterator[Step]) -> Iterator[_Run]:
    before: dict[tuple[str, str, str], Wanted] = {}
    failed: Sequence[Failure] = ()
    for number, step in enumerate(steps, 1):
        now = {(wanted.entity, wanted.name, wanted.item): wanted for wanted in step.decisions.controls if wanted.value is not None}
        here = {HOST, *_names(step.world)}
        changes = [_Change(wanted, before.get(key), False) for key, wanted in now.items() if not _same(wanted, before.get(key))]
        changes += [_Change(wanted, wanted, True) for key, wanted in before.items() if key not in now and key[0] in here]
        known, failed = set(map(_what, failed)), step.decisions.failures
        before = now
        yield _Run(number, step.world, step.decisions, changes, [failure for failure in failed if _what(failure) not in known])


def _what(failure: Failure) -> tuple[object, ...]:
    """What makes it the same failure in another run."""
    return failure.entity, failure.code, failure.place


def _same(wanted: Wanted, before: Wanted | None) -> bool:
    # As written, not a number is like itself.
    return before is not None and type(wanted.value) is type(before.value) and written(wanted.value) == written(before.value)


# --- for programs ------------------------------------------------------------------------------------------------------------------------


def _plain(run: _Run) -> dict[str, Json]:
    return {
        "run": run.number,
        "time_us": run.world.taken_us,
        "controls": [_control(run, wanted) for wanted in run.decisions.controls],
        "changes": [_plain_change(run, change) for change in run.changes],
        "failures": [_failure(run, failure) for failure in run.decisions.failures],
        "debug": list(run.decisions.debug),
        "ended": run.decisions.ended,
    }


def _control(run: _Run, wanted: Wanted) -> dict[str, Json]:
    what = {"entity": wanted.entity, "guest": _guest(run, wanted.entity), "control": wanted.name, "item": wanted.item}
    return {**what, "value": written(wanted.value), **asdict(wanted.place), "calls": plain_calls(wanted.calls)}


def _guest(run: _Run, entity: str | None) -> str | None:
    return None if entity in (None, HOST) else run.name(str(entity))


def _plain_change(run: _Run, change: _Change) -> dict[str, Json]:
    wanted, before = change.wanted, change.before
    what = {"entity": wanted.entity, "guest": _guest(run, wanted.entity), "control": wanted.name, "item": wanted.item}
    return {**what, "before": written(_value(before)), "value": None if change.gone else written(wanted.value)}


def _value(wanted: Wanted | None) -> Value:
    return None if wanted is None else wanted.value


def _failure(run: _Run, failure: Failure) -> dict[str, Json]:
    what = {"code": failure.code, "message": failure.message, **asdict(failure.place), "form": failure.form}
    return {**what, "entity": failure.entity, "guest": _guest(run, failure.entity), "calls": plain_calls(failure.calls)}


def _summary(runs: Sequence[_Run]) -> dict[str, Json]:
    return {
        "runs": len(runs),
        "seconds": (runs[-1].world.taken_us - runs[0].world.taken_us) / 1e6 if runs else 0.0,
        "runs_with_changes": sum(bool(run.changes) for run in runs),
        "changes": sum(len(run.changes) for run in runs),
        "failures": sum(len(run.decisions.failures) for run in runs),
    }


# --- for people --------------------------------------------------------------------------------------------------------------------------


def _say(runs: Sequence[_Run]) -> None:
    rows = [_row(run, change) for run in runs for change in run.changes]
    if rows:
        say_table(("TIME", "RUN", "ENTITY", "CONTROL", "BEFORE", "WANTS", "BY"), rows, frozenset({1, 4, 5}))
    for run in runs:
        _say_failures(run)
    figures = _summary(runs)
    say(
        f"{count(len(runs), 'run')} over {figures['seconds']:.0f} s, {figures['runs_with_changes']} of them with changes: "
        f"{count(figures['changes'], 'change')}, {count(figures['failures'], 'failure')}"
    )


def _row(run: _Run, change: _Change) -> Sequence[str]:
    wanted = change.wanted
    name = f"{wanted.item}.{wanted.name}" if wanted.item else wanted.name
    before = "" if change.before is None else readable(change.before.value)
    now, place = ("", "") if change.gone else (readable(wanted.value), str(wanted.place))
    return local_time(run.world.taken_us), str(run.number), run.name(wanted.entity), name, before, now, place


def _say_failures(run: _Run) -> None:
    for failure in run.new_failures:
        what = f"form {failure.form}" if failure.entity is None else f"guest {run.name(failure.entity)} dropped"
        say(f"failed: run {run.number}: {what}: {failure}")
    if run.decisions.ended:
        say(f"run {run.number} went beyond its budget of steps: none of its controls would be applied")
