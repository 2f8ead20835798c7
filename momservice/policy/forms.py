# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of what the language knows by name: forms and methods, their arity and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from momservice.snapshot import Value


@dataclass(frozen=True, slots=True)
class Form:
    """A form or a method. `most` is None for any number of arguments; `synonyms` are other names of the same form.

    `doc`: the arguments by name, then what it does and gives. `example`: a small policy; `gives`: the value of the last of its forms. The
    figures that examples of methods read are those of the test that runs them.
    """

    name: str
    least: int
    most: int | None
    doc: str
    example: str
    gives: Value
    synonyms: tuple[str, ...] = ()

    def misfit(self, count: int) -> str:
        """What is wrong with this number of arguments; "" if nothing is."""
        if count >= self.least and (self.most is None or count <= self.most):
            return ""
        return f"'{self.name}' takes {self.arity()}, not {count}"

    def arity(self) -> str:
        """How many arguments it takes, as text."""
        if self.most is None:
            return f"{self.least} or more arguments"
        if self.most != self.least:
            return f"{self.least} to {self.most} arguments"
        return f"{self.least} argument" + ("" if self.least == 1 else "s")


_TABLE: Final = (
    Form(
        "def",
        3,
        3,
        "name, parameter list, one body: defines a function, globally, also from inside a function, and replaces an earlier one of this"
        " name; gives the name",
        "(def twice (x) (* 2 x)) (twice 4)",
        8,
        ("defun",),
    ),
    Form(
        "defvar",
        2,
        2,
        "name, value: defines a variable in the innermost scope if it is absent there; gives the variable's value, maybe an older one",
        "(defvar a 5) (defvar a 6) a",
        5,
    ),
    Form(
        "set",
        2,
        2,
        "name, value: assigns in the nearest scope that has the name, and fails where none has; gives the value",
        "(defvar a 5) (set a 6) a",
        6,
        ("setq",),
    ),
    Form(
        "let",
        2,
        None,
        "((name value)...), bodies: opens a scope, binds one name after the other, later values may use earlier names; gives the last body",
        "(let ((a 2) (b (+ a 1))) (* a b))",
        6,
    ),
    Form("if", 3, 3, "condition, then, else: evaluates one of the two branches and gives its value", "(if (> 2 1) 'more' 'less')", "more"),
    Form(
        "with",
        3,
        3,
        "list, item name, body: evaluates the body once per item, each time in a new scope; gives the list of the values",
        "(with Guests guest (guest.Prop 'name'))",
        ["one", "two"],
    ),
    Form("eval", 0, None, "values: evaluates them in order and gives the last, nil without any; {a b c} is the same", "(eval 1 2 3)", 3),
    Form("+", 2, 2, "a, b: the sum; strings and lists are put one after the other", "(+ 'balloon_' 'target')", "balloon_target", ("add",)),
    Form("-", 2, 2, "a, b: the difference of two numbers", "(- 5 -3)", 8, ("sub",)),
    Form("*", 2, 2, "a, b: the product of two numbers", "(* 2 1.5)", 3.0, ("mul",)),
    Form("/", 2, 2, "a, b: the quotient of two numbers, always a float", "(/ 4 2)", 2.0, ("div",)),
    Form("<", 2, 2, "a, b: whether a is less than b; both numbers or both strings", "(< 1 2)", True, ("lt",)),
    Form(">", 2, 2, "a, b: whether a is greater than b; both numbers or both strings", "(> 1 2)", False, ("gt",)),
    Form("<=", 2, 2, "a, b: whether a is not greater than b; both numbers or both strings", "(<= 2 2)", True, ("lte",)),
    Form(">=", 2, 2, "a, b: whether a is not less than b; both numbers or both strings", "(>= 'a' 'b')", False, ("gte",)),
    Form(
        "==",
        2,
        2,
        "a, b: whether both are equal; values of different types never are, but all numbers compare",
        "(== 1 1.0)",
        True,
        ("eq",),
    ),
    Form("!=", 2, 2, "a, b: whether they are not equal", "(!= 'a' 'b')", True, ("neq",)),
    Form("<<", 2, 2, "a, count: the integer shifted left, by 0 to 255 bits", "(<< 1 10)", 1024, ("shl",)),
    Form(">>", 2, 2, "a, count: the integer shifted right, by 0 to 255 bits", "(>> 1024 3)", 128, ("shr",)),
    Form(
        "and",
        1,
        None,
        "operands: evaluates them until one is false; gives that one, else the last",
        "(let ((x nil)) (and (valid x) (> x 5)))",
        False,
    ),
    Form("or", 1, None, "operands: evaluates them until one is true; gives that one, else the last", "(or nil 0 7)", 7),
    Form("not", 1, 1, "operand: whether it is false, which are nil, false, 0, 0.0, the empty string and the empty list", "(not '')", True),
    Form("min", 1, None, "operands: the first smallest of numbers, or of strings", "(min 3 1.5 2)", 1.5),
    Form("max", 1, None, "operands: the first largest of numbers, or of strings", "(max 3 1.5 2)", 3),
    Form(
        "null",
        0,
        None,
        "operands: whether every one is nil, an empty string or an empty list; a number is none of these",
        "(null nil '')",
        True,
    ),
    Form("valid", 0, None, "operands: whether none is nil", "(valid 0 nil)", False),
    Form("abs", 1, 1, "number: its absolute value", "(abs -2.5)", 2.5),
    Form("debug", 1, None, "values: logs them at debug level, as one line; gives the last", "(debug 'free' 42)", 42),
)
FORMS: Final = {name: form for form in _TABLE for name in (form.name, *form.synonyms)}

