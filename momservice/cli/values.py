# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of policies, and calls in them, as momctl prints them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from momservice.decisions import Call, Opaque
from momservice.snapshot_text import encoded
from momservice.strict_json import Json
from momservice.text import shown


def plain_calls(calls: Sequence[Call]) -> list[dict[str, Json]]:
    """Calls for JSON."""
    return [{"function": call.function, **asdict(call.place)} for call in calls]


def shown_value(value: object) -> str:
    """A value for people."""
    return shown(json.dumps(written(value), ensure_ascii=False))


def readable(value: object) -> str:
    """A value for people who don't mind the last digits."""
    return f"{value:.10g}" if isinstance(value, float) else shown_value(value)


def written(value: Json) -> Json:
    """A value for JSON, as in files of snapshots."""
    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    return {"$opaque": value.kind} if isinstance(value, Opaque) else encoded(value)
