# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of the language's limits, gathered from where each holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from momservice.bus.names import MAX_TEXT_BYTES, TEXT_BYTES
from momservice.decisions import CALLS
from momservice.policy.diagnostics import FINDINGS
from momservice.policy.members import KEPT, KEPT_SIZE, NAME
from momservice.policy.operations import SHIFT
from momservice.policy.reader import NESTING
from momservice.policy.state import CALL_DEPTH, DEBUG_LINES, FORM_STEPS, READS, ROUND_STEPS, RUN_COUNTED, RUN_STEPS, RUN_WORK
from momservice.policy.values import INTEGER_BITS, LIST_DEPTH, LIST_VALUES, STRING_BYTES


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: `value` in `unit` is what is still allowed. `code`: what is reported beyond it ("": nothing; `doc` tells what happens)."""

    name: str
    value: int
    unit: str
    code: str
    doc: str


LIMITS: Final = (
    Limit("text", TEXT_BYTES, "bytes", "limit", "The text of all fragments together, in UTF-8."),
    Limit(
        "text from the bus",
        MAX_TEXT_BYTES,
        "bytes",
        "",
        "The fragments of one call, and all that clients have loaded; more is refused as LimitsExceeded.",
    ),
    Limit("nesting", NESTING, "brackets", "too-deep", "Brackets inside each other."),
    Limit("calls", CALL_DEPTH, "calls", "too-deep", "Functions of the policy that call each other, or themselves."),
    Limit(
        "form",
        FORM_STEPS,
        "steps",
        "limit",
        "What one top-level form may do, apart from guests' rounds; then the form fails and is undone.",
    ),
    Limit(
        "round", ROUND_STEPS, "steps", "limit", "What one guest's round of an outermost loop may do; then the round fails and is undone."
    ),
    Limit(
        "run",
        RUN_STEPS,
        "steps",
        "limit",
        "What the whole run may do, where it is counted step by step; then it ends, and none of its controls is applied.",
    ),
    Limit(
        "run by its bounds",
        RUN_WORK,
        "steps",
        "",
        "What the whole run may come to by the most that each round may do, times the guests, with what is slow weighed more; a run within"
        " it isn't counted step by step, one beyond it is, and takes longer.",
    ),
    Limit(
        "run beside its bounds",
        RUN_COUNTED,
        "steps",
        "",
        "What may come on top that no bound is known of before the run: calls that go around, loops over lists, values that aren't numbers;"
        " a run beyond it is counted step by step.",
    ),
    Limit("integer", INTEGER_BITS, "bits", "value", "The size of an integer, without its sign."),
    Limit("shift", SHIFT, "bits", "value", "By how much '<<' and '>>' shift."),
    Limit("string", STRING_BYTES, "bytes", "value", "The length of a string, in UTF-8."),
    Limit("list", LIST_VALUES, "values", "value", "The values in a list, with those of the lists in it."),
    Limit("list depth", LIST_DEPTH, "lists", "value", "Lists inside each other."),
    Limit("kept texts and lists", KEPT_SIZE, "values", "limit", "Their size for one entity; 16 characters of a text are a value."),
    Limit("kept names", NAME, "characters", "limit", "The name of a variable that 'SetVar' keeps."),
    Limit("kept variables", KEPT, "variables", "limit", "What 'SetVar' keeps for one entity."),
    Limit("debug", DEBUG_LINES, "lines", "", "What 'debug' logs in one run; further lines are left out."),
    Limit("findings", FINDINGS, "findings", "", "What loading tells of one policy, errors first; further ones are left out."),
    Limit("calls told", CALLS, "calls", "", "How many calls, the innermost, an error in a run names."),
    Limit("inputs told", READS, "inputs", "", "How many inputs explain one control."),
)
