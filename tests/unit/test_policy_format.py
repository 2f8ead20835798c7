# SPDX-License-Identifier: GPL-2.0-or-later
"""The formatter keeps every token and comment in its place, changes nothing the second time, and writes as the house does."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from momservice.policy.format import DEEPEST, WIDTH, formatted
from momservice.policy.reader import NESTING, Source, read
from momservice.policy.tokens import SPACE, TOKEN

ROOT = Path(__file__).parents[2]
SEED = ROOT / "tests" / "data" / "mom.policy"
OURS = sorted((ROOT / "conf" / "policy.d").glob("*.policy"))
CASES = json.loads((ROOT / "tests" / "conformance" / "language-cases.json").read_text(encoding="utf-8"))["cases"]
COMMENT = re.compile(r"#[^\n]*")
ATOMS = ("a", "guest.mem_unused", "12", "-8", "-0.5", "1e9", "0x1F", '"text"', "'#no comment'", "+", "-", "<<", "nil", '"two\nlines"')
HEADS = ("def", "if", "with", "let", "and", "+", "min", "defvar", "set", "g.Control", "f", "eval")
SPACES = ("", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", "\u00a0", " # c\n", "\n# c ((\n", "#\n", "\n\n  # a\n\n#  b \n ", "  # c\n\n\n# d\n")


def pieces(content: str) -> list[str]:
    """The tokens and comments in their order, each comment with whether it stands on a line of its own; no other space counts."""
    found: list[str] = []
    position = 0
    while position < len(content):
        space = SPACE.re_match(content, position)
        for comment in COMMENT.finditer(space.group()):
            alone = not content[: position + comment.start()].rsplit("\n", 1)[-1].strip()
            found.append(("alone " if alone else "behind ") + comment.group().rstrip())
        token = TOKEN.re_match(content, space.end())
        position = token.end() if token else len(content)
        found += [token.group()] if token else []
    return found


def check(content: str) -> str:
    """The text, formatted; fails unless it says the same."""
    once = formatted(content)
    assert pieces(once) == pieces(content)
    assert formatted(once) == once
    assert "\n\n\n" not in once
    assert once == "" or (once.endswith("\n") and not once.endswith("\n\n") and not once.startswith("\n"))
    return once


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_own_policies_are_formatted(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert check(content) == content


def test_the_policy_of_2011_is_kept() -> None:
    content = SEED.read_text(encoding="utf-8")
    changed = [line for line in check(content).splitlines() if line not in content.splitlines()]
    # Double spaces behind comparisons, brackets that stood alone, and one operand a column off.
    assert len(changed) < 20


def readable() -> list[str]:
    return [case["policy"] for case in CASES if not faults(case["policy"])]


def faults(content: str) -> object:
    return read(Source("p", content)).faults


def test_every_conformance_policy_that_reads_is_kept() -> None:
    policies = readable()
    assert len(policies) > 350
    for content in policies:
        check(content)


def soup(rng: random.Random, depth: int) -> str:
    """A random value with random space in it."""
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(ATOMS)
    opening, closing = rng.choice(("()", "()", "[]", "{}"))
    items = [soup(rng, depth - 1) for _ in range(rng.choice((0, 1, 2, 3, 4, 9)))]
    return opening + spaced(rng, [rng.choice(HEADS), *items] if rng.random() < 0.7 else items) + closing


def spaced(rng: random.Random, items: list[str]) -> str:
    text = rng.choice(SPACES) if rng.random() < 0.2 else ""
    for item in items:
        space = rng.choice(SPACES) if rng.random() < 0.3 else " "
        # Without space between them two tokens would become one.
        text += item + (space if space.strip("\t\r\u00a0") else " ")
    return text


@pytest.mark.parametrize("seed", range(300))
def test_any_text_that_reads_is_kept(seed: int) -> None:
    rng = random.Random(seed)
    content = spaced(rng, [soup(rng, rng.randrange(6)) for _ in range(rng.randrange(6))])
    if not faults(content):
        check(content)


@pytest.mark.parametrize("seed", range(100))
def test_lines_are_broken_at_their_width(seed: int) -> None:
    rng = random.Random(seed)
    content = re.sub(r"\s+", " ", soup(rng, 5).replace("two\nlines", "line"))
    content = re.sub(r"# [^\n]*", "", content)
    if not faults(content):
        for line in check(content).splitlines():
            # What has no space to be broken at, or stands too deep, may be longer.
            assert len(line) <= WIDTH or len(line) - len(line.lstrip()) >= DEEPEST // 2 or " " not in line.strip()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", ""),
        (" \n\n", ""),
        ("# only a comment", "# only a comment\n"),
        ("#  a  \n\n\n\n# b\n\n", "#  a\n\n# b\n"),
        ("8-3", "8\n-3\n"),
        ("( + 1\t2 )", "(+ 1 2)\n"),
        ("(defvar a 1)(defvar b 2)", "(defvar a 1)\n(defvar b 2)\n"),
        ("(defvar a 1)  # why\n\n\n(defvar b 2)", "(defvar a 1)  # why\n\n(defvar b 2)\n"),
        ("(\n+ 1 2\n)", "(+ 1 2)\n"),
        ("(if a\nb\nc)", "(if a\n    b\n    c)\n"),
        ("(and a\nb)", "(and a\n     b)\n"),
        ("(def f (x)\n{ (g x) (h x)\n\n\n2 })", "(def f (x)\n{\n    (g x)\n    (h x)\n\n    2\n})\n"),
        ("(with Guests g {\n(f g)\n})", "(with Guests g {\n    (f g)\n})\n"),
        ("{ a b\n}", "{a b}\n"),
        ("(f a # first\nb # last\n)", "(f a  # first\n    b  # last\n)\n"),
        ("(# head\nf a)", "(  # head\n    f a)\n"),
        ("{ # why\n}", "{  # why\n}\n"),
        ("(f\n# of b\nb)", "(f\n    # of b\n    b)\n"),
        ("(let ((a 1)\n(b 2))\n(+ a b))", "(let ((a 1)\n      (b 2))\n    (+ a b))\n"),
        ('(+ "a\n  b" c)', '(+ "a\n  b" c)\n'),
        ("a\r\nb # c\r\n", "a\nb  # c\n"),
    ],
)
def test_the_house_style(given: str, wanted: str) -> None:
    assert check(given) == wanted


def test_long_lines_are_broken_where_forms_are() -> None:
    name = "a_name_of_thirty_characters___"
    assert check(f"(if (and (> {name} {name}) (< {name} {name})) (g.Control 'x' {name}) nil)") == (
        f"(if (and (> {name} {name})\n         (< {name} {name}))\n    (g.Control 'x' {name})\n    nil)\n"
    )
    assert check(f"(def f ({name}) (set {name} (+ {name} (* 2 {name}))))") == (
        f"(def f ({name})\n    (set {name}\n        (+ {name} (* 2 {name}))))\n"
    )
    assert check(f"(min {' '.join([name] * 4)})") == f"(min {name} {name} {name}\n     {name})\n"


def test_deep_nesting_and_much_text_stay_small_and_quick() -> None:
    deep = "(f " * NESTING + "a\n" * 2000 + ")" * NESTING
    assert len(check(deep)) < 200_000
    wide = "(f " + "(g 1 2) " * 50_000 + ")"
    assert check(wide).count("\n") == 50_000
