# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON that people write or keep: read whole or not at all, with nothing passed over in silence."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from momservice.text import shown

FILE_BYTES: Final = 64 * 1024 * 1024
# Longer integers than any that a policy can have; Python's conversion is quadratic in their length.
_DIGITS: Final = 100

Json: TypeAlias = Any
Kind = TypeVar("Kind")


def read(path: str | Path, limit_bytes: int = FILE_BYTES) -> Json:
    """The value that a file of UTF-8 JSON holds; "-" is standard input. Raises ValueError, one line: the file and what is wrong."""
    return parse(read_text(path, limit_bytes), str(path))


def read_text(path: str | Path, limit_bytes: int) -> str:
    """The text of a UTF-8 file; "-" is standard input. Raises ValueError as `read`."""
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb") as stream:
            content = stream.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise ValueError(f"{path}: over {limit_bytes // 1024} KiB")
        return content.decode("utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start})") from None


def parse(text: str, where: str) -> Json:
    """The value of a JSON text. Raises ValueError, one line that begins with `where`.

    A key that an object has twice, NaN and Infinity (which JSON lacks), and numbers too large to keep are errors.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"{where}: nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # it gives None
        raise ValueError(f"an object has {quoted(twice)} twice")
    return made


def _constant(name: str) -> NoReturn:
    wanted = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[name]
    raise ValueError(f'{name} is not JSON; write {{"$float": "{wanted}"}}')


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{shown(digits, 40)} is too large for a float")
    return number


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("an integer of more than 256 bits")
    return int(digits)


def quoted(name: str) -> str:
    """A name for a message."""
    return f"'{shown(name, 60)}'"


def get(holder: Json, key: str, kind: type[Kind], where: str, default: Kind | None = None) -> Kind:
    """What an object has under a key, of this type. Raises ValueError for another one, and for none without a default."""
    if not isinstance(holder, dict):
        raise ValueError(f"{where}: not an object")
    value = holder.get(key, default)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    wanted = {"dict": "an object", "list": "a list", "str": "a text", "int": "an integer", "bool": "true or false"}[kind.__name__]
    raise ValueError(f"{where}: {quoted(key)} is missing" if key not in holder else f"{where}: {quoted(key)} is not {wanted}")


def only(holder: Mapping[str, Json], keys: Collection[str], where: str) -> None:
    """Raises ValueError for a key that isn't one of these."""
    unknown = sorted(holder.keys() - set(keys))
    if unknown:
        raise ValueError(f"{where}: unknown key {quoted(unknown[0])}; there are {', '.join(keys)}")
