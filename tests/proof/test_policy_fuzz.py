# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts that nobody meant as policies: loading and running them raises nothing and ends, and every finding has a place in the text.

`MOM_LONG=1 ./dev test tests/proof` tries a million of them.
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from proof_batches import LONG
from proof_choices import Choices
from proof_compare import assert_same
from proof_policies import policy
from proof_worlds import SCHEMA, world

from momservice.policy import Diagnostic, Failure, excerpt, load

ROOT = Path(__file__).parents[2]
TEXTS = [
    *((ROOT / "tests/data").glob("**/*.policy")),
    *((ROOT / "conf/policy.d").glob("*.policy")),
]
POLICIES = [file.read_text(encoding="utf-8") for file in sorted(TEXTS)]
# Top-level forms, roughly: small texts are quicker to try, and as good.
FORMS = [form for text in POLICIES for form in re.split(r"\n(?=\()", text)]
BATCHES, EACH = (1000, 1000) if LONG else (8, 1250)
WORLDS = [world(Choices(random.Random(number).randbytes(500))) for number in range(20)]
# No text of this size takes long; what does not end at all is to be told rather than waited for.
ENDLESS_S = 120
WORDS = (
    *"()[]{}+-*/<>=!'\"\\#,;.\n\t \x00\x0b\x85\xa0\u2028\ud800\ufeff\U0001f600äé_aZ09",
    *("<<", "<=", "==", "!=", ">>", "->", "nil", "def", "defun", "defvar", "set", "let", "if", "with", "eval", "and", "or", "not", "max"),
    *("Host", "Guests", "g", "g.mem", "Host.mem", "g.io_tune", "a", "f", "1", "-1", "0.5", ".5", "1e5", "1e999", "0x1F", "0o7", "007"),
    *("'s'", '"mem"', "(defvar a 1)", "(def f (a) a)", "(f 1)", "(with Guests g g)", "g.Control", "(g.Control 't' 1)", "abs", "a.b.c"),
    *("9" * 90, "((((((((", "))))))))", "{{{{", "}}}}", "(set a (+ a a))", "(let ((a 1)) a)", "debug", "StatAvg", "Host.StatAvg"),
    *("a..b", "5.", "# c\n"),
)


def noise(source: random.Random) -> str:
    """Bytes, as the characters of an encoding."""
    return source.randbytes(source.randrange(60)).decode(source.choice(("latin-1", "utf-8", "utf-16-le")), "replace")


def words(source: random.Random) -> str:
    """Tokens in any order."""
    return source.choice(("", " ", " ", "\n")).join(source.choices(WORDS, k=source.randrange(25)))


def mutated(source: random.Random) -> str:
    """A few forms of a real policy, or a generated one, with characters or tokens changed."""
    text = "\n".join(source.choices(FORMS, k=source.randrange(1, 4)))
    if source.random() < 0.2:
        text = "\n".join(policy(Choices(source.randbytes(400))).texts.values())
    parts = list(text) if source.random() < 0.4 else re.findall(r"\w+|\s+|[^\w\s]", text)
    for _ in range(source.randrange(1, 4)):
        change(source, parts)
    return "".join(parts)


def change(source: random.Random, parts: list[str]) -> None:
    """Deletes, doubles, swaps, replaces or inserts some parts, or cuts the text."""
    place, other = source.randrange(len(parts) + 1), source.randrange(len(parts) + 1)
    begin, end = min(place, other), min(max(place, other), min(place, other) + 5)
    match source.randrange(7):
        case 0:
            del parts[begin : begin + 1]
        case 1:
            parts[place:place] = parts[begin:end]
        case 2:
            parts[begin:end] = reversed(parts[begin:end])
        case 3:
            parts[begin : begin + 1] = [source.choice(WORDS)]
        case 4:
            parts[place:place] = [source.choice(WORDS)]
        case 5:
            del parts[begin:end]
        case _:
            del parts[max(place, 1) :]


@contextmanager
def ending(text: str) -> Iterator[None]:
    """Fails with the text if what is done with it doesn't end."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"endless: {text!r}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(ENDLESS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def well_told(found: Sequence[Diagnostic] | Sequence[Failure], texts: dict[str, str]) -> bool:
    """Whether each has a place in the text, one line of message, and can be shown."""
    for each in found:
        lines = texts[each.place.fragment].split("\n")
        assert 1 <= each.place.line <= len(lines), each
        assert 1 <= each.place.column <= len(lines[each.place.line - 1]) + 1, each
        assert str(each).isprintable(), each
        assert excerpt(each, texts[each.place.fragment]).endswith("^"), each
    return True


def survives(text: str, number: int) -> bool:
    """Loads and runs a text, alone or in two fragments. Gives whether it loads."""
    texts = {"a": text} if number % 4 else {"a": text[: number % 97], "b": text[number % 97 :]}
    loaded = load(texts, SCHEMA)
    assert (loaded.program is None) == any(found.severity == "error" for found in loaded.diagnostics)
    assert well_told(loaded.diagnostics, texts)
    if loaded.program is not None:
        assert well_told(assert_same(loaded.program, WORLDS[number % len(WORLDS)].snapshot).failures, texts)
    return loaded.program is not None


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_text_breaks_reader_checks_or_evaluators(batch: int) -> None:
    source = random.Random(batch)
    make: Sequence[Callable[[random.Random], str]] = (noise, words, mutated, mutated)
    loads = 0
    for number in range(EACH):
        text = make[number % len(make)](source)
        with ending(text):
            try:
                loads += survives(text, number)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}, with the text {text!r}") from error
    # Both halves have to be tried: what can't be loaded, and what can.
    assert EACH // 20 < loads < EACH // 2
