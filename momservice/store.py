# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies and parameters in force, and how they change: all or nothing.

Policies lie in two layers: files (of the administrator, or ours) are the base, texts that clients load lie over it; a client can also hide
a file. A change parses, checks and tries the whole new set outside the event loop, one change at a time, then stores it; only when the
disk has it, it replaces the old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from momservice import errors
from momservice.bus.arguments import checked_name
from momservice.bus.names import MAIN_POLICY, MAX_POLICIES, MAX_TEXT_BYTES
from momservice.config import Config, read_text
from momservice.dry_runs import DryRun, dry_run, dry_run_in_given, live
from momservice.durable import Document
from momservice.fields import Schema
from momservice.layers import LIMIT_BYTES, VERSION, Layers, Parameter, from_json, to_json
from momservice.policy import TEXT_BYTES, Diagnostic, Failure, Program, evaluate, load, trial_errors, trial_warnings
from momservice.snapshot import Snapshot, Value
from momservice.text import shown
from momservice.watching import Watchers

log = logging.getLogger(__name__)

# Changes that may wait for the one under way.
MAX_WAITING = 8
# A name, a place, a message and a hint fit in it.
PROBLEM_CHARACTERS = 500
# Findings of one trial that are told: guests are alike, and so is what goes wrong with them.
MAX_TOLD = 20

NOTHING = Layers()

# Runs a function outside the event loop.
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


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


