# SPDX-License-Identifier: GPL-2.0-or-later
"""What is marshalled piece by piece reads as what the library would have sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momservice.bus.connection import Variant
from momservice.bus.decoder import at_once, decoding
from momservice.bus.marshal import array, dictionaries, entries, entry, keyed, of_arrays, texts
from momservice.bus.variants import to_variants

TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), TEXTS)
SAMPLES = st.dictionaries(TEXTS, VALUES, max_size=6)
PROPERTIES: Mapping[str, st.SearchStrategy[Any]] = {
    "b": st.booleans(),
    "u": st.integers(0, 2**32 - 1),
    "t": st.integers(0, 2**64 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "d": st.floats(allow_nan=False),
    "s": TEXTS,
    "as": st.lists(TEXTS, max_size=3),
    "a{ss}": st.dictionaries(TEXTS, TEXTS, max_size=3),
}
TYPED = st.one_of(*(st.tuples(st.just(signature), values) for signature, values in PROPERTIES.items()))


def read(signature: str, body: bytes) -> list[Any]:
    return at_once(decoding("<", signature, bytearray(body)))


@given(SAMPLES, st.dictionaries(TEXTS, SAMPLES, max_size=4))
def test_statistics_read_as_they_are(host: dict[str, Any], guests: dict[str, dict[str, Any]]) -> None:
    start = array(entries(host))
    body = start + array([keyed(uuid, entries(sample)) for uuid, sample in guests.items()], len(start))
    expected = [to_variants(host), {uuid: to_variants(sample) for uuid, sample in guests.items()}]
    assert read("a{sv}a{sa{sv}}", body) == expected


@given(st.dictionaries(TEXTS, TYPED, max_size=6))
def test_properties_read_as_they_are(values: dict[str, tuple[str, Any]]) -> None:
    body = array([entry(name, signature, value) for name, (signature, value) in values.items()])
    assert read("a{sv}", body) == [{name: Variant(signature, value) for name, (signature, value) in values.items()}]


ROWS = st.lists(st.dictionaries(TEXTS, TYPED, max_size=4), max_size=4)
CALLS = st.lists(st.tuples(TEXTS, TEXTS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)).map(list), max_size=3)


def variants(row: Mapping[str, tuple[str, Any]]) -> dict[str, Variant]:
    return {name: Variant(signature, value) for name, (signature, value) in row.items()}


@given(ROWS, ROWS, CALLS, TEXTS)
def test_rows_of_dictionaries_read_as_they_are(first: list[Any], inner: list[Any], calls: list[Any], name: str) -> None:
    rows = [variants(row) for row in first] + [
        {name: Variant("aa{sv}", [variants(row) for row in inner])},
        {name: Variant("a(ssuu)", calls)},
    ]
    body = of_arrays(dictionaries(rows))
    # Behind another argument, wherever that ends.
    body += of_arrays(dictionaries(rows, len(body)), len(body))
    assert read("aa{sv}aa{sv}", body) == [rows, rows]


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=5))
def test_pairs_of_texts_read_as_they_are(pairs: list[list[str]]) -> None:
    assert read("a(ss)", array([texts(*pair) for pair in pairs])) == [pairs]


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError):
        entries({"a": [1]})
    with pytest.raises(TypeError):
        entry("a", "ay", b"x")


def test_texts_lose_what_the_bus_refuses() -> None:
    assert read("a{sv}", array(entries({"a": "x\0y"}))) == [{"a": Variant("s", "x\ufffdy")}]
