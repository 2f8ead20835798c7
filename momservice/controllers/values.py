# SPDX-License-Identifier: GPL-2.0-or-later
"""The value rules that all controls share: what a policy may hand to a control, and what number it means. Pure."""

from __future__ import annotations

import math

from momservice.fields import Control
from momservice.snapshot import Value


class ValueRefused(Exception):
    """The policy's value means no number for this control: one line of text says why."""


def to_integer(control: Control, value: Value) -> int | None:
    """The number that the value means, rounded down and not yet clamped; None for nil, which is no control.

    Raises ValueRefused for text, lists, numbers that aren't finite and negative ones (but those in `control.also`).
    """
    if value is None:
        return None
    if not isinstance(value, bool | int | float):
        raise ValueRefused(f"{'text' if isinstance(value, str) else 'a list'} is no value for {control.name}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueRefused(f"{value} is no value for {control.name}")
    if value < 0 and value not in control.also:
        raise ValueRefused(f"a negative number is no value for {control.name}")
    return math.floor(value)


def clamp(control: Control, number: int) -> int:
    """The nearest number in the control's range."""
    return number if number in control.also else max(control.minimum, min(number, control.maximum))
