# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies would decide: evaluated in a given world or in the live one, and nothing is loaded or applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from momservice import errors
from momservice.fields import Schema
from momservice.policy import Decisions, Diagnostic, Program, decide, load
from momservice.snapshot import Snapshot, Value
from momservice.snapshot_file import schema_of
from momservice.text import shown


@dataclass(frozen=True, slots=True)
class DryRun:
    """What came of it. `decisions` is None if one of the diagnostics of the load is an error."""

    decisions: Decisions | None
    diagnostics: Sequence[Diagnostic] = ()


def dry_run(texts: Mapping[str, str], world: Snapshot, schema: Schema) -> DryRun:
    """Policies in a world that holds the parameters to bind; those that don't fit aren't bound. Raises nothing, whatever the texts."""
    loaded = load(texts, schema)
    return DryRun(None if loaded.program is None else decide(loaded.program, world), loaded.diagnostics)


def dry_run_in_given(texts: Mapping[str, str], world: Snapshot, known: Schema) -> DryRun:
    """Policies in a world that somebody thought up: its fields are those that policies may use, beside the known ones.

    Raises UnknownParameter and InvalidArgs for parameters that don't fit.
    """
    loaded = load(texts, schema_of(world, known))
    if loaded.program is None:
        return DryRun(None, loaded.diagnostics)
    _check_parameters(loaded.program, world.parameters)
    return DryRun(decide(loaded.program, world), loaded.diagnostics)


def _check_parameters(program: Program, values: Mapping[str, Value]) -> None:
    for name, value in values.items():
        try:
            program.coerce_parameter(name, value)
        except KeyError:
            raise errors.UnknownParameter(f"these policies have no parameter '{shown(name, 60)}'") from None
        except ValueError as error:
            raise errors.InvalidArgs(str(error)) from None


def live(world: Snapshot | None, parameters: Mapping[str, Value]) -> Snapshot:
    """The live world with parameters. Raises Busy while there is none."""
    if world is None:
        raise errors.Busy("there are no figures of the host yet: try again later")
    return replace(world, parameters=parameters)
