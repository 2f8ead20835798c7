# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies that run out of steps, at any operation: what spends all but a few of a form's or a round's, and budgets made small."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

from proof_choices import Choices
from proof_text import BLOCK, Policy, Tree

from momservice.fields import Schema
from momservice.policy import evaluate, load
from momservice.policy.state import FORM_STEPS, ROUND_STEPS, RUN_COUNTED, RUN_STEPS, RUN_WORK
from momservice.snapshot import Snapshot

_SPEND: Final[Tree] = ["def", "spend", ["k"], ["if", ["<", "k", "1"], "0", ["spend", ["-", "k", "1"]]]]
_MOST: Final = 150
_WITH_BODY: Final = (BLOCK, "with", "let", "def", "if", "and", "or", "eval")
_BUDGETS: Final = ("FORM_STEPS", "ROUND_STEPS", "RUN_STEPS", "RUN_WORK", "RUN_COUNTED")


def short_of_steps(choices: Choices, policy: Policy) -> Policy:
    """The policy with one of its values, wherever, left with few steps."""
    names = [name for name, forms in policy.fragments.items() if forms]
    name = choices.pick(names)
    forms = list(policy.fragments[name])
    index = choices.below(min(256, len(forms)))
    forms[index] = _within(choices, forms[index])
    first = min(policy.fragments)
    fragments = {**policy.fragments, name: forms}
    return Policy({**fragments, first: [_SPEND, *fragments[first]]}, policy.separator)


def _within(choices: Choices, tree: Tree) -> Tree:
    """Goes down to the body of a form, or not, and spends there."""
    if not isinstance(tree, str) and len(tree) > 1 and tree[0] in _WITH_BODY and choices.chance(75):
        return [*tree[:-1], _within(choices, tree[-1])]
    left = choices.below(256) + choices.below(64)
    return [BLOCK, *_spending((ROUND_STEPS if choices.chance(60) else FORM_STEPS) - left), tree]


def _spending(steps: int) -> list[Tree]:
    """Statements that take exactly so many steps, the dropping of their values included."""
    least, each = _cost_of_spending()
    trees: list[Tree] = []
    while steps > least + each * 2:
        depth = min(_MOST, (steps - least) // each)
        trees.append(["spend", str(depth)])
        steps -= least + each * depth
    # A literal and its dropping take two steps, `(not 0)` three.
    return [*trees, *(["(not 0)"] if steps % 2 else []), *["0"] * ((steps - 3 if steps % 2 else steps) // 2)]


@cache
def _cost_of_spending() -> tuple[int, int]:
    def steps(policy: Sequence[Tree]) -> int:
        program = load(Policy({"a": policy}).texts, Schema()).program
        assert program is not None
        return evaluate(program, Snapshot(), trace=True).steps

    without, none, one = (steps([_SPEND, [BLOCK, *calls, "0"]]) for calls in ([], [["spend", "0"]], [["spend", "1"]]))
    return none - without, one - none


@contextmanager
def budgets(form: int, of_round: int, run: int) -> Iterator[None]:
    """Other budgets while it lasts, wherever the policy package has them. What is to see them has to be loaded within.

    What the compiled form may take is in proportion to `run`, as it is usually.
    """
    small = dict(zip(_BUDGETS, (form, of_round, run, run * RUN_WORK // RUN_STEPS, run * RUN_COUNTED // RUN_STEPS), strict=True))
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("momservice.policy")]
    before = [(module, name, getattr(module, name)) for module in modules for name in _BUDGETS if hasattr(module, name)]
    for module, name, _ in before:
        setattr(module, name, small[name])
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
