# SPDX-License-Identifier: GPL-2.0-or-later
"""The values of the language: nil, bool, int, float, string, list, entity, object. A closed world: nothing else exists in a run.

nil is None, a list is `List`, an entity is `Thing`, an object in a field `Record`; the others are the Python types of the same name,
exactly (no subclasses).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from momservice.decisions import LONGEST_NAME, Opaque
from momservice.fields import EntityKind, Names
from momservice.snapshot import EMPTY, Value
from momservice.text import shown as printable

INTEGER_BITS: Final = 256
STRING_BYTES: Final = 64 * 1024
LIST_VALUES: Final = 1_000_000
# How deep lists may nest: showing them and taking them in recurses.
LIST_DEPTH: Final = 32
# Integers of the language are less, whatever their sign.
WIDE: Final = 1 << INTEGER_BITS


class PolicyError(Exception):
    """An error of the language. `code` is its class ("type", "name", "value"...); the text is one line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# The host's place beside those of the guests.
HOST_INDEX: Final = -1


# Not frozen: to make a frozen one takes three times as long, and every run makes some.
@dataclass(slots=True, eq=False)
class Thing:
    """An entity in a run, never changed; it is equal only to itself.

    `key`: the snapshot's. `names` says which fields and properties it has. `index`: its place among the guests, HOST_INDEX for the host.
    """

    kind: EntityKind
    key: str
    names: Names
    index: int = HOST_INDEX


# Takes the steps that something costs. Raises PolicyError("limit"), or whatever else a run ends by, when there aren't so many.
Pay: TypeAlias = Callable[[int], None]


def _free(_steps: int) -> None:
    """Where nothing is paid: what is taken in is ours, or has been paid for."""


class Record:
    """An object in a field: a disk in a guest's `io_tune`, or one of its sets of limits. It equals what was read from there before.

    `source`: its members as the snapshot has them, taken in one by one when they are read. `owner`: the key of the entity it belongs to.
    `item`: the name of the disk. `role`: "item" for the disk, else the member of the disk it is ("current"...). `depth`: how deep it lies.
    `figures`: for the compiled form, what integers its members are now; empty where it must ask.
    """

    __slots__ = ("depth", "figures", "item", "owner", "role", "source")

    def __init__(  # one for each slot
        self, source: Mapping[str, Value], owner: str, item: str, role: str, depth: int, figures: Mapping[str, Value] = EMPTY
    ) -> None:
        self.source = source
        self.owner = owner
        self.item = item
        self.role = role
        self.depth = depth
        self.figures = figures

    @property
    def weight(self) -> int:
        """What it adds to the weight of a list."""
        return len(self.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.source is other.source and self.owner == other.owner

    def __hash__(self) -> int:
        return id(self.source)

    def member(self, name: str, pay: Pay = _free) -> Datum:
        """The value of a member, nil if it has none. `pay`, and raises: as `inward`."""
        return inward(self.source.get(name), self.owner, self.depth + 1, (self.item, name if self.role == "item" else self.role), pay)


class List:
    """A list. `weight` counts its values, nested ones included, so that what a list costs is known without walking it.

    Raises PolicyError("value") beyond a million values or 32 lists inside each other.
    """

    __slots__ = ("depth", "items", "weight")
    items: tuple[Datum, ...]
    weight: int
    depth: int

    def __init__(self, items: Iterable[Datum]) -> None:
        self.items = tuple(items)
        self.weight = len(self.items)
        self.depth = 1
        for item in () if _HOLDERS.isdisjoint(map(type, self.items)) else self.items:
            if type(item) is Record:
                self.weight += len(item.source)
            elif type(item) is List:
                self.weight += item.weight
                self.depth = max(self.depth, item.depth + 1)
        if self.weight > LIST_VALUES:
            raise PolicyError("value", f"a list of more than {LIST_VALUES} values")
        if self.depth > LIST_DEPTH:
            raise PolicyError("value", f"more than {LIST_DEPTH} lists inside each other")

    def __bool__(self) -> bool:
        return bool(self.items)


# What adds to a list more than one value.
_HOLDERS: Final = frozenset({Record, List})
Datum: TypeAlias = bool | int | float | str | List | Thing | Record | None
NUMBERS: Final = frozenset({bool, int, float})
# What may be of any value, and costs nothing to take in.
FREE: Final = frozenset({type(None), bool, float})


def short(name: str) -> str:
    """A name for a message: at most some 60 characters, all printable."""
    return printable(name, LONGEST_NAME)


def kind_of(value: Datum) -> str:
    """The name of a value's type, with its article, for messages."""
    return kind_name(type(value))


def kind_name(kind: type) -> str:
    """The name of a type, with its article."""
    return _KIND_NAMES.get(kind, "nil")


_KIND_NAMES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    List: "a list",
    Thing: "an entity",
    Record: "an object",
}


def truth(value: Datum) -> bool:
    """False are nil, false, 0, 0.0, "" and the empty list."""
    return bool(value)


