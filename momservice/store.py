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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from momservice import errors
from momservice.building import PROBLEM_CHARACTERS, Built, build, build_tolerantly, findings, read_all, told
from momservice.bus.checks import checked_name
from momservice.config import Config
from momservice.dry_runs import DryRun, dry_run, dry_run_in_given, live
from momservice.durable import Document
from momservice.fields import Schema
from momservice.layers import DOCUMENT, LIMIT_BYTES, VERSION, Layers, Parameter, from_json, to_json
from momservice.policy import Diagnostic, Program
from momservice.snapshot import Snapshot, Value
from momservice.text import shown
from momservice.watching import Watchers

log = logging.getLogger(__name__)

# Changes that may wait for the one under way.
MAX_WAITING = 8

# Runs a function outside the event loop.
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


class PolicyStore:
    """The policies in force. `program` and `values` belong together and are swapped together; a run takes both at its start.

    `world` gives the live world for trials, None while there is none; `changed` is called after each change, then the watchers are told
    what has changed. `trouble` is told why nothing can be stored, "" when it can again.
    """

    def __init__(self, schema: Schema, offload: Offload, disk: Offload | None = None, folder: Path | None = None) -> None:
        """`offload` runs checks, `disk` reads and writes, which take as long as the disk does. `folder`: None to keep nothing."""
        self._schema = schema
        self._offload, self._disk = offload, disk or offload
        self._document = Document(folder, DOCUMENT, VERSION, LIMIT_BYTES, from_json)
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

    def each_parameter(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters, one by one, for a file of policies may have many thousands; of the policies that are in force at the first."""
        built = self._built
        mine = built.layers.clients()
        for name, default in built.program.parameters.items():
            if name in built.values:
                yield name, replace(built.layers.parameters[name], value=built.values[name])
            else:
                yield name, Parameter(default, "default" if built.program.givers[name] in mine else "file")

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
