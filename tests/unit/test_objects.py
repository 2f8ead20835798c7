# SPDX-License-Identifier: GPL-2.0-or-later
"""Which paths there are, and what is below them, whatever comes and goes; and that nobody's question looks through all objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momservice.bus.objects import CallError, Export, Objects

PATHS = st.lists(st.sampled_from("ab"), max_size=3).map(lambda names: "/" + "/".join(names))
PEER = "org.freedesktop.DBus.Peer"
INTROSPECT = ("org.freedesktop.DBus.Introspectable", "Introspect")


def there(objects: Objects, path: str) -> bool:
    try:
        objects.find(path, PEER, "Ping")
    except CallError as error:
        assert error.name.endswith("UnknownObject")
        return False
    return True


def below(objects: Objects, path: str) -> list[str]:
    (text,) = objects.standard(objects.find(path, *INTROSPECT), ())
    return [node.get("name", "") for node in ElementTree.fromstring(text).iter("node")][1:]  # our own


@given(st.lists(st.tuples(st.booleans(), PATHS), max_size=12))
def test_nodes_are_there_as_long_as_something_is_at_them_or_below(changes: list[tuple[bool, str]]) -> None:
    objects, served = Objects(), set[str]()
    for serve, path in changes:
        if serve:
            objects.serve(path, ())
            served.add(path)
        else:
            objects.withdraw(path)
            served.discard(path)
    for path in ("/", "/a", "/b", "/a/a", "/a/b", "/a/a/b", "/b/a"):
        inside = path.rstrip("/") + "/"
        names = sorted({other.removeprefix(inside).split("/")[0] for other in served if other.startswith(inside) and other != path})
        assert there(objects, path) == bool(path in served or names)
        if there(objects, path):
            assert below(objects, path) == names


class NotLookedThrough(dict[str, Mapping[str, Export]]):
    """A table whose entries can be had by name only."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all objects are looked through")


@pytest.mark.parametrize("path", ["/", "/a", "/a/0", "/nowhere", "/a/nowhere"])
def test_no_call_looks_through_all_objects(path: str) -> None:
    objects: Any = Objects()
    for number in range(10):
        objects.serve(f"/a/{number}", ())
    objects._exports, objects._children = NotLookedThrough(objects._exports), NotLookedThrough(objects._children)
    assert there(objects, path) == ("nowhere" not in path)
