# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bus objects need of the engine and the store: their whole dependency on the rest of the service.

All methods raise the classes of momservice.errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from momservice.decisions import Diagnostic
from momservice.dry_runs import DryRun
from momservice.explained import Explanation
from momservice.fields import Schema
from momservice.snapshot import Sample, Snapshot, Value
from momservice.watching import Watchers


class Parameter(Protocol):
    """One parameter: its value in force, who gave it, when (us since the epoch), and the client's uid."""

    @property
    def value(self) -> Value:
        """None for nil."""

    @property
    def origin(self) -> str:
        """`file` or `default` (of a policy: from a file, or loaded by a client), or `client`."""

    @property
    def time_us(self) -> int:
        """Microseconds since the epoch."""

    @property
    def uid(self) -> int | None:
        """None unless a client set it."""


class Engine(Protocol):
    """The cycle, as far as clients see it."""

    @property
    def watchers(self) -> Watchers:
        """Who hears what happens."""

    @property
    def interval_ms(self) -> int:
        """The interval of policy runs."""

    @property
    def hypervisor_connected(self) -> bool:
        """Whether libvirt answers."""

    @property
    def helper_available(self) -> bool:
        """Whether both helpers answered when they were last needed."""

    @property
    def last_evaluation_us(self) -> int:
        """When the last policy run began, microseconds since the epoch; 0: none yet."""

    @property
    def evaluation_duration_us(self) -> int:
        """How long it took, in microseconds."""

    @property
    def last_error(self) -> str:
        """The last error of a run or a control, "" for none."""

    def status(self) -> tuple[str, list[str]]:
        """One of starting, active, degraded, paused; and why, one line each."""

    def set_reason(self, part: str, reason: str) -> None:
        """Say in the status why another part (polkit) isn't well; "" when it is."""

    def statistics(self) -> tuple[Sample, dict[str, Sample]]:
        """The newest sample of the host, and of every guest by UUID. Nil fields are None or left out."""

    def active_guests(self) -> list[tuple[str, str]]:
        """UUID and name of every guest."""

    def pause(self, reason: str, seconds: int) -> None:
        """Stop deciding for that long (0: until `resume`)."""

    def resume(self) -> None:
        """End a pause."""

    def set_verbosity(self, level: int) -> None:
        """Log from this level of the logging module on, until the configuration is read again."""

    async def reload(self) -> None:
        """Read configuration and policy files again, all or nothing."""


class Explainer(Protocol):
    """The last runs."""

    async def explain(self, entity: str, last: int) -> Sequence[Explanation]:
        """What the last runs did for the host or a guest, newest first. Raises UnknownGuest or Busy."""


class PolicyStore(Protocol):
    """Policies and parameters in force. Each change is all-or-nothing and gives the new generation."""

    @property
    def generation(self) -> int:
        """Counts changes and starts of the service; no number is given twice."""

    def texts(self) -> dict[str, str]:
        """All policies in force: name -> text."""

    async def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """Set these; with `replace` all others go."""

    async def remove(self, name: str) -> int:
        """Remove one, or hide it if it is a file's."""

    async def reset(self) -> int:
        """Back to the files."""

    async def validate(self, texts: Mapping[str, str]) -> Sequence[Diagnostic]:
        """Check these as one whole set."""

    async def dry_run(self, texts: Mapping[str, str], given: Callable[[Schema], Snapshot] | None = None) -> DryRun:
        """What these (without any, those in force) decide in a given world, or in the live one."""

    def each_parameter(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters that are in force when the first is asked for, each with its name."""

    async def set_parameters(self, values: Mapping[str, Value], uid: int, *, replace: bool = False) -> int:
        """Set these for a client of that uid; with `replace` all others go back to the policies' defaults."""
