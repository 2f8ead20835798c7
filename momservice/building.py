# SPDX-License-Identifier: GPL-2.0-or-later
"""From policy files and what clients have loaded to a set that can run: read, parsed, checked, tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from momservice import errors
from momservice.bus.checks import checked_name
from momservice.bus.names import MAIN_POLICY, MAX_POLICIES, MAX_TEXT_BYTES, TEXT_BYTES
from momservice.config import Config, read_text
from momservice.fields import Schema
from momservice.layers import Layers, Parameter
from momservice.policy import Diagnostic, Failure, Program, evaluate, load, trial_errors, trial_warnings
from momservice.snapshot import Snapshot, Value
from momservice.text import shown

log = logging.getLogger(__name__)

# A name, a place, a message and a hint fit in it.
PROBLEM_CHARACTERS: Final = 500
# Findings of one trial that are told: guests are alike, and so is what goes wrong with them.
MAX_TOLD: Final = 20
NOTHING: Final = Layers()


@dataclass(frozen=True, slots=True)
class Built:
    """A set that can run: its program and the parameters that it takes. `warnings`: what failed in its trial that figures may cure."""

    layers: Layers
    program: Program
    values: Mapping[str, Value]
    warnings: Sequence[Failure] = ()

    def in_force(self) -> dict[str, Value]:
        """The value of each parameter: a client's, or the policy's default."""
        return {**self.program.parameters, **self.values}


def build(layers: Layers, schema: Schema, world: Snapshot | None, before: Built | None = None) -> Built:
    """Parse, check and try a set. Raises InvalidPolicy or LimitsExceeded. The same texts keep their program."""
    texts = layers.effective()
    if len(texts) > MAX_POLICIES:
        raise errors.LimitsExceeded(f"{len(texts)} policies with those from files; at most {MAX_POLICIES} can be loaded")
    if sum(len(text.encode()) for text in layers.texts.values()) > MAX_TEXT_BYTES:
        raise errors.LimitsExceeded(f"policies loaded by clients may have {MAX_TEXT_BYTES // 1024} KiB in all")
    same = before is not None and before.program.schema == schema and before.layers.effective() == texts
    program = before.program if before and same else _loaded(texts, schema)
    values = _bindings(program, layers.parameters)
    if world is None:
        return Built(layers, program, values)
    decisions = evaluate(program, replace(world, parameters=values))
    if fatal := trial_errors(decisions):
        raise errors.InvalidPolicy(f"{fatal[0].place}: {fatal[0].message}" + _more(fatal))
    return Built(layers, program, values, trial_warnings(decisions))


def _loaded(texts: Mapping[str, str], schema: Schema) -> Program:
    loaded = load(texts, schema)
    if loaded.program is None:
        raise errors.InvalidPolicy(_summary([d for d in loaded.diagnostics if d.severity == "error"]))
    return loaded.program


def findings(texts: Mapping[str, str], schema: Schema, world: Snapshot | None) -> list[Diagnostic]:
    """What loading these would find: what reading and checking them tells, then, if nothing refuses them, what a trial does."""
    loaded = load(texts, schema)
    if loaded.program is None or world is None:
        return list(loaded.diagnostics)
    decisions = evaluate(loaded.program, world)
    refused = [Diagnostic("error", each.code, each.place, each.message) for each in told(trial_errors(decisions))]
    # What fails in each trial has been found without one.
    known = {(found.place.fragment, found.place.line) for found in loaded.diagnostics if found.code == "always-fails"}
    isolated = [Diagnostic("warning", each.code, each.place, each.message) for each in told(trial_warnings(decisions))]
    return [*refused, *loaded.diagnostics, *(each for each in isolated if (each.place.fragment, each.place.line) not in known)]


def told(failures: Sequence[Failure]) -> list[Failure]:
    """The first of those that are alike but for the guest."""
    return list({(each.code, each.place, each.message): each for each in reversed(failures)}.values())[::-1][:MAX_TOLD]


def _summary(found: Sequence[Diagnostic]) -> str:
    return str(found[0]) + _more(found)


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _bindings(program: Program, parameters: Mapping[str, Parameter]) -> dict[str, Value]:
    """The client's parameters that the program knows and takes; the others wait for a policy that does."""
    values: dict[str, Value] = {}
    for name, parameter in parameters.items():
        if name in program.parameters:
            try:
                values[name] = program.coerce_parameter(name, parameter.value)
            except ValueError as error:
                log.warning("it keeps its default: %s", shown(str(error)))
    return values


