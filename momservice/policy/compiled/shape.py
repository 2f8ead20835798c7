# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of a compiled program: what the compiler makes and a run takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, Protocol

from momservice.decisions import Call, Place
from momservice.policy.values import Datum

if TYPE_CHECKING:
    from momservice.policy.compiled.run import Run
    from momservice.policy.compiled.run_calls import RunCalls

# The file name of generated code, by which its frames are known.
GENERATED: Final = "<policy>"

# Where something happened: the offset in the text of all fragments, and of each call that led there the function and the offset.
Site = tuple[int, Sequence[tuple[str, int]]]


class Abandoned(Exception):
    """The compiled form can't finish this run: it may come to a limit ("limit"), or something unforeseen happened (one line)."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the policy for code that finds out at run time what it calls. `steps`: the most that its body takes by itself."""

    name: str
    parameters: tuple[str, ...]
    body: Callable[[RunCalls], Datum]
    steps: int


@dataclass(frozen=True, slots=True)
class Certain:
    """Top-level forms in a row that can't fail. `code` gives their values as they are shown."""

    code: Callable[[Run, dict[str, Any]], Sequence[object]]
    steps: int
    averages: int = 0
    work: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """The top-level form number `index`.

    `static`: knows where its variables are, None if that can't be known; `dynamic`: finds out at run time.

    `steps`: the most that the static one takes outside of guests' rounds, beside `averages` of histories; `work`: what it takes beyond its
    steps; `dynamic_steps`: the most steps of the dynamic one outside of calls and loops.
    """

    index: int
    static: Callable[[Run, dict[str, Any]], object] | None
    dynamic: Callable[[RunCalls], Datum]
    steps: int
    averages: int
    work: int
    dynamic_steps: int


class Compiled(Protocol):
    """What a run needs of a compiled program."""

    @property
    def parts(self) -> Sequence[Form | Certain]:
        """The top-level forms in order."""

    @property
    def static_work(self) -> int:
        """The steps and further work of all static forms together."""

    @property
    def static_averages(self) -> int:
        """The averages that all static forms together take."""

    @property
    def sites(self) -> Sequence[Site]:
        """What the line numbers of generated code stand for."""

    @property
    def whereabouts(self) -> dict[int | Site, tuple[Place, Sequence[Call]]]:
        """Place and calls by site, as far as they have been asked for."""

    @property
    def lines(self) -> dict[tuple[CodeType, int], int]:
        """Lines of generated code by instruction, as far as they have been asked for."""

    def place(self, start: int) -> Place:
        """The place of an offset."""
