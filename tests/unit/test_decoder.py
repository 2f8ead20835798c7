# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding what others send: all types as the library encodes them, and what isn't as it should be."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from momservice.bus import library
from momservice.bus.decoder import MAX_DEPTH, TooMuch, at_once, decoding
from momservice.bus.library import Message, Variant, marshal


def encoded(signature: str, *values: Any) -> bytearray:
    """A body as the library makes it."""
    data = marshal(Message("a.b", "/a", "a.b", "X", signature=signature, body=list(values), serial=1))
    (size,) = struct.unpack_from("<I", data, 4)
    return data[len(data) - size :]


def decoded(signature: str, body: bytes | bytearray, order: str = "<", most: int = 1000) -> list[Any]:
    return at_once(decoding(order, signature, bytearray(body), most))


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("", []),
        ("ybnqiuxtd", [255, True, -2, 2, -3, 3, -(2**63), 2**64 - 1, 0.5]),
        ("sog", ["h\N{LATIN SMALL LETTER E WITH ACUTE}", "/a/b", "a{sv}"]),
        ("ayasauad", [b"xyz", ["", "a"], [1, 2], [0.5]]),
        ("yaxab", [1, [-1, 2**62], [True, False]]),
        ("(y(sx))", [[1, ["a", -1]]]),
        ("a{ss}a{ya{sx}}", [{"a": "b"}, {1: {"x": -1}, 2: {}}]),
        ("a(sttts)at", [[["a", 1, 2, 3, "b"], ["c", 4, 5, 6, ""]], []]),
        ("av", [[Variant("s", "x"), Variant("as", ["y"]), Variant("v", Variant("(yt)", [1, 2]))]]),
        ("aa{sv}u", [[{"a": Variant("b", False)}, {}], 7]),
    ],
)
def test_values_come_back_as_they_were_sent(signature: str, values: list[Any]) -> None:
    assert decoded(signature, encoded(signature, *values)) == values


def test_both_byte_orders_are_read() -> None:
    assert decoded("uas", struct.pack(">IIIcx", 7, 6, 1, b"a"), ">") == [7, ["a"]]


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("u", b"\1\0"),
        ("s", b"\xff\xff\xff\xff"),
        ("s", b"\1\0\0\0\xff\0"),
        ("as", b"\xff\0\0\0"),
        # The array ends within its value.
        ("as", b"\1\0\0\0" + b"\4\0\0\0aaaa\0"),
        ("au", b"\3\0\0\0" + bytes(4)),
        ("v", b"\2yy\0" + bytes(8)),
        ("v", b"\0\0"),
        ("v", b"\1z\0"),
        ("a{vs}", b"\x09\0\0\0" + bytes(16)),
    ],
)
def test_what_is_not_as_it_should_be_is_told(signature: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="can't be decoded"):
        decoded(signature, body)


def test_variants_in_variants_come_to_an_end() -> None:
    def nested(depth: int) -> bytes:
        return b"\1v\0" * depth + b"\1y\0\7"

    assert decoded("v", nested(MAX_DEPTH // 2))
    with pytest.raises(ValueError, match="nested too deeply"):
        decoded("v", nested(100_000))


@pytest.mark.parametrize(
    ("signature", "value"),
    [("as", [""] * 1001), ("au", [0] * 1001), ("a{ys}", dict.fromkeys(range(256), "")), ("av", [Variant("y", 1)] * 501)],
)
def test_values_are_counted_wherever_they_are(signature: str, value: Any) -> None:
    body = encoded(signature, value)
    with pytest.raises(TooMuch):
        decoded(signature, body, most=255 if signature == "a{ys}" else 1000)
    assert decoded(signature, body, most=2000) == [value]


def signatures(number: int) -> bytes:
    """The body of an `av`: each variant has a long signature that hasn't been seen, and an empty array for a value."""
    body = bytearray(4)
    for n in range(number):
        signature = f"a({f'{n:032b}'.replace('0', 'i').replace('1', 'u')}{'y' * 200})".encode()
        body += bytes([len(signature)]) + signature + b"\0"
        body += bytes(-len(body) % 4 + 4)
        body += bytes(-len(body) % 8)
    struct.pack_into("<I", body, 0, len(body) - 4)
    return bytes(body)


def test_signatures_of_variants_are_counted_by_their_length() -> None:
    """Each takes 0.3 ms and 40 kB."""
    assert len(list(decoding("<", "av", bytearray(signatures(100))))) >= 30
    with pytest.raises(TooMuch):
        decoded("av", signatures(100), most=100 * 235)


def test_long_signatures_are_not_kept() -> None:
    before = library._cached_tree.cache_info().misses
    decoded("av", signatures(10), most=10_000)
    assert library._cached_tree.cache_info().misses <= before + 1


def test_others_get_their_turn() -> None:
    steps = decoding("<", "as", encoded("as", ["x"] * 10_000))
    assert len(list(steps)) >= 10
