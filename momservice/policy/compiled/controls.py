# SPDX-License-Identifier: GPL-2.0-or-later
"""The controls of a run as others see them: made into `Wanted` only when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from momservice.decisions import Wanted


class Controls(Sequence[Wanted]):
    """The controls of a run; each is made into a `Wanted` when it is asked for."""

    def __init__(self, make: Callable[[], Sequence[Wanted]]) -> None:
        self._make: Callable[[], Sequence[Wanted]] | None = make
        self._made: Sequence[Wanted] = ()

    def _all(self) -> Sequence[Wanted]:
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made

    @overload
    def __getitem__(self, index: int) -> Wanted: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Wanted]: ...

    def __getitem__(self, index: int | slice) -> Wanted | Sequence[Wanted]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return list(self._all()) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._all()))

    def __repr__(self) -> str:
        return repr(list(self._all()))
