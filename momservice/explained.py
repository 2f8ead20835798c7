# SPDX-License-Identifier: GPL-2.0-or-later
"""One thing that a run did for a guest or the host, as the service tells it and its clients show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from momservice.decisions import Call, Place, Read
from momservice.snapshot import Value

# What each tells: a control; that the guest was dropped from the run, or a top-level form failed and was undone; that the run went beyond
# its budget and none of it was applied; that nothing was wanted of the entity, or it wasn't there; how much more there would be to tell of
# the run; that the run isn't explained because the time for it is up.
Kind = Literal["control", "dropped", "failed", "ended", "nothing", "absent", "more", "skipped"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One thing that a run did, or failed to do, for an entity.

    `run`, `time_us` (since the epoch), `generation`: of the run. `place`, `line` (its text), `calls`: of controls and failures. Of controls
    `reads` are the inputs, `reads_left_out` how many more there were; `applied`: what was sent, None for nothing; `status` and `reason` are
    the controller's. `code`, `message`: of failures. `more`: how many rows are left out.
    """

    run: int
    time_us: int
    generation: int
    kind: Kind
    place: Place | None = None
    line: str = ""
    calls: Sequence[Call] = ()
    control: str = ""
    item: str = ""
    wanted: Value = None
    applied: int | None = None
    status: str = ""
    reason: str = ""
    reads: Sequence[Read] = ()
    reads_left_out: int = 0
    code: str = ""
    message: str = ""
    more: int = 0

    @property
    def rule(self) -> str:
        """The function in which it happened; "" in a top-level form."""
        return self.calls[-1].function if self.calls else ""
