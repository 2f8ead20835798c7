# SPDX-License-Identifier: GPL-2.0-or-later
"""GetParameters: what everybody may ask for reads as it is, and lets others have their turn however much it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turns import turns_during

from momservice.bus.connection import Variant
from momservice.bus.decoder import at_once, decoding
from momservice.bus.policy import Policy
from momservice.bus.shared import SLICE
from momservice.layers import Parameter


class Store:
    """As much of a store as it takes."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self.each_parameter = lambda: iter(parameters.items())


def answer(parameters: Mapping[str, Parameter]) -> tuple[bytes, int]:
    """The body, and how many turns others had meanwhile."""
    nothing: Any = None
    store: Any = Store(parameters)

    return turns_during(lambda: Policy(store, nothing, nothing).get_parameters(nothing))


def test_parameters_read_as_they_are() -> None:
    parameters = {
        "a": Parameter(0.5, "default"),
        "b": Parameter("x", "client", 2**62, 4_000_000_000),
        "c": Parameter(None, "file"),
        "d": Parameter(True, "client", 1, 0),
        "e": Parameter(2**70, "file"),
    }
    unset = {"time": Variant("t", 0)}
    assert at_once(decoding("<", "a{sa{sv}}", bytearray(answer(parameters)[0]))) == [
        {
            "a": {"value": Variant("d", 0.5), "origin": Variant("s", "default"), **unset},
            "b": {
                "value": Variant("s", "x"),
                "origin": Variant("s", "client"),
                "time": Variant("t", 2**62),
                "uid": Variant("u", 4_000_000_000),
            },
            "c": {"origin": Variant("s", "file"), **unset},
            "d": {"value": Variant("b", True), "origin": Variant("s", "client"), "time": Variant("t", 1), "uid": Variant("u", 0)},
            "e": {"value": Variant("d", 2.0**70), "origin": Variant("s", "file"), **unset},
        }
    ]


def test_thousands_of_them_let_others_have_their_turn() -> None:
    assert answer({f"v{number}": Parameter(number, "default") for number in range(SLICE * 5)})[1] >= 5
