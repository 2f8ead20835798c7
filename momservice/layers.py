# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in force by origin: files are the base, what clients load, hide and set lies over it and is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from momservice import errors, strict_json
from momservice.bus.names import MAX_PARAMETERS, MAX_POLICIES, MAX_TEXT_BYTES, POLICY_NAME
from momservice.policy import Program
from momservice.snapshot import Value
from momservice.snapshot_file import decoded
from momservice.snapshot_text import encoded
from momservice.strict_json import Json, quoted

DOCUMENT: Final = "policies"
VERSION: Final = 1
# What clients may have loaded and set, where JSON writes each byte as six.
LIMIT_BYTES: Final = 8 * 1024 * 1024
_WHERE: Final = "content"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's value in force. `time_us`: when it was set, microseconds since the epoch; `uid`: by whom; both only for a client's.

    `origin`: "file", the default that a policy file gives; "default", that of a policy which a client loaded; "client", a client's value.
    """

    value: Value
    origin: Literal["default", "file", "client"]
    time_us: int = 0
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Layers:
    """The texts by origin, and the parameters that clients set. A new set is made for each change.

    `left_out`: those of `texts` that can't run with the present files, with a line that says why; they wait for files that they run with.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def clients(self) -> dict[str, str]:
        """The texts of clients that are in force, by name."""
        return {name: text for name, text in self.texts.items() if name not in self.left_out}

    def effective(self) -> dict[str, str]:
        """The set in force, by name."""
        return {name: text for name, text in self.files.items() if name not in self.hidden} | self.clients()

    def with_texts(self, texts: Mapping[str, str], *, others: bool) -> Layers:
        """With these; without `others`, nothing but these."""
        hidden = (self.hidden if others else frozenset(self.files)) - texts.keys()
        left_out = {name: why for name, why in self.left_out.items() if others and name not in texts}
        return replace(self, texts={**(self.texts if others else {}), **texts}, left_out=left_out, hidden=hidden)

    def without(self, name: str) -> Layers:
        """Without this one. Raises UnknownPolicy."""
        if name not in self.effective() and name not in self.texts:
            raise errors.UnknownPolicy(f"there is no policy named {name}")
        texts = {other: text for other, text in self.texts.items() if other != name}
        left_out = {other: why for other, why in self.left_out.items() if other != name}
        hidden = self.hidden | (self.files.keys() & {name})
        if len(hidden) > MAX_POLICIES:
            # Names of files that have gone aren't gathered for ever.
            hidden &= self.files.keys()
        return replace(self, texts=texts, left_out=left_out, hidden=hidden)

    def with_parameters(self, program: Program, given: Mapping[str, Parameter], *, others: bool) -> Layers:
        """With these values; without `others`, with nothing but these. Raises UnknownParameter, InvalidArgs, LimitsExceeded."""
        for name, parameter in given.items():
            if name not in program.parameters:
                raise errors.UnknownParameter(f"no policy in force gives a parameter '{name}' a default by defvar")
            try:
                program.coerce_parameter(name, parameter.value)
            except ValueError as error:
                raise errors.InvalidArgs(str(error)) from None
        kept = {**(self.parameters if others else {}), **given}
        if not _within_limits(kept):
            # Those that wait for a policy which knows them have to go first.
            kept = {name: parameter for name, parameter in kept.items() if name in program.parameters}
        if not _within_limits(kept):
            raise errors.LimitsExceeded(f"at most {MAX_PARAMETERS} parameters and {MAX_TEXT_BYTES} bytes of them can be set")
        return replace(self, parameters=kept)


def _within_limits(parameters: Mapping[str, Parameter]) -> bool:
    return len(parameters) <= MAX_PARAMETERS and sum(_bytes(name, each.value) for name, each in parameters.items()) <= MAX_TEXT_BYTES


def _bytes(name: str, value: Value) -> int:
    return len(name.encode()) + (len(value.encode()) if isinstance(value, str) else 8)


# As it is stored


def to_json(layers: Layers) -> str:
    """What clients have loaded, hidden and set, as a JSON text."""
    parameters = {
        name: {"value": encoded(each.value), "time_us": each.time_us, "uid": each.uid} for name, each in layers.parameters.items()
    }
    content = {"texts": dict(layers.texts), "hidden": sorted(layers.hidden), "parameters": parameters}
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def from_json(content: Json) -> Layers:
    """The layers without files. Raises ValueError for anything that wasn't written by `to_json`, except keys that it doesn't know."""
    texts = strict_json.get(content, "texts", dict, _WHERE, {})
    hidden = strict_json.get(content, "hidden", list, _WHERE, [])
    for name in [*texts, *hidden]:
        if not isinstance(name, str) or not POLICY_NAME.fullmatch(name):
            raise ValueError(f"{quoted(str(name))} is no name of a policy")
    for name in texts:
        strict_json.get(texts, name, str, "texts")
    if max(len(texts), len(hidden)) > MAX_POLICIES or sum(len(text.encode()) for text in texts.values()) > MAX_TEXT_BYTES:
        raise ValueError("more policies than clients may load")
    given = strict_json.get(content, "parameters", dict, _WHERE, {})
    parameters = {name: _parameter(each, f"parameter {quoted(name)}") for name, each in given.items()}
    if not _within_limits(parameters):
        raise ValueError("more parameters than clients may set")
    return Layers(hidden=frozenset(hidden), texts=texts, parameters=parameters)


def _parameter(given: Json, where: str) -> Parameter:
    time_us = strict_json.get(given, "time_us", int, where, 0)
    uid = strict_json.get(given, "uid", int, where) if given.get("uid") is not None else None
    if not 0 <= time_us < 1 << 63 or not 0 <= (uid or 0) < 1 << 32:
        raise ValueError(f"{where}: a number is out of range")
    return Parameter(decoded(given.get("value")), "client", time_us, uid)
