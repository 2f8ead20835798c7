# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of 2011 with one token deleted, swapped with the next or duplicated: it loads, or is told where what was changed is."""

from __future__ import annotations

import pytest
from proof_compare import assert_same
from proof_seed import TEXT, TOKENS, Mutant, mutant

from momservice.config import Config
from momservice.parts import schema
from momservice.policy import Diagnostic, load
from momservice.snapshot import Entity, Sample, Snapshot

SCHEMA = schema(Config())
HOST: Sample = {"mem_available": 1 << 24, "mem_free": 1 << 21, "ksm_pages_to_scan": 100, "ksm_shareable": 1 << 23}
GUEST: Sample = {"libvirt_curmem": 1 << 20, "libvirt_maxmem": 1 << 20, "mem_unused": 1 << 19}
WORLD = Snapshot(Entity("host", [HOST] * 3, {"interval": 5}), [Entity(f"g{n}", [GUEST] * n, {"name": f"vm{n}"}) for n in range(3)])


def misplaced(mutated: Mutant, errors: list[Diagnostic]) -> list[Diagnostic]:
    """The errors that are neither in a form that was changed nor about a name that it no longer binds."""
    offsets = [mutated.offset(error.place.line, error.place.column) for error in errors]
    return [
        error
        for error, offset in zip(errors, offsets, strict=True)
        if not mutated.first <= offset <= mutated.last
        and not (error.code in ("name", "arity") and mutated.called(offset) & mutated.names)
    ]


@pytest.mark.parametrize("kind", ["delete", "swap", "duplicate"])
def test_every_mutant_loads_or_is_told_its_place(kind: str) -> None:
    loads = 0
    for place in range(len(TOKENS)):
        mutated = mutant(place, kind)
        loaded = load({"50_main_": mutated.text}, SCHEMA)
        errors = [found for found in loaded.diagnostics if found.severity == "error"]
        described = f"{kind} of token {place} {TOKENS[place].text!r} at offset {TOKENS[place].start}"
        assert (loaded.program is None) == bool(errors), described
        assert not misplaced(mutated, errors), described
        assert errors[:1] == sorted(errors, key=lambda error: (error.place.line, error.place.column))[:1], described
        if loaded.program is not None:
            loads += 1
            assert_same(loaded.program, WORLD)
    # Nothing in the seed can do without a token of its own, or take one more.
    assert (0 < loads < len(TOKENS) / 2) if kind == "swap" else loads == 0


def test_the_seed_s_tokens_are_all_of_it() -> None:
    assert len(TOKENS) > 450
    assert "".join(token.text for token in TOKENS) in "".join("".join(line.split("#")[0].split()) for line in TEXT.split("\n"))
    assert not [found for found in load({"50_main_": TEXT}, SCHEMA).diagnostics if found.severity == "error"]
