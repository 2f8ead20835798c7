# SPDX-License-Identifier: GPL-2.0-or-later
"""How momctl's verbs are declared, so that all of them have the same help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], int]


def add_verb(
    verbs: Verbs,
    name: str,
    what: str,
    run: Run,
    *,
    more: str = "",
    parents: Sequence[argparse.ArgumentParser] = (),
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """A verb. `what` it does is half a sentence for lists of verbs; its own help has it too, with the sentences of `more`."""
    description = f"{what[0].upper()}{what[1:]}. {more}".strip()
    verb = verbs.add_parser(name, help=what, description=description, epilog=epilog, parents=list(parents))
    verb.set_defaults(run=run)
    return verb
