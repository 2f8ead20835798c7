# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies keep by SetVar, from one process to the next; and the beat at which what isn't stored yet is stored."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from momservice import strict_json
from momservice.durable import Document
from momservice.snapshot import Value
from momservice.snapshot_file import decoded
from momservice.snapshot_text import encoded
from momservice.store import Offload, PolicyStore
from momservice.strict_json import Json

log = logging.getLogger(__name__)

# By entity, then by name.
Variables: TypeAlias = Mapping[str, Mapping[str, Value]]

DOCUMENT: Final = "variables"
VERSION: Final = 1
# Of all entities; each may keep some 130 KiB of text, most keep a few numbers.
LIMIT_BYTES: Final = 16 * 1024 * 1024
# Variables may change with every run; at most so much of them is lost in a crash.
INTERVAL_S: Final = 10


class Keeps(Protocol):
    """The engine, as far as it is needed here."""

    variables: Variables

    def set_reason(self, part: str, reason: str) -> None:
        """Say in the status why a part isn't well; "" when it is."""


class Keeper:
    """Stores, every few seconds and at the end, what has changed. What the disk refuses is tried again at the next beat."""

    def __init__(self, folder: Path, disk: Offload, policies: PolicyStore, engine: Keeps) -> None:
        """`disk` runs reads and writes, outside the event loop."""
        self._disk, self._policies, self._engine = disk, policies, engine
        self._document = Document(folder, DOCUMENT, VERSION, LIMIT_BYTES, from_json)
        self._turn = asyncio.Lock()
        self._stored = "{}"

    async def restore(self) -> None:
        """Give the engine the variables of the process before."""
        variables, problems = await self._disk(self._document.read)
        self._policies.report(problems)
        if variables:
            self._engine.variables = variables
            self._stored = to_json(variables)[0]

    async def run(self) -> None:
        """Keep until the process ends: a write must not be left under way when another begins."""
        while True:
            await self.keep()
            await asyncio.sleep(INTERVAL_S)

    async def keep(self) -> None:
        """Store what isn't stored as it is now."""
        # Policies may have to wait for a check that is under way.
        for work in (self._keep_variables, self._policies.keep):
            try:
                await work()
            except Exception:
                # The next beat is to come whatever happens.
                log.exception("internal error: the state isn't stored")

    async def _keep_variables(self) -> None:
        async with self._turn:
            try:
                left_out = await self._disk(partial(self._write, self._engine.variables))
                reason = f"what policies keep is too much to be stored, and left out for {left_out} guests or the host" if left_out else ""
            except OSError as error:
                reason = f"variables that policies keep can't be stored: {error.strerror}"
            self._engine.set_reason("variables", reason)

    def _write(self, variables: Variables) -> int:
        text, left_out = to_json(variables)
        if text != self._stored:
            self._document.number += 1
            self._document.write(text)
            self._stored = text
        return left_out


def to_json(variables: Variables) -> tuple[str, int]:
    """A JSON text of those that there is room for, entity by entity; and how many entities there is none for."""
    parts: list[str] = []
    room = LIMIT_BYTES - 1024
    for key, kept in variables.items():
        part = json.dumps({key: {name: encoded(value) for name, value in kept.items()}}, separators=(",", ":"), allow_nan=False)[1:-1]
        if len(part) < room:
            parts.append(part)
            room -= len(part) + 1
    return f"{{{','.join(parts)}}}", len(variables) - len(parts)


def from_json(content: Json) -> Variables:
    """The variables. Raises ValueError for anything that wasn't written by `to_json`."""
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return {
        key: {name: decoded(value) for name, value in strict_json.get(content, key, dict, "variables").items()} for key in content
    }
