# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies as trees, and their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

# A tree: a list in round brackets, or in braces with BLOCK as its first item.
Tree: TypeAlias = "str | Sequence[Tree]"
BLOCK: Final = "{"


@dataclass(frozen=True)
class Policy:
    """The forms of a policy by fragment; shows itself as their text."""

    fragments: Mapping[str, Sequence[Tree]]
    separator: str = "\n"

    @property
    def texts(self) -> dict[str, str]:
        """What is loaded."""
        return {name: self.separator.join(map(printed, forms)) for name, forms in self.fragments.items()}

    def __repr__(self) -> str:
        return "".join(f"\n--- {name}\n{text}" for name, text in self.texts.items())


def printed(tree: Tree, indent: int = 0) -> str:
    """The text of a tree: blocks over several lines, so that places differ in line and column."""
    if isinstance(tree, str):
        return tree
    if list(tree[:1]) != [BLOCK]:
        return f"({' '.join(printed(item, indent + 1) for item in tree)})"
    inner = "".join(f"\n{' ' * (indent + 1)}{printed(item, indent + 1)}" for item in tree[1:])
    return f"{{{inner}}}"
