# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of what the language knows by name: forms and methods, their arity and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """A form or a method. `most` is None for any number of arguments; `synonyms` are other names of the same form."""

    name: str
    least: int
    most: int | None
    doc: str
    synonyms: tuple[str, ...] = ()

    def misfit(self, count: int) -> str:
        """What is wrong with this number of arguments; "" if nothing is."""
        if count >= self.least and (self.most is None or count <= self.most):
            return ""
        return f"'{self.name}' takes {self._arity()}, not {count}"

    def _arity(self) -> str:
        if self.most is None:
            return f"{self.least} or more arguments"
        if self.most != self.least:
            return f"{self.least} to {self.most} arguments"
        return f"{self.least} argument" + ("" if self.least == 1 else "s")


_TABLE: Final = (
    Form("def", 3, 3, "name, parameter list, one body: defines a function, globally; gives the name", ("defun",)),
    Form("defvar", 2, 2, "name, value: defines a variable in the innermost scope if it is absent there; gives the variable's value"),
    Form("set", 2, 2, "name, value: assigns in the nearest scope that has the name", ("setq",)),
    Form("let", 2, None, "((name value)...), bodies: new scope, bindings one after the other; gives the last body"),
    Form("if", 3, 3, "condition, then, else: evaluates one branch"),
    Form("with", 3, 3, "list, item name, body: the body once per item; gives the list of values"),
    Form("eval", 0, None, "values in order; gives the last, nil without any; {a b c} is the same"),
    Form("+", 2, 2, "sum; of strings: one after the other", ("add",)),
    Form("-", 2, 2, "difference", ("sub",)),
    Form("*", 2, 2, "product", ("mul",)),
    Form("/", 2, 2, "quotient, always a float", ("div",)),
    Form("<", 2, 2, "whether the first is less", ("lt",)),
    Form(">", 2, 2, "whether the first is greater", ("gt",)),
    Form("<=", 2, 2, "whether the first is not greater", ("lte",)),
    Form(">=", 2, 2, "whether the first is not less", ("gte",)),
    Form("==", 2, 2, "whether both are equal", ("eq",)),
    Form("!=", 2, 2, "whether they differ", ("neq",)),
    Form("<<", 2, 2, "the integer shifted left, by at most 255", ("shl",)),
    Form(">>", 2, 2, "the integer shifted right, by at most 255", ("shr",)),
    Form("and", 1, None, "the first false operand, else the last; what comes after is not evaluated"),
    Form("or", 1, None, "the first true operand, else the last; what comes after is not evaluated"),
    Form("not", 1, 1, "whether the operand is false"),
    Form("min", 1, None, "the first smallest operand"),
    Form("max", 1, None, "the first largest operand"),
    Form("null", 0, None, "whether every operand is nil or empty; a number is neither"),
    Form("valid", 0, None, "whether no operand is nil"),
    Form("abs", 1, 1, "the absolute value"),
    Form("debug", 1, None, "logs the values at debug level; gives the last"),
)
FORMS: Final = {name: form for form in _TABLE for name in (form.name, *form.synonyms)}

_METHODS: Final = (
    Form("Prop", 1, 1, "name: a property"),
    Form("Stat", 1, 2, "name, default: the newest value of a field, the default (nil) if it has none"),
    Form("StatAvg", 1, 1, "name: the mean of a field over the history, as a float; an error without any value"),
    Form("SetVar", 2, 2, "name, value: keeps a variable of the entity for later runs; gives nil"),
    Form("GetVar", 1, 1, "name: a kept variable, nil if there is none"),
    Form("Control", 2, 2, "name, value: asks for a control; the last one wins; gives nil"),
    Form("GetControl", 1, 1, "name: the control asked for in this run, nil if none"),
)
METHODS: Final = {method.name: method for method in _METHODS}

# Members of the objects in a guest's io_tune list: known names at load.
TUNE_FIGURES: Final = ("total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec")
TUNE_FIELDS: Final = frozenset({"name", "path", "guaranteed", "maximum", "current", *TUNE_FIGURES})
TUNE_FIGURE_OF: Final = {"set" + "".join(map(str.capitalize, figure.split("_"))): figure for figure in TUNE_FIGURES}
TUNE_SETTERS: Final = {
    name: Form(name, 1, 1, f"limit: asks for the disk's current {figure}; gives nil") for name, figure in TUNE_FIGURE_OF.items()
}

ENTITIES: Final = frozenset({"Host", "Guests"})
RESERVED: Final = frozenset(FORMS) | ENTITIES | {"nil"}
