# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the values of a message, of any signature and from anybody, in steps: between two of them others get their turn.

Part of the code that runs as root. The library's own decoder does it in one go, for seconds if somebody wants it to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from struct import Struct, unpack_from
from types import MappingProxyType
from typing import Any, TypeVar

from momservice.bus.library import signature_tree, variant

# Of a call: the policies, parameters or samples of the largest hosts have a third of that. 200 bytes of memory each.
MAX_VALUES = 1 << 17
# Less than a millisecond's.
VALUES_PER_STEP = 500
# What the specification allows for one signature; variants in variants could go on for ever.
MAX_DEPTH = 64

# struct's codes of the types of fixed size.
CODES = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
NUMBERS = CODES.keys() - {"b"}
PAIR = "{"
# Type -> that of its length.
TEXTS: Mapping[str, str] = {"s": "u", "o": "u", "g": "y"}
FIXED: Mapping[str, Mapping[str, Struct]] = MappingProxyType(
    {order: {code: Struct(order + form) for code, form in CODES.items()} for order in "<>"}
)
ALIGNMENT = {**{code: form.size for code, form in FIXED["<"].items()}, "s": 4, "o": 4, "g": 1, "a": 4, "v": 1, "(": 8, "{": 8}

T = TypeVar("T")
Steps = Generator[None, None, T]


class TooMuch(ValueError):
    """More values than a message may have."""


class Decoder:
    """Reads one value after the other. `order`: struct's sign of the byte order. `offset`: where the next value begins.

    All methods raise ValueError, or what struct, dict or the library raise, for what isn't as it should be.
    """

    def __init__(self, order: str, data: bytearray, offset: int = 0, most: int = MAX_VALUES) -> None:
        self.offset = offset
        self._order, self._fixed, self._data = order, FIXED[order], data
        self._left, self._pause = most, most - VALUES_PER_STEP

    def basic(self, code: str) -> Any:
        """A value that isn't a container."""
        if form := self._fixed.get(code):
            self.align(form.size)
            (value,) = form.unpack_from(self._data, self.offset)
            self.offset += form.size
            return bool(value) if code == "b" else value
        if code not in TEXTS:
            raise ValueError(f"there is no basic type '{code}'")
        length = self.basic(TEXTS[code])
        start, self.offset = self.offset, self.offset + length + 1
        if self.offset > len(self._data):
            raise ValueError("a text ends beyond its message")
        return self._data[start : self.offset - 1].decode()

    def any(self, kind: Any, depth: int = 0) -> Steps[Any]:
        """A value of this type."""
        if depth > MAX_DEPTH:
            raise ValueError("containers are nested too deeply")
        read = CONTAINERS.get(kind.token)
        return (yield from read(self, kind, depth)) if read else self.basic(kind.token)

    def align(self, size: int) -> None:
        """Go on to the next multiple of `size`."""
        self.offset += -self.offset % size

    def _count(self, number: int) -> Steps[None]:
        self._left -= number
        if self._left < 0:
            raise TooMuch("the arguments have too many values")
        if self._left < self._pause:
            self._pause = self._left - VALUES_PER_STEP
            yield

    def _struct(self, kind: Any, depth: int) -> Steps[list[Any]]:
        self.align(8)
        values = []
        yield from self._count(len(kind.children))
        for child in kind.children:
            values.append((yield from self.any(child, depth + 1)) if child.token in CONTAINERS else self.basic(child.token))
        return values

    def _variant(self, _kind: Any, depth: int) -> Steps[Any]:
        signature = self.basic("g")
        # To read a type takes as long as to read as many values, and as much memory.
        yield from self._count(len(signature))
        (kind,) = signature_tree(signature).types
        return variant(kind, (yield from self.any(kind, depth + 1)))

    def _array(self, kind: Any, depth: int) -> Steps[Any]:
        length = self.basic("u")
        (child,) = kind.children
        self.align(ALIGNMENT[child.token])
        end = self.offset + length
        if end > len(self._data):
            raise ValueError("an array ends beyond its message")
        read: Steps[Any]
        if child.token in NUMBERS:
            read = self._numbers(child.token, length)
        else:
            read = (self._dictionary if child.token == PAIR else self._list)(child, end, depth)
        values = yield from read
        if self.offset != end:
            raise ValueError("an array's length isn't that of its values")
        return values

    def _numbers(self, code: str, length: int) -> Steps[bytes | list[Any]]:
        start, count = self.offset, length // ALIGNMENT[code]
        self.offset += count * ALIGNMENT[code]
        if code == "y":
            return bytes(self._data[start : self.offset])
        yield from self._count(count)
        return list(unpack_from(f"{self._order}{count}{CODES[code]}", self._data, start))

    def _list(self, child: Any, end: int, depth: int) -> Steps[list[Any]]:
        values = []
        while self.offset < end:
            yield from self._count(1)
            values.append((yield from self.any(child, depth + 1)) if child.token in CONTAINERS else self.basic(child.token))
        return values

    def _dictionary(self, child: Any, end: int, depth: int) -> Steps[dict[Any, Any]]:
        key, value = child.children
        values = {}
        while self.offset < end:
            yield from self._count(1)
            self.align(8)
            name = self.basic(key.token)
            values[name] = (yield from self.any(value, depth + 1)) if value.token in CONTAINERS else self.basic(value.token)
        return values


# Not each decoder's own: what refers to itself has to be collected, and there is a decoder for every message.
CONTAINERS: Mapping[str, Callable[[Decoder, Any, int], Steps[Any]]] = {
    "a": Decoder._array,
    "(": Decoder._struct,
    "v": Decoder._variant,
}


def decoding(order: str, signature: str, body: bytearray, most: int = MAX_VALUES) -> Steps[list[Any]]:
    """The values of a body. Raises ValueError for one that isn't what its signature says, TooMuch for more than `most` values."""
    try:
        decoder, values = Decoder(order, body, 0, most), []
        for kind in signature_tree(signature).types:
            values.append((yield from decoder.any(kind)))
        return values
    except TooMuch:
        raise
    except Exception as error:
        # struct and the library have errors of their own.
        raise ValueError(f"the message can't be decoded: {error}") from error


def at_once(steps: Steps[T]) -> T:
    """The outcome, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: T = end.value
            return outcome


async def in_turns(steps: Steps[T]) -> T:
    """The outcome; between two steps the loop does what else there is to do."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: T = end.value
            return outcome
        await asyncio.sleep(0)
