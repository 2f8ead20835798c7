# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies written at random: by kinds of values, so that most of them load and do something, with a share of mistakes of every kind.

What is known of a variable is where it was probably bound and to what; a policy that is wrong about it is what a run has to cope with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from proof_choices import Choices
from proof_tables import (
    ARITHMETIC,
    DEPTHS,
    FIELD_NAMES,
    ITEMS,
    KINDS,
    LITERALS,
    LOOPED,
    LOOSE,
    MISTAKES,
    PRELUDE,
    PRODUCTIONS,
    RISKY,
    SIGNATURES,
    SPARE,
    STATEMENTS,
    SYNONYMS,
    TOP,
    VARIABLES,
    Kind,
)
from proof_text import BLOCK, Policy, Tree
from proof_worlds import CONTROLS, FIELDS, PARAMETERS

_DEEPEST: Final = 4


@dataclass
class Author:
    """Writes one policy. `size`: about how many nodes the form being written may still have."""

    choices: Choices
    size: int = 0
    scopes: list[dict[str, Kind]] = field(default_factory=lambda: [{}])
    defined: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    # Half of the policies take less risk: values that nest less, less that seldom goes well.
    careful: bool = False
    depth: int = 0
    nesting: int = 0
    # By function what it reads of its callers.
    loose: dict[str, Sequence[str]] = field(default_factory=dict)

    def policy(self) -> Policy:
        """The whole policy, in one to three fragments."""
        self.careful = self.choices.chance(50)
        forms = self._prelude()
        forms += [self._definition("") for _ in range(self.choices.below(6))]
        for _ in range(2 + self.choices.below(12)):
            forms.append(self._top())
            if self.choices.chance(85):
                forms += self._owed()
        forms += self._rest()
        spare = [SPARE[name] for name in sorted(self.called & SPARE.keys())]
        forms = [*spare, *forms] if self.choices.chance(90) else [*forms, *spare]
        names = self.choices.pick((("50_main_",), ("a", "b"), ("10_x", "20 y", "30_z")))
        cuts = [0, *sorted(self.choices.below(len(forms) + 1) for _ in names[1:]), len(forms)]
        separator = self.choices.pick(("\n", "\n\n  # comment\n"))
        parts = zip(names, cuts, cuts[1:], strict=False)
        return Policy({name: forms[begin:end] for name, begin, end in parts}, separator)

    def _prelude(self) -> list[Tree]:
        """Parameters and constants that most policies have."""
        forms: list[Tree] = []
        for name, value, kind in PRELUDE:
            if self.choices.chance(40):
                self._bind(name, kind)
                forms.append(["defvar", name, value])
        for name in ("a", "b", "c", "n", "s", "f")[: self.choices.below(7)]:
            kind = self.choices.pick(("number", "number", "text", "flag", "guests", "entity"))
            given = self._leaf(kind)
            forms.append(["defvar", self._bind(name, kind), given])
        return forms

    def _owed(self) -> list[Tree]:
        """Functions that were called and aren't defined yet."""
        forms: list[Tree] = []
        while missing := sorted(self.called - self.defined - SPARE.keys()):
            forms += [self._definition(name) for name in missing]
        return forms

    def _rest(self) -> list[Tree]:
        """What makes the names known that were used: never run, or too late to help."""
        forms = self._owed()
        unbound = sorted(self.read - self.bound)
        if unbound and not self.choices.chance(2):
            forms.append(["def", "unreached", [], [BLOCK, *(["defvar", name, "nil"] for name in unbound)]])
        return forms

    # --- names -------------------------------------------------------------------------------------------------------------------------

    def _bind(self, name: str, kind: Kind) -> str:
        self.bound.add(name)
        self.scopes[-1].setdefault(name, kind)
        return name

    def _kind_of(self, name: str) -> Kind:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), "any")

    def _known(self, kind: Kind) -> list[str]:
        names = dict.fromkeys(name for scope in reversed(self.scopes) for name in scope)
        return [name for name in names if self._kind_of(name) == kind or kind == "any"]

    def _variable(self, kind: Kind) -> str:
        """A variable of a kind, where one is known; now and then any."""
        known = self._known(kind)
        name = self.choices.pick(VARIABLES) if not known or self.choices.chance(1) else self.choices.pick(known)
        self.read.add(name)
        return name

    def _receiver(self) -> str:
        known = self._known("entity")
        if known and not self.choices.chance(12):
            return self._read(self.choices.pick(known))
        return "Host" if self.careful or not self.choices.chance(15) else self._variable("any")

    def _read(self, name: str) -> str:
        self.read.add(name)
        return name

    @contextmanager
    def _scope(self, names: Mapping[str, Kind]) -> Iterator[None]:
        self.scopes.append(dict(names))
        self.bound.update(names)
        try:
            yield
        finally:
            self.scopes.pop()

    # --- values ------------------------------------------------------------------------------------------------------------------------

    def value(self, kind: Kind) -> Tree:
        """A value that is probably of a kind."""
        if self.choices.chance(1):
            kind = self.choices.pick(KINDS)
        if self.depth >= (_DEEPEST - 2 if self.careful else _DEEPEST):
            return self._leaf(kind)
        self.depth += 1
        tree = self._one_of(PRODUCTIONS.get(kind, PRODUCTIONS["any"]), kind)
        self.depth -= 1
        return tree

    def _one_of(self, productions: Sequence[str], kind: Kind) -> Tree:
        self.size -= 1
        production = self.choices.pick(productions)
        if self.size < 0 or (self.careful and production in RISKY):
            return self._leaf(kind)
        write: Callable[[Kind], Tree] = getattr(self, f"_{production}")
        return write(kind)

    def _leaf(self, kind: Kind) -> Tree:
        if kind == "count":
            return str(self.choices.below(5))
        if kind in ("guests", "list") and not self._known(kind):
            return "Guests"
        if kind in ("entity", "disk"):
            known = self._known(kind)
            return self._read(self.choices.pick(known)) if known else "Host"
        if self._known(kind) and not self.choices.chance(35):
            return self._variable(kind)
        return self.choices.pick(LITERALS.get(kind, LITERALS["number"]))

    def _form(self, name: str, *operands: Tree) -> list[Tree]:
        head = self.choices.pick(SYNONYMS[name]) if name in SYNONYMS and self.choices.chance(8) else name
        return [head, *operands]

    def _arithmetic(self, _kind: Kind) -> Tree:
        return self._form(self.choices.pick(ARITHMETIC), self.value("number"), self.value("number"))

    def _shift(self, _kind: Kind) -> Tree:
        counts = ("1", "8", "255", "256", "-1", "127")
        return self._form(self.choices.pick(("<<", ">>")), self.value("number"), self.choices.pick(counts))

    def _extreme(self, kind: Kind) -> Tree:
        operands = [self.value(kind) for _ in range(1 + self.choices.below(3))]
        return self._form(self.choices.pick(("min", "max")), *operands)

    def _absolute(self, _kind: Kind) -> Tree:
        return ["abs", self.value("number")]

    def _join(self, kind: Kind) -> Tree:
        return self._form("+", self.value(kind), self.value(kind))

    def _field(self, kind: Kind) -> Tree:
        return f"{self._receiver()}.{self.choices.pick(FIELD_NAMES.get(kind, FIELDS))}"

    def _statistic(self, kind: Kind) -> Tree:
        default = [self.value(kind)] if self.choices.chance(50) else []
        return [f"{self._receiver()}.Stat", self._field_name(kind), *default]

    def _average(self, _kind: Kind) -> Tree:
        return [f"{self._receiver()}.StatAvg", self._field_name("number")]

    def _field_name(self, kind: Kind) -> Tree:
        if self.choices.chance(6):
            return self._variable("text") if self._known("text") else ["+", "'m'", '"em"']
        return f'"{self.choices.pick(FIELD_NAMES.get(kind, FIELDS))}"'

    def _property(self, _kind: Kind) -> Tree:
        return [f"{self._receiver()}.Prop", self.choices.pick(('"name"', "'uuid'", "'list'"))]

    def _kept(self, kind: Kind) -> Tree:
        read: Tree = [f"{self._receiver()}.GetVar", self.choices.pick(('"v"', '"w"'))]
        return ["or", read, self.value(kind)] if self.choices.chance(70) else read

    def _asked(self, kind: Kind) -> Tree:
        read: Tree = [f"{self._receiver()}.GetControl", f'"{self.choices.pick(CONTROLS)}"']
        return ["or", read, self.value(kind)] if self.choices.chance(70) else read

    def _figure(self, _kind: Kind) -> Tree:
        known = self._known("disk")
        if not known:
            return self._loop("list")
        part = self.choices.pick(("current", "maximum", "guaranteed"))
        return f"{self._read(self.choices.pick(known))}.{part}.{self.choices.pick(('total_bytes_sec', 'read_iops_sec', 'name'))}"

    def _compare(self, _kind: Kind) -> Tree:
        kind = self.choices.pick(("number", "number", "number", "text"))
        return self._form(self.choices.pick(("<", ">", "<=", ">=", "==", "!=")), self.value(kind), self.value(kind))

    def _equal(self, _kind: Kind) -> Tree:
        kind = self.choices.pick(KINDS)
        return self._form(self.choices.pick(("==", "!=")), self.value(kind), self.value(self.choices.pick((kind, kind, "any"))))

    def _not(self, _kind: Kind) -> Tree:
        return ["not", self.value("any")]

    def _ask(self, _kind: Kind) -> Tree:
        return [self.choices.pick(("null", "valid")), *(self.value("any") for _ in range(self.choices.below(4)))]

    def _decide(self, kind: Kind) -> Tree:
        return [self.choices.pick(("and", "or")), self.value(kind), *(self._perhaps(kind) for _ in range(self.choices.below(3)))]

    def _if(self, kind: Kind) -> Tree:
        return ["if", self.value("flag"), self._perhaps(kind), self._perhaps(kind)]

    def _perhaps(self, kind: Kind) -> Tree:
        """A value that may not be evaluated: what it binds isn't counted on, mostly."""
        before = dict(self.scopes[-1])
        tree = self.value(kind)
        if not self.choices.chance(25):
            self.scopes[-1] = before
        return tree

    def _block(self, kind: Kind) -> Tree:
        inner = [*self._statements(2), self.value(kind)]
        return ["eval", *inner] if self.choices.chance(10) else [BLOCK, *inner]

    def _let(self, kind: Kind) -> Tree:
        kinds = [self.choices.pick(KINDS) for _ in range(self.choices.below(4))]
        bindings: list[Tree] = []
        with self._scope({}):
            for each in kinds:
                given = self.value(each)
                name = self.choices.pick(VARIABLES)
                if all(name != binding[0] for binding in bindings):
                    bindings.append([self._bind(name, each), given])
            return ["let", bindings, *self._statements(1), self.value(kind)]

    def _define(self, kind: Kind) -> Tree:
        given = self.value(kind)
        return ["defvar", self._bind(self._free(kind), kind), given]

    def _free(self, kind: Kind) -> str:
        """A name that isn't another kind's in the innermost scope, mostly."""
        fitting = [name for name in VARIABLES if self.scopes[-1].get(name, kind) == kind]
        return self.choices.pick(VARIABLES if not fitting or self.choices.chance(5) else fitting)

    def _assign(self, kind: Kind) -> Tree:
        given = self.value(kind)
        known = [name for name in self._known(kind) if name not in PARAMETERS or self.choices.chance(10)]
        if not known:
            return self._define(kind)
        return [self.choices.pick(("set", "setq")), self._read(self.choices.pick(known)), given]

    def _sweep(self, kind: Kind) -> Tree:
        """Rounds of guests that do several things."""
        with self._scope({}):
            item = self._bind(self.choices.pick(ITEMS), "entity")
            guests = self._known("guests")
            items = self._read(self.choices.pick(guests)) if guests and self.choices.chance(25) else "Guests"
            return ["with", items, item, [BLOCK, *(self._statement() for _ in range(1 + self.choices.below(4))), self.value(kind)]]

    def _loop(self, kind: Kind) -> Tree:
        """A `with` over a list of some kind."""
        over = self.choices.pick(LOOPED)
        if over == "disks":
            entity = [name for name in self._known("entity") if name != "Host"]
            if not entity:
                return self._round("Guests", "entity", kind)
            return self._round(f"{self._read(self.choices.pick(entity))}.io_tune", "disk", kind)
        if over == "field":
            return self._round(f"{self._receiver()}.lst", "number", kind)
        known = self._known("guests" if over == "guests" else "list")
        if over == "all" or not known:
            return self._round("Guests", "entity", kind)
        return self._round(self._read(self.choices.pick(known)), "entity" if over == "guests" else "any", kind)

    def _round(self, items: str, item_kind: Kind, kind: Kind) -> Tree:
        with self._scope({}):
            item = self._bind(self.choices.pick(ITEMS), item_kind)
            wanted = {"guests": "entity", "list": self.choices.pick(KINDS)}.get(kind, kind)
            return ["with", items, item, self._block(wanted) if self.choices.chance(60) else self.value(wanted)]

    def _call(self, kind: Kind) -> Tree:
        fitting = [name for name in SIGNATURES if kind in (SIGNATURES[name][1], "any", "flag")]
        known = [name for name in fitting if name in self.defined]
        if not fitting or not (known or self.choices.chance(10)):
            return self._leaf(kind)
        name = self.choices.pick(fitting if not known or self.choices.chance(4) else known)
        self.called.add(name)
        call: Tree = [name, *(self.value(each) for each in SIGNATURES[name][0])]
        wanted = self.loose.get(name, ()) if not self.choices.chance(10) else ("u",)
        if not wanted:
            return call
        with self._scope({}):
            return ["let", [[self._bind(loose, "number"), self.value("number")] for loose in wanted], call]

    def _spare(self, _kind: Kind) -> Tree:
        name = self.choices.pick(tuple(SPARE))
        self.called |= {name, "f"} if name == "deep" else {name}
        return self._started(name, [name, self.choices.pick(DEPTHS[name])])

    def _started(self, name: str, call: Tree) -> Tree:
        """The call, within the variable that the function works on."""
        starts = {"grow": ("s", ("'12345678'", "'äöüß'", "r", "'x'")), "power": ("c", ("2", "-3", "1.5")), "nest": ("l", ("Guests",))}
        if name not in starts:
            return call
        variable, values = starts[name]
        self.read.update((variable, "r"))
        return ["let", [[variable, self.choices.pick(values)]], call]

    def _nil(self, _kind: Kind) -> Tree:
        return "nil"

    # --- what has effects ----------------------------------------------------------------------------------------------------------------

    def _statements(self, most: int) -> list[Tree]:
        return [self._statement() for _ in range(self.choices.below(most + 1))]

    def _statement(self, _kind: Kind = "any") -> Tree:
        return self._standing(STATEMENTS)

    def _standing(self, productions: Sequence[str]) -> Tree:
        """A statement: values in it begin anew to nest, statements in statements nest a few deep."""
        if self.nesting >= _DEEPEST:
            return self._leaf("any")
        before, self.depth = self.depth, 0
        self.nesting += 1
        tree = self._one_of(productions, self.choices.pick(KINDS))
        self.nesting -= 1
        self.depth = before
        return tree

    def _control(self, _kind: Kind) -> Tree:
        name = f'"{self.choices.pick(CONTROLS)}"' if not self.choices.chance(6) else self.value("text")
        return [f"{self._receiver()}.Control", name, self.value("number" if not self.choices.chance(10) else "any")]

    def _host_control(self, _kind: Kind) -> Tree:
        return ["Host.Control", f'"{self.choices.pick(CONTROLS)}"', self.value("number")]

    def _keep(self, kind: Kind) -> Tree:
        return [f"{self._receiver()}.SetVar", self.choices.pick(('"v"', '"w"', '"n"')), self.value(self._data(kind))]

    def _data(self, kind: Kind) -> Kind:
        return "number" if kind in ("guests", "entity") and not self.choices.chance(8) else kind

    def _set_figure(self, _kind: Kind) -> Tree:
        known = self._known("disk")
        disk = self._read(self.choices.pick(known)) if known else self._receiver()
        if not known and not self.choices.chance(5):
            return self._loop("list")
        return [f"{disk}.{self.choices.pick(('setTotalBytesSec', 'setReadIopsSec'))}", self.value("number")]

    def _debug(self, kind: Kind) -> Tree:
        return ["debug", *(self.value(kind) for _ in range(1 + self.choices.below(2)))]

    def _branch(self, kind: Kind) -> Tree:
        """Names that are defined in one branch, or in both."""
        name, flag = self._free(kind), self.value("flag")
        then: Tree = ["defvar", name, self._perhaps(kind)]
        other: Tree = ["defvar", name, self._perhaps(kind)] if self.choices.chance(70) else self._statement()
        self._bind(name, kind)
        return ["if", flag, then, other] if self.choices.chance(50) else ["if", flag, other, then]

    def _risk(self, _kind: Kind) -> Tree:
        """What fails for some guests."""
        entity = self._receiver()
        return self.choices.pick(
            (["+", f"{entity}.opt", "1"], ["/", "1", f"{entity}.mem"], [f"{entity}.StatAvg", '"opt"'], ["<", f"{entity}.mix", "1"])
        )

    def _definition(self, name: str | Kind) -> Tree:
        """A function; of a kind that isn't one's name, any."""
        if name not in SIGNATURES:
            name = self.choices.pick(tuple(SIGNATURES))
        if self.nesting == 0:
            self.size = 5 + self.choices.below(15)
        kinds, result = SIGNATURES[name]
        names = ("n", "g", "x", "a")[: len(kinds)] if kinds[:1] == ("count",) else ("g", "x", "n")[: len(kinds)]
        self.defined.add(name)
        before, self.scopes = self.scopes, [self.scopes[0]]
        loose = {each: "number" for each in LOOSE[:1] if self.choices.chance(20)}
        self.loose[name] = tuple(loose) or self.loose.get(name, ())
        self.read.update(loose)
        self.scopes.append(loose)
        with self._scope(dict(zip(names, kinds, strict=True))):
            body = self._counted(name, result) if "count" in kinds else self._body(result)
        self.scopes = before
        return ["defun" if self.choices.chance(5) else "def", name, [*names], body]

    def _body(self, kind: Kind) -> Tree:
        return self._block(kind) if self.choices.chance(60) else self.value(kind)

    def _counted(self, name: str, kind: Kind) -> Tree:
        """Recursion that a counter ends, through another function where there is one."""
        onward = {"ping": "pong", "pong": "ping"}.get(name, name)
        self.called.add(onward)
        rest = [self.value(each) for each in SIGNATURES[onward][0][1:]]
        again: Tree = [onward, ["-", "n", "1"], *rest]
        wrapped: Tree = ["+", again, self.value(kind)] if self.choices.chance(50) else again
        return ["if", ["<=", "n", "0"], self.value(kind), [BLOCK, *self._statements(2), wrapped]]

    def _mistake(self, _kind: Kind) -> Tree:
        """What doesn't load, mostly."""
        return self.choices.pick(MISTAKES) if self.choices.chance(25) else self._leaf("any")

    def _top(self) -> Tree:
        self.size = 5 + self.choices.below(40)
        return self._standing(TOP)


def policy(choices: Choices) -> Policy:
    """A policy of two to some twenty forms."""
    return Author(choices).policy()
