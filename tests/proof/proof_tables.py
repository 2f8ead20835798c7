# SPDX-License-Identifier: GPL-2.0-or-later
"""What generated policies are made of, with the weights of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from proof_choices import weighted
from proof_text import Tree

from momservice.policy.forms import FORMS

Kind: TypeAlias = str
VARIABLES: Final = ("a", "b", "c", "x", "n", "s", "l", "keep", "u", "True", "k-1", "mem", "f")
ITEMS: Final = weighted((6, "g"), (3, "h"), (1, "a"), (1, "x"), (1, "True"))
# Names that functions read and leave to their callers to bind.
LOOSE: Final = ("u", "x", "c")
KINDS: Final = weighted((6, "number"), (2, "text"), (2, "flag"), (2, "list"), (2, "guests"), (2, "entity"), (1, "any"))
LITERALS: Final[Mapping[Kind, Sequence[str]]] = {
    "number": (
        *("1", "2", "0", "3", "10", "0.5") * 5,
        *("-1", "-0.0", "0x1f", "0o17", "1e3", ".25", "1e308", "-0", "255", "256"),
        *(str(1 << 255), str((1 << 256) - 1), f"-{(1 << 256) - 1}", hex(1 << 128)),
    ),
    "text": ('"s"', "'tu'", '""', '"mem"', '"opt"', "'ä'", '"a\\"b"', "'0123456789abcdef'"),
    "any": ("nil", "1", '"s"', "{}"),
    "flag": ("nil", "0", "1", '""', "0.0"),
}
SIGNATURES: Final[Mapping[str, tuple[tuple[Kind, ...], Kind]]] = {
    "f": (("number",), "number"),
    "of": (("entity",), "number"),
    "act": (("entity", "number"), "any"),
    "rec": (("count", "number"), "number"),
    "ping": (("count",), "number"),
    "pong": (("count",), "number"),
    "twice": (("text",), "text"),
    "choose": (("flag", "number", "number"), "number"),
    "each": (("guests",), "list"),
    "none": ((), "any"),
    "a": (("any",), "any"),
}
SPARE: Final[Mapping[str, str]] = {
    "burn": "(def burn (n) (if (< n 1) 0 (+ (burn (- n 1)) (burn (- n 2)))))",
    "grow": "(def grow (n) (if (<= n 0) s {(set s (+ s s)) (grow (- n 1))}))",
    "power": "(def power (n) (if (<= n 0) c {(set c (* c c)) (power (- n 1))}))",
    "deep": "(def deep (n) (if (<= n 1) (f n) (let ((d n)) (deep (- n 1)))))",
    "nest": "(def nest (n) (if (<= n 0) l {(set l (with l i l)) (nest (- n 1))}))",
}
DEPTHS: Final[Mapping[str, tuple[str, ...]]] = {
    "burn": ("3", "3", "4", "5", "6", "8", "9", "10", "11", "12", "13", "14"),
    "grow": ("2", "3", "4", "5", "9", "11", "12", "13", "14"),
    "power": ("1", "2", "3", "5", "8", "9"),
    "deep": ("3", "2", "5", "10", "50", "197", "198", "199", "200", "201"),
    "nest": ("1", "2", "1", "3", "5", "31", "32"),
}
SYNONYMS: Final = {form.name: (name, form.name) for name, form in FORMS.items() if name != form.name}
ARITHMETIC: Final = weighted((5, "+"), (5, "-"), (3, "*"), (3, "/"))
LOOPED: Final = weighted((6, "all"), (4, "guests"), (3, "list"), (2, "disks"), (1, "field"))
FIELD_NAMES: Final[Mapping[Kind, Sequence[str]]] = {
    "number": weighted((16, "mem"), (3, "opt"), (5, "fl"), (3, "big"), (1, "mix"), (1, "later"), (2, "flag")),
    "text": weighted((6, "label"), (1, "mix")),
    "flag": weighted((4, "flag"), (1, "opt"), (1, "mem")),
    "list": weighted((5, "lst"), (1, "io_tune"), (1, "mix")),
}
SHARED: Final = weighted((2, "if"), (1, "block"), (2, "let"), (2, "define"), (2, "assign"), (3, "call"), (1, "decide"))
PRODUCTIONS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "number": (
        *weighted((12, "leaf"), (8, "arithmetic"), (8, "field"), (2, "statistic"), (3, "average"), (2, "kept"), (2, "asked")),
        *weighted((1, "figure"), (2, "extreme"), (1, "absolute"), (1, "shift"), (1, "spare")),
        *SHARED,
    ),
    "text": (*weighted((8, "leaf"), (4, "join"), (3, "field"), (3, "property"), (1, "statistic"), (1, "extreme"), (1, "kept")), *SHARED),
    "flag": (*weighted((2, "leaf"), (8, "compare"), (4, "equal"), (2, "not"), (3, "ask"), (2, "field")), *SHARED),
    "list": (*weighted((4, "leaf"), (9, "loop"), (2, "join"), (2, "field"), (1, "property"), (1, "kept")), *SHARED),
    "guests": (*weighted((8, "leaf"), (4, "loop"), (3, "join")), *SHARED),
    "entity": (*weighted((12, "leaf"),), *SHARED),
    "count": ("leaf",),
    "any": (*weighted((4, "leaf"), (2, "nil"), (3, "arithmetic"), (3, "field"), (2, "loop"), (3, "statement"), (1, "mistake")), *SHARED),
}
STATEMENTS: Final = (
    *weighted((5, "define"), (6, "assign"), (8, "control"), (4, "host_control"), (4, "keep"), (2, "set_figure"), (1, "debug")),
    *weighted((3, "branch"), (1, "risk"), (1, "definition"), (2, "loop"), (2, "sweep"), (2, "let"), (2, "if"), (2, "call")),
)
TOP: Final = weighted(
    *((5, "define"), (3, "assign"), (2, "branch"), (3, "definition"), (10, "sweep"), (2, "loop"), (2, "if"), (2, "block"), (3, "call")),
    *((2, "let"), (2, "control"), (2, "keep")),
)
# What most policies begin with: parameters and constants.
PRELUDE: Final[Sequence[tuple[str, str, Kind]]] = (
    ("p", "3", "number"),
    ("q", "0.5", "number"),
    ("r", "'x'", "text"),
    ("z", "nil", "any"),
    ("True", "1", "flag"),
    ("u", "2", "number"),
    ("x", "Host.mem", "number"),
    ("l", "Guests", "guests"),
)
# What doesn't load.
MISTAKES: Final[Sequence[Tree]] = (
    *("nope", "Host.nope", "+"),
    *(["abs", "1", "2"], ["defvar", "let", "1"], ["1", "2"], ["nope"], ["set", "g.mem", "1"]),
)
# What careful policies leave out.
RISKY: Final = frozenset({"spare", "shift", "mistake", "average", "definition"})