def integer(value: int) -> int:
    """The integer, if it has at most 256 bits. Raises PolicyError("value")."""
    if -WIDE < value < WIDE:
        return value
    raise PolicyError("value", f"an integer of more than {INTEGER_BITS} bits")


def text(value: str) -> str:
    """The string, if it has at most 64 KiB. Raises PolicyError("value")."""
    if len(value) <= STRING_BYTES // 4:
        return value
    if len(value) > STRING_BYTES or len(value.encode(errors="surrogatepass")) > STRING_BYTES:
        raise PolicyError("value", f"a string of more than {STRING_BYTES // 1024} KiB")
    return value


def inward(value: Value, owner: str = "", depth: int = 0, part: tuple[str, str] | None = None, pay: Pay = _free) -> Datum:
    """A value of the snapshot as one of the language. Raises PolicyError("value") for what is too large or none of the types.

    `owner`: the key of the entity it is read from. `part`: within an object, the item's name and the member's. `pay` is told the weight of
    lists and objects, piece by piece, each before it is walked: snapshots may hold lists of any length.
    """
    kind = type(value)
    if value is None or kind is float or kind is bool:
        return value  # type: ignore[return-value]  # mypy does not narrow by `kind`
    if kind is dict and depth < LIST_DEPTH:
        pay(len(value))  # type: ignore[arg-type]  # as above
        return _record(value, owner, depth, part)  # type: ignore[arg-type]  # as above
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, int):
        return integer(int(value))
    if isinstance(value, list | tuple) and depth < LIST_DEPTH:
        depth += 1
        pay(len(value))
        # Disks, mostly: without another look at what they are.
        records = depth < LIST_DEPTH
        pay(sum([len(i) for i in value if records and type(i) is dict]))
        return List([_record(i, owner, depth, part) if records and type(i) is dict else inward(i, owner, depth, part, pay) for i in value])
    if isinstance(value, Mapping) and depth < LIST_DEPTH:
        pay(len(value))
        return _record(value, owner, depth, part)
    raise PolicyError("value", "the snapshot holds a value that the language has no type for")


def _record(value: Mapping[str, Value], owner: str, depth: int, part: tuple[str, str] | None) -> Record:
    if part is not None:
        return Record(value, owner, *part, depth)
    name = value.get("name")
    return Record(value, owner, text(str(name)) if isinstance(name, str) else "", "item", depth)


def plain(value: Datum) -> Value:
    """A value read from the snapshot as data again; what the language has no type for is nil."""
    if type(value) is Record:
        return {name: _plain_member(value, name) for name in value.source}
    return [plain(inner) for inner in value.items] if type(value) is List else outward(value)


def _plain_member(record: Record, name: str) -> Value:
    try:
        return plain(record.member(name))
    except PolicyError:
        return None


def outward(value: Datum) -> Value:
    """A value as plain data, lists as lists. Raises PolicyError("type") for an entity or object, or a list that holds one."""
    if type(value) is Thing or type(value) is Record:
        raise PolicyError("type", f"{kind_of(value)} can't be stored or sent")
    if type(value) is List:
        return [outward(item) for item in value.items]
    return value  # type: ignore[return-value]  # neither entity nor list is left


def cost(*operands: Datum) -> int:
    """The steps that an operation takes beyond its own: one for each value in its lists and for each 16 characters of its strings."""
    return sum(_weight(value) for value in operands)


def _weight(value: Datum) -> int:
    if isinstance(value, str):
        return len(value) >> 4
    return value.weight if isinstance(value, List | Record) else 0


def shown(value: Datum) -> object:
    """A value as results show it: entities as Opaque, lists as lists."""
    if type(value) is Thing:
        return Opaque(value.kind)
    if type(value) is Record:
        return Opaque("object")
    return [shown(item) for item in value.items] if type(value) is List else value


def as_text(value: Datum) -> str:
    """A value as a debug line shows it, at most some 200 characters, all printable."""
    if type(value) is Thing:
        return value.key
    if type(value) is List:
        return f"<list of {len(value.items)}>"
    if type(value) is Record:
        return f"<object {printable(value.item)}>"
    if isinstance(value, str):
        return printable(value)
    return {None: "nil", True: "true", False: "false"}[value] if value is None or type(value) is bool else repr(value)


def typed_like(default: Value, value: Value) -> Value:
    """`value` for a parameter whose default is `default`: int takes int and bool, float any number, string a string, nil anything.

    Raises ValueError with one line.
    """
    try:
        outward(inward(value))
    except PolicyError as error:
        raise ValueError(error.message) from None
    if default is None or (isinstance(default, str) and isinstance(value, str)):
        return value
    if isinstance(default, float) and isinstance(value, bool | int | float):
        return float(value)
    if isinstance(default, int) and isinstance(value, bool | int):
        return int(value)
    wanted = "a number" if isinstance(default, float) else "an integer" if isinstance(default, int) else "a string"
    raise ValueError(f"takes {wanted}")
