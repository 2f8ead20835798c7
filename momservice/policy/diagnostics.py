# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of what can be wrong with a policy, at load and in a run: codes with their meaning, advice and an example each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from momservice.decisions import Severity

# How many findings loading tells; errors come before warnings where there are more.
FINDINGS: Final = 100


@dataclass(frozen=True, slots=True)
class Code:
    """One class of findings.

    `load`, `run`: whether loading and whether a run can report it; in a run everything is an error. `meaning` and `advice` are a sentence
    each. `at_load`, `in_run`: a small policy that is reported with this code when it is loaded, or run ("": it isn't, or can't be small).
    """

    name: str
    severity: Severity
    meaning: str
    advice: str
    at_load: str = ""
    in_run: str = ""
    load: bool = True

    @property
    def run(self) -> bool:
        """Whether a run can report it."""
        return bool(self.in_run)


_TABLE: Final = (
    Code(
        "parse",
        "error",
        "The text can't be read: a bracket without its partner, a string without its end, something that is neither a number nor a name.",
        "Look at the caret; of brackets, the message or its hint tells where the other one is or should be.",
        at_load="(defvar threshold 12b)",
    ),
    Code(
        "form",
        "error",
        "Something stands where the language has no place for it: a reserved name that is bound, a list that begins with a number,"
        " a method that isn't called.",
        "Compare with the form's description in the reference.",
        at_load="(defvar Host 1)",
    ),
    Code(
        "name",
        "error",
        "A variable, function, method or field that nothing gives this name, or, in a run, that isn't defined yet.",
        "Correct the name, or define it before it is read; the hint gives the nearest name that there is.",
        at_load="(defvar threshold 1) (* 2 treshold)",
        in_run="(if false_alarm 1 0) (defvar false_alarm 0)",
    ),
    Code(
        "arity",
        "error",
        "A form, function or method got too few or too many arguments.",
        "Give as many as the message says; the arguments of a form are described in the hint.",
        at_load="(if Guests 1)",
        in_run="(def f (a) a) (f 1) (def f (a b) b) (f 1)",
    ),
    Code(
        "unknown-field",
        "error",
        "'Stat' or 'StatAvg' names a field that no collector has for this entity.",
        "Correct the name; mom-fields(7) lists all fields.",
        at_load="(Host.Stat 'mem_fre')",
        in_run="(defvar wanted 'mem_fre') (Host.Stat wanted)",
    ),
    Code(
        "unknown-prop",
        "error",
        "'Prop' names a property that the entity doesn't have.",
        "The host has 'interval', guests have 'name' and 'uuid'.",
        at_load="(Host.Prop 'intervall')",
        in_run="(defvar wanted 'intervall') (Host.Prop wanted)",
    ),
    Code(
        "value",
        "error",
        "A value beyond what the language holds: an integer, shift, string or list that is too large.",
        "Compute with smaller values; the reference lists the limits.",
        at_load="0x10000000000000000000000000000000000000000000000000000000000000000",
        in_run="(<< 1 (abs -256))",
    ),
    Code(
        "too-deep",
        "error",
        "Brackets nested, or functions that call each other, deeper than the limit.",
        "Split the form into functions; give a recursion an end.",
        at_load="{" * 201 + "}" * 201,
        in_run="(def endless () (endless)) (endless)",
    ),
    Code(
        "limit",
        "error",
        "The text of the policy is too long, or a form, a guest's round or the whole run takes more steps than it may.",
        "Do less in one form; loops inside loops over all guests are the usual cause.",
        in_run="(def twice (n) (if (> n 0) {(twice (- n 1)) (twice (- n 1))} 0)) (twice 20)",
    ),
    Code(
        "type",
        "error",
        "An operation got a value of a type that it doesn't take, nil included.",
        "Guard what may be nil with 'valid': (if (valid x) (> x 5) 0).",
        in_run="(+ 1 (Host.Stat 'swap_usage'))",
        load=False,
    ),
    Code(
        "zero-division",
        "error",
        "A division by zero.",
        "Test the divisor first.",
        in_run="(/ 1 (abs 0))",
        load=False,
    ),
    Code(
        "no-data",
        "error",
        "'StatAvg' of a field that has no value in the whole history.",
        "Nothing to correct where a guest has only just started; else see whether its collector is configured and can read the field.",
        in_run="(Host.StatAvg 'mem_free')",
        load=False,
    ),
    Code(
        "not-collected",
        "warning",
        "A field that exists, but that no configured collector gives: it is always nil.",
        "Add the collector to the configuration, or leave the field out.",
        at_load="(valid Host.psi_mem_some_avg10)",
    ),
    Code(
        "unknown-control",
        "warning",
        "A control that no controller has: it is refused whenever it is set.",
        "Correct the name; the hint gives the nearest one.",
        at_load="(Host.Control 'ksm_rum' 1)",
    ),
    Code(
        "wrong-entity",
        "warning",
        "A guest's control or field is asked of the host, or the host's of a guest.",
        "Ask the other: 'Host' for the host's, the item of (with Guests guest ...) for a guest's.",
        at_load="(Host.Control 'balloon_target' 1048576)",
    ),
    Code(
        "parameter",
        "warning",
        "A 'set' that wins over a parameter: whatever the parameter is set to has no effect from there on.",
        "Remove the 'set', or give the variable another name.",
        at_load="(defvar threshold 0.2) (set threshold 0.3)",
    ),
    Code(
        "no-effect",
        "warning",
        "A 'defvar' of a variable that there certainly is already, with another value: it keeps the value it has.",
        "Remove one of the two, or change the value with 'set'.",
        at_load="(defvar threshold 0.2) (defvar threshold 0.3)",
    ),
    Code(
        "unreachable",
        "warning",
        "Something is never evaluated, because a literal before it has decided.",
        "Remove it, or put a real condition in the literal's place.",
        at_load="(if 0 (Host.Control 'ksm_run' 1) nil)",
    ),
    Code(
        "mixed-types",
        "warning",
        "Values that are compared are certainly of different types, so they are never equal.",
        "Compare with a value of the same type: 1, not '1'.",
        at_load="(defvar mode 'fast') (== mode 1)",
    ),
    Code(
        "always-fails",
        "warning",
        "An operation that fails whenever it is evaluated, whatever the figures are.",
        "Correct the operand that the message names.",
        at_load="(- 1 'one')",
    ),
)
CODES: Final = {code.name: code for code in _TABLE}