# Files


def read_all(config: Config) -> dict[str, str]:
    """The policy files that the configuration names: name -> text. Raises InvalidPolicy if any of them can't be read."""
    texts, problems = read_files(config)
    if problems:
        raise errors.InvalidPolicy("; ".join(problems))
    return texts


def read_files(config: Config) -> tuple[dict[str, str], list[str]]:
    """Those that can be read, and a line for what can't. What is read is bounded: in number, and in bytes of all of them together."""
    texts: dict[str, str] = {}
    problems: list[str] = []
    left_bytes = TEXT_BYTES
    for name, file in _policy_files(config, problems):
        try:
            texts[checked_name(name)] = _read(file, left_bytes)
            left_bytes -= len(texts[name].encode())
        except (OSError, ValueError, errors.InvalidArgs) as error:
            problems.append(f"policy file {shown(file.name)}: {getattr(error, 'strerror', None) or error}")
    return texts, problems


def _read(file: Path, left_bytes: int) -> str:
    size_bytes = file.stat().st_size
    if size_bytes > left_bytes:
        raise ValueError(f"has {size_bytes} bytes: with those before it more than {TEXT_BYTES}")
    return read_text(file, left_bytes)


def _policy_files(config: Config, problems: list[str]) -> list[tuple[str, Path]]:
    """Name and path of each, in the order of the names."""
    if config.policy:
        return [(MAIN_POLICY, config.policy)]
    if not config.policy_dir:
        return []
    try:
        files = sorted((file.name.removesuffix(".policy"), file) for file in config.policy_dir.iterdir() if file.name.endswith(".policy"))
    except OSError as error:
        problems.append(f"policy-dir: {error.strerror}")
        return []
    if len(files) > MAX_POLICIES:
        problems.append(f"policy-dir: {len(files)} policies, of which the last {len(files) - MAX_POLICIES} by name are left out")
    return files[:MAX_POLICIES]


def build_tolerantly(config: Config, schema: Schema, stored: Layers = NOTHING) -> tuple[Built, list[str]]:
    """The largest set that can run of the files and what clients have stored, and a line for each file that is left out.

    Found by leaving out everything with an error until nothing has one. A client's text that is left out stays in the layers.
    """
    files, problems = read_files(config)
    layers = replace(stored, files=files)
    while True:
        texts = layers.effective()
        loaded = load(texts, schema)
        bad = {d.place.fragment: str(d) for d in reversed(loaded.diagnostics) if d.severity == "error"}
        if len(texts) > MAX_POLICIES:
            bad = dict.fromkeys(sorted(layers.clients())[MAX_POLICIES - len(texts) :], f"at most {MAX_POLICIES} policies can be loaded")
        elif loaded.program is not None:
            return Built(layers, loaded.program, _bindings(loaded.program, layers.parameters)), problems
        # A limit on the set as a whole has no fragment of its own: then nothing can be kept.
        layers = _leaving_out(layers, bad if bad.keys() & texts.keys() else dict.fromkeys(texts, "; ".join(bad.values())), problems)


def _leaving_out(layers: Layers, bad: Mapping[str, str], problems: list[str]) -> Layers:
    mine = layers.clients()
    for name, why in sorted(bad.items()):
        if name not in mine:
            problems.append(shown(f"policy {name} is left out: {why}", PROBLEM_CHARACTERS))
    left_out = {
        name: shown(f"policy {name}, which a client loaded, is left out: {why}", PROBLEM_CHARACTERS)
        for name, why in sorted(bad.items())
        if name in mine
    }
    files = {name: text for name, text in layers.files.items() if name in mine or name not in bad}
    return replace(layers, files=files, left_out={**layers.left_out, **left_out})