_METHODS: Final = (
    Form("Prop", 1, 1, "name: a property, a string or a number that doesn't change", "(Host.Prop 'interval')", 5),
    Form(
        "Stat",
        1,
        2,
        "name, default: the newest value of a field; the default, or nil without one, if it has none now",
        "(Host.Stat 'swap_usage' 0)",
        0,
    ),
    Form(
        "StatAvg",
        1,
        1,
        "name: the mean of a field over the history, as a float; samples without a value don't count, without any it fails ('no-data')",
        "(Host.StatAvg 'mem_free')",
        5000.0,
    ),
    Form(
        "SetVar",
        2,
        2,
        "name, value: keeps a variable of the entity for later runs, for a guest as long as it exists; gives nil",
        "(Host.SetVar 'rounds' 3) (Host.GetVar 'rounds')",
        3,
    ),
    Form(
        "GetVar",
        1,
        1,
        "name: a variable that 'SetVar' has kept, in this run or an earlier one; nil if there is none",
        "(Host.GetVar 'none')",
        None,
    ),
    Form(
        "Control",
        2,
        2,
        "name, value: asks for a control; of several in one run the last wins; nil takes it back; gives nil",
        "(Host.Control 'ksm_run' 1)",
        None,
    ),
    Form(
        "GetControl",
        1,
        1,
        "name: the value that this run has asked for, nil if none",
        "(Host.Control 'ksm_run' 1) (Host.GetControl 'ksm_run')",
        1,
    ),
)
METHODS: Final = {method.name: method for method in _METHODS}
# Those that change nothing.
READING: Final = frozenset({"Prop", "Stat", "StatAvg", "GetVar", "GetControl"})

# Members of the objects in a guest's io_tune list: known names at load.
TUNE_FIGURES: Final = ("total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec")
TUNE_PARTS: Final = ("guaranteed", "maximum", "current")
TUNE_FIELD_DOCS: Final = {
    "name": "the disk's name in the guest, such as vda",
    "path": "the file or device behind it",
    "guaranteed": "the limits that the disk is to have at least, by its settings",
    "maximum": "the limits that the disk is to have at most, by its settings",
    "current": "the limits in force; what the run has set counts at once",
}
TUNE_FIELDS: Final = frozenset({*TUNE_FIELD_DOCS, *TUNE_FIGURES})
TUNE_FIGURE_OF: Final = {"set" + "".join(map(str.capitalize, figure.split("_"))): figure for figure in TUNE_FIGURES}
TUNE_SETTERS: Final = {
    name: Form(
        name,
        1,
        1,
        f"limit: asks for the disk's current {figure}; gives nil",
        f"(with Guests guest (with guest.io_tune disk {{(disk.{name} 1000) disk.current.{figure}}}))",
        [[1000], []],
    )
    for name, figure in TUNE_FIGURE_OF.items()
}

ENTITIES: Final = frozenset({"Host", "Guests"})
RESERVED: Final = frozenset(FORMS) | ENTITIES | {"nil"}
