# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies and parameters in force, and how they change: all or nothing.

Policies lie in two layers: files (of the administrator, or ours) are the base, texts that clients load lie over it; a client can also hide
a file. A change parses, checks and tries the whole new set outside the event loop, one change at a time; only then it replaces the old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from momservice import errors
from momservice.bus.arguments import checked_name
from momservice.bus.names import MAIN_POLICY, MAX_POLICIES, MAX_TEXT_BYTES
from momservice.config import Config, read_text
from momservice.fields import Schema
from momservice.policy import TEXT_BYTES, Diagnostic, Program, evaluate, load, trial_errors
from momservice.snapshot import Snapshot, Value
from momservice.text import shown
from momservice.watching import Watchers

log = logging.getLogger(__name__)

# Changes that may wait for the one under way.
MAX_WAITING = 8
# A name, a place, a message and a hint fit in it.
PROBLEM_CHARACTERS = 500

# Runs a function outside the event loop.
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's value in force. `time_us`: when it was set, microseconds since the epoch; `uid`: by whom; both only for a client's."""

    value: Value
    origin: Literal["policy", "client"]
    time_us: int = 0
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Layers:
    """The texts by origin, and the parameters that clients set. A new set is made for each change."""

    files: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def effective(self) -> dict[str, str]:
        """The set in force, by name."""
        return {name: text for name, text in self.files.items() if name not in self.hidden} | dict(self.texts)


@dataclass(frozen=True, slots=True)
class Built:
    """A set that can run: its program and the parameters that it takes."""

    layers: Layers
    program: Program
    values: Mapping[str, Value]

    def in_force(self) -> dict[str, Value]:
        """The value of each parameter: a client's, or the policy's default."""
        return {**self.program.parameters, **self.values}


class PolicyStore:
    """The policies in force. `program` and `values` belong together and are swapped together; a run takes both at its start.

    `world` gives the live world for trials, None while there is none; `changed` is called after each change, then the watchers are told
    what has changed. What clients load lasts until the service ends.
    """

    def __init__(self, schema: Schema, offload: Offload) -> None:
        self._schema = schema
        self._offload = offload
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._built = build(Layers(), schema, None)
        self.generation = 0
        self.problems: list[str] = []
        self.world: Callable[[], Snapshot | None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self.watchers = Watchers()

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
        """Load the files at the start of the service: a bad one is left out and reported in `problems`, the good ones apply."""
        self._built, self.problems = await self._offload(partial(build_tolerantly, config, self._schema))
        for problem in self.problems:
            log.error("%s", problem)

    async def reload(self, config: Config, schema: Schema) -> int:
        """Read the files again; all or nothing. Raises InvalidPolicy. Gives the generation."""
        generation = await self._change(lambda layers: replace(layers, files=read_all(config)), schema)
        self._schema, self.problems = schema, []
        return generation

    async def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """Set some policies; with `replace` remove or hide all others. Raises InvalidPolicy, InvalidArgs, LimitsExceeded or Busy."""
        for name in texts:
            checked_name(name)
        return await self._change(lambda layers: _with_texts(layers, texts, others=not replace))

    async def remove(self, name: str) -> int:
        """Remove a policy (hide it, if it comes from a file). Raises UnknownPolicy and what set_policies raises."""
        checked_name(name)
        return await self._change(lambda layers: _without(layers, name))

    async def reset(self) -> int:
        """Drop what clients loaded and hid. Raises InvalidPolicy if the files alone can't run."""
        return await self._change(lambda layers: Layers(files=layers.files, parameters=layers.parameters))

    async def validate(self, texts: Mapping[str, str]) -> Sequence[Diagnostic]:
        """What loading these as the whole set would find; nothing is loaded."""
        for name in texts:
            checked_name(name)
        async with self._next():
            diagnostics: Sequence[Diagnostic] = (await self._offload(partial(load, dict(texts), self._schema))).diagnostics
        return diagnostics

    def parameters(self) -> dict[str, Parameter]:
        """All parameters of the policies in force."""
        set_by_clients = self._built.layers.parameters
        return {
            name: replace(set_by_clients[name], value=self.values[name]) if name in self.values else Parameter(default, "policy")
            for name, default in self.program.parameters.items()
        }

    async def set_parameters(self, values: Mapping[str, Value], uid: int, *, replace: bool = False) -> int:
        """Set some parameters; with `replace` the others go back to their defaults. Raises UnknownParameter, InvalidArgs, InvalidPolicy."""
        now_us = time.time_ns() // 1000
        given = {name: Parameter(value, "client", now_us, uid) for name, value in values.items()}
        return await self._change(lambda layers: _with_parameters(layers, self.program, given, others=not replace))

    async def _change(self, make: Callable[[Layers], Layers], schema: Schema | None = None) -> int:
        async with self._next():
            before, known, world = self._built, schema or self._schema, self.world()
            # Making the set may read files, so it waits for its turn and stays out of the event loop too.
            self._built = await self._offload(lambda: build(make(before.layers), known, world, before))
            self.generation += 1
            # Still in turn, so that changes are told in their order.
            self._tell(before)
            return self.generation

    def _tell(self, before: Built) -> None:
        self.changed()
        if self.program is not before.program:
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
    if world is not None:
        fatal = trial_errors(evaluate(program, replace(world, parameters=values)))
        if fatal:
            raise errors.InvalidPolicy(f"{fatal[0].place}: {fatal[0].message}" + _more(fatal))
    return Built(layers, program, values)


def _loaded(texts: Mapping[str, str], schema: Schema) -> Program:
    loaded = load(texts, schema)
    if loaded.program is None:
        raise errors.InvalidPolicy(_summary([d for d in loaded.diagnostics if d.severity == "error"]))
    return loaded.program


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


def _with_texts(layers: Layers, texts: Mapping[str, str], *, others: bool) -> Layers:
    hidden = (layers.hidden if others else frozenset(layers.files)) - texts.keys()
    return replace(layers, texts={**(layers.texts if others else {}), **texts}, hidden=hidden)


def _without(layers: Layers, name: str) -> Layers:
    if name not in layers.effective():
        raise errors.UnknownPolicy(f"there is no policy named {name}")
    texts = {other: text for other, text in layers.texts.items() if other != name}
    return replace(layers, texts=texts, hidden=layers.hidden | (layers.files.keys() & {name}))


def _with_parameters(layers: Layers, program: Program, given: Mapping[str, Parameter], *, others: bool) -> Layers:
    for name, parameter in given.items():
        if name not in program.parameters:
            raise errors.UnknownParameter(f"no policy in force gives a parameter '{name}' a default by defvar")
        try:
            program.coerce_parameter(name, parameter.value)
        except ValueError as error:
            raise errors.InvalidArgs(str(error)) from None
    return replace(layers, parameters={**(layers.parameters if others else {}), **given})


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


def build_tolerantly(config: Config, schema: Schema) -> tuple[Built, list[str]]:
    """The largest set of the files that can run, found by leaving out every file with an error until none has one."""
    texts, problems = read_files(config)
    while True:
        loaded = load(texts, schema)
        bad = {d.place.fragment: d for d in reversed(loaded.diagnostics) if d.severity == "error"}
        if loaded.program is not None:
            return build(Layers(files=texts), schema, None), problems
        for name, diagnostic in sorted(bad.items()):
            problems.append(shown(f"policy {name} is left out: {diagnostic}", PROBLEM_CHARACTERS))
        # A limit on the set as a whole has no fragment of its own: then nothing can be kept.
        texts = {name: text for name, text in texts.items() if name not in bad} if bad.keys() & texts.keys() else {}