class PolicyStore:
    """The policies in force. `program` and `values` belong together and are swapped together; a run takes both at its start.

    `world` gives the live world for trials, None while there is none; `changed` is called after each change, then the watchers are told
    what has changed. `trouble` is told why nothing can be stored, "" when it can again.
    """

    def __init__(self, schema: Schema, offload: Offload, disk: Offload | None = None, folder: Path | None = None) -> None:
        """`offload` runs checks, `disk` reads and writes, which take as long as the disk does. `folder`: None to keep nothing."""
        self._schema = schema
        self._offload, self._disk = offload, disk or offload
        self._document = Document(folder, "policies", VERSION, LIMIT_BYTES, from_json)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._built = build(Layers(), schema, None)
        # Of files: those of policies that can't be used, those of the state that were set aside.
        self._reports: list[str] = []
        # Whether the disk may hold something else than what is in force.
        self._unstored = False
        self.generation = 0
        self.world: Callable[[], Snapshot | None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self.trouble: Callable[[str], None] = lambda _reason: None
        self.watchers = Watchers()

    @property
    def problems(self) -> list[str]:
        """What couldn't be used at the start or since the last reload, one line each."""
        return [*self._reports, *self._built.layers.left_out.values()]

    def report(self, problems: Sequence[str]) -> None:
        """Add to the problems, until the next reload."""
        for problem in problems:
            log.error("%s", problem)
        self._reports += problems

    @property
    def program(self) -> Program:
        """What runs."""
        return self._built.program

    @property
    def values(self) -> Mapping[str, Value]:
        """The parameters that clients set, as the program takes them."""
        return self._built.values

    def texts(self) -> dict[str, str]:
        """All policies in force, name -> text."""
        return self._built.layers.effective()

    async def start(self, config: Config) -> None:
        """Read the files and what clients have loaded: what can't run is left out and reported in `problems`, the rest applies."""
        stored, problems = await self._disk(self._document.read)
        self._built, unusable = await self._offload(partial(build_tolerantly, config, self._schema, stored or Layers()))
        self.report([*problems, *unusable])
        for reason in self._built.layers.left_out.values():
            log.error("%s", reason)
        if stored:
            # The files may be others than those of the process before, so this is another generation.
            self._document.number += 1
        self.generation, self._unstored = self._document.number, True

    async def keep(self) -> None:
        """Store what is in force if the disk may hold something else."""
        if self._unstored:
            with suppress(errors.MomError):
                async with self._next():
                    await self._store(self._built.layers)

    async def reload(self, config: Config, schema: Schema) -> int:
        """Read the files again; all or nothing. Raises InvalidPolicy. Gives the generation."""

        def again(before: Built, world: Snapshot | None) -> Built:
            layers = replace(before.layers, files=read_all(config))
            try:
                return build(replace(layers, left_out={}), schema, world, before)
            except errors.MomError:
                if not layers.left_out:
                    raise
                return build(layers, schema, world, before)

        # Files need no room on the disk, so a full one doesn't refuse them.
        generation = await self._change(again, must_last=False)
        self._schema, self._reports = schema, []
        return generation

    async def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """Set some; with `replace` remove or hide all others. Raises InvalidPolicy, InvalidArgs, LimitsExceeded, NotStored or Busy."""
        for name in texts:
            checked_name(name)
        return await self._set(lambda before: before.layers.with_texts(texts, others=not replace))

    async def remove(self, name: str) -> int:
        """Remove a policy (hide it, if it comes from a file). Raises UnknownPolicy and what set_policies raises."""
        checked_name(name)
        return await self._set(lambda before: before.layers.without(name))

    async def reset(self) -> int:
        """Drop what clients loaded and hid. Raises InvalidPolicy if the files alone can't run."""
        return await self._set(lambda before: Layers(before.layers.files, parameters=before.layers.parameters))

    async def validate(self, texts: Mapping[str, str]) -> Sequence[Diagnostic]:
        """What loading these as the whole set would find, in a trial as well if there is a world; nothing is loaded."""
        for name in texts:
            checked_name(name)
        async with self._next():
            given = {name: parameter.value for name, parameter in self._built.layers.parameters.items()}
            world = self.world()
            work = partial(findings, dict(texts), self._schema, replace(world, parameters=given) if world else None)
            found: Sequence[Diagnostic] = await self._offload(work)
        return found

    async def dry_run(self, texts: Mapping[str, str], given: Callable[[Schema], Snapshot] | None = None) -> DryRun:
        """What these (without any, those in force) decide in a given world, made of the names that there are, or in the live one with the
        parameters in force. Nothing is loaded or applied. Raises InvalidArgs, LimitsExceeded, UnknownParameter or Busy.
        """
        for name in texts:
            checked_name(name)
        async with self._next():
            chosen, known = dict(texts) or self.texts(), self._schema
            if given is not None:
                return cast(DryRun, await self._offload(lambda: dry_run_in_given(chosen, given(known), known)))
            set_by_clients = {name: parameter.value for name, parameter in self._built.layers.parameters.items()}
            return cast(DryRun, await self._offload(partial(dry_run, chosen, live(self.world(), set_by_clients), known)))

    def parameters(self) -> dict[str, Parameter]:
        """All parameters of the policies in force."""
        layers, program = self._built.layers, self.program
        mine = layers.clients()
        return {
            name: replace(layers.parameters[name], value=self.values[name])
            if name in self.values
            else Parameter(default, "default" if program.givers[name] in mine else "file")
            for name, default in program.parameters.items()
        }

    async def set_parameters(self, values: Mapping[str, Value], uid: int, *, replace: bool = False) -> int:
        """Set some parameters; with `replace` the others go back to their defaults. Raises UnknownParameter, InvalidArgs, InvalidPolicy."""
        now_us = time.time_ns() // 1000
        given = {name: Parameter(value, "client", now_us, uid) for name, value in values.items()}
        return await self._set(lambda before: before.layers.with_parameters(before.program, given, others=not replace))

    async def _set(self, make: Callable[[Built], Layers]) -> int:
        return await self._change(lambda before, world: build(make(before), self._schema, world, before))

    async def _change(self, make: Callable[[Built, Snapshot | None], Built], *, must_last: bool = True) -> int:
        async with self._next():
            before, world = self._built, self.world()
            # Making the set may read files, so it waits for its turn and stays out of the event loop too.
            built = await self._offload(partial(make, before, world))
            self._document.number += 1
            try:
                await self._store(built.layers)
            except errors.NotStored:
                if must_last:
                    raise
            # A run takes the program without pausing, so it sees the old set or the new one.
            self._built, self.generation = built, self._document.number
            # Still in turn, so that changes are told in their order.
            self._tell(before)
            return self.generation

    async def _store(self, layers: Layers) -> None:
        """Have the disk hold these. Raises NotStored."""
        try:
            await self._disk(lambda: self._document.write(to_json(layers)))
        except OSError as error:
            self._unstored = True
            self.trouble(f"what clients load can't be stored, and so is refused: {error.strerror}")
            raise errors.NotStored(f"nothing is changed, for it can't be stored: {error.strerror}") from None
        self._unstored = False
        self.trouble("")

    def _tell(self, before: Built) -> None:
        self.changed()
        if self.program is not before.program:
            for failure in told(self._built.warnings):
                log.warning("the policies are loaded, but now would fail: %s", shown(str(failure), PROBLEM_CHARACTERS))
            self.watchers.tell("policies_changed", self.generation, _different(before.layers.effective(), self.texts()))
        old, new = before.in_force(), self._built.in_force()
        if names := _different(old, new):
            self.watchers.tell("parameters_changed", {name: new[name] for name in names if name in new})

    @asynccontextmanager
    async def _next(self) -> AsyncIterator[None]:
        """One at a time, in turn; the queue is bounded."""
        if self._waiting > MAX_WAITING:
            raise errors.Busy("too many policy changes are waiting: try again later")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1


def _different(old: Mapping[str, Value], new: Mapping[str, Value]) -> list[str]:
    """The names of what isn't in both alike, sorted."""
    return sorted(name for name in old.keys() | new.keys() if name not in old or name not in new or not _alike(old[name], new[name]))


def _alike(one: Value, other: Value) -> bool:
    """Equal, and of one type: for policies 1 and true aren't the same."""
    return type(one) is type(other) and one == other


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
