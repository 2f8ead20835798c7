# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of the language on the bus, and parameters from it."""

from __future__ import annotations

import math

import pytest

from momservice.bus.connection import CallError, Variant, clean
from momservice.bus.variants import from_variant, plain, to_variant, to_variants
from momservice.errors import InvalidArgs


@pytest.mark.parametrize(
    ("value", "signature"),
    [(True, "b"), (7, "x"), (-(2**63), "x"), (2**63 - 1, "x"), (2**63, "d"), (-(2**64), "d"), (0.5, "d"), ("text", "s")],
)
def test_each_type_has_its_signature(value: bool | int | float | str, signature: str) -> None:
    variant = to_variant(value)
    assert (variant.signature, variant.value) == (signature, value)


def test_a_bool_stays_a_bool() -> None:
    assert to_variant(True).value is True


def test_nil_is_left_out() -> None:
    assert plain(to_variants({"a": None, "b": 0})) == {"b": 0}


def test_a_list_has_no_form() -> None:
    with pytest.raises(TypeError):
        to_variant([1])


def test_texts_lose_what_the_bus_refuses() -> None:
    assert to_variant("a\0b\udc80").value == "a\ufffdb?"


def test_error_texts_are_clean_and_one_line() -> None:
    assert str(CallError("x.y", "a\0b\nc\udc80")) == "a\ufffdb c?"
    assert clean("plain ü") == "plain ü"


@pytest.mark.parametrize("signature", list("ynqiuxt"))
def test_every_integer_type_is_taken(signature: str) -> None:
    value = from_variant("p", Variant(signature, 5))
    assert value == 5
    assert type(value) is int


def test_other_scalars_are_taken() -> None:
    assert [from_variant("p", v) for v in (Variant("b", True), Variant("d", 0.5), Variant("s", "x"))] == [True, 0.5, "x"]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(InvalidArgs, match=r"parameter p: .*not a finite number"):
        from_variant("p", Variant("d", number))


@pytest.mark.parametrize(
    "variant", [Variant("ay", b"x"), Variant("o", "/a"), Variant("g", "s"), Variant("v", Variant("s", "x")), Variant("(i)", [1])]
)
def test_other_types_are_refused(variant: Variant) -> None:
    with pytest.raises(InvalidArgs, match="parameter p"):
        from_variant("p", variant)
