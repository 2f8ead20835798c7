# SPDX-License-Identifier: GPL-2.0-or-later
"""The value rules that all controls share."""

import pytest

from momservice.controllers.values import ValueRefused, clamp, to_integer
from momservice.fields import Control
from momservice.snapshot import Value

PLAIN = Control("size", "guest", "KiB", 10, 100, "")
QUOTA = Control("vcpu_quota", "guest", "us", 1000, 2000, "", also=frozenset({-1}))


@pytest.mark.parametrize(
    ("value", "number"),
    [(None, None), (True, 1), (False, 0), (7, 7), (7.99, 7), (0.5, 0), (1e300, int(1e300)), (10**400, 10**400), (-0.0, 0)],
)
def test_what_a_value_means(value: Value, number: int | None) -> None:
    assert to_integer(PLAIN, value) == number


@pytest.mark.parametrize("value", ["", "7", [], [7], float("nan"), float("inf"), float("-inf"), -1, -0.5, -(10**400)])
def test_what_is_refused_in_one_line(value: Value) -> None:
    with pytest.raises(ValueRefused, match=r"^.{10,80}$"):
        to_integer(PLAIN, value)


@pytest.mark.parametrize(("value", "passes"), [(-1, True), (-1.0, True), (-2, False), (-1.5, False)])
def test_a_negative_value_that_means_something_passes(value: Value, passes: bool) -> None:
    if passes:
        assert to_integer(QUOTA, value) == -1
        assert clamp(QUOTA, -1) == -1
    else:
        with pytest.raises(ValueRefused):
            to_integer(QUOTA, value)


@pytest.mark.parametrize(("number", "clamped"), [(9, 10), (10, 10), (55, 55), (100, 100), (101, 100), (10**400, 100)])
def test_clamping(number: int, clamped: int) -> None:
    assert clamp(PLAIN, number) == clamped
