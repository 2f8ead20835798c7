# SPDX-License-Identifier: GPL-2.0-or-later
"""mom-policy(5): the reference of the policy language, from the tables that the language itself uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

from blocks import Block, Code, Entry, Page, Part, Section, Text, part, section

from momservice.bus.names import MAIN_POLICY
from momservice.policy.diagnostics import CODES, FINDINGS
from momservice.policy.diagnostics import Code as FindingCode
from momservice.policy.forms import FORMS, METHODS, RESERVED, TUNE_SETTERS, Form
from momservice.policy.limits import LIMITS, Limit
from momservice.policy.program import INCURABLE
from momservice.policy.state import FORM_STEPS, ROUND_STEPS

_LONGEST_EXAMPLE: Final = 80


class Lexeme(NamedTuple):
    """A kind of token. `good`: examples that can be read; `bad`: some that can't. Both are whole policies."""

    name: str
    rule: str
    good: tuple[str, ...]
    bad: tuple[str, ...] = ()


LEXEMES: Final = (
    Lexeme("comment", "'#' to the end of the line or of the text.", ("# all of this",), ("; this",)),
    Lexeme("brackets", "They pair by kind. `[...]` means `(...)`, `{...}` is a block.", ("(+ 1 2)", "[+ 1 2]", "{1 2}"), ("(+ 1 2]",)),
    Lexeme("integer", "Decimal, with an optional minus; no leading zero.", ("0", "-17", "1048576"), ("007", "1_000", "12b")),
    Lexeme("hexadecimal, octal", "`0x` or `0X` and hexadecimal digits; `0o` and octal ones. No minus.", ("0x1F", "0o17"), ("-0x10", "0o8")),
    Lexeme(
        "float",
        "An optional minus, digits if you like, a point, at least one digit, and an exponent if you like; or an integer with an exponent.",
        ("0.25", "-.5", "1.5e-3", "2e9"),
        ("5.",),
    ),
    Lexeme(
        "string",
        "In double or single quotes, over several lines if you like. A backslash keeps the next character from ending the string; both"
        " stay in it, nothing is replaced.",
        ('"ksm_run"', "'ksm_run'", r"'it\'s'"),
        ('"open',),
    ),
    Lexeme(
        "symbol",
        "A name: a letter or '_', then letters, digits, '_', '-' and '.' (ASCII). It doesn't end in '.', and two points don't stand "
        "together. `a-1` is one name.",
        ("(defvar a-1 5)", "Host.mem_free"),
        ("(debug a..b)", "(debug a.)"),
    ),
    Lexeme(
        "operator",
        "`+ - * / < > <= >= << >> == !=`, the longest first. A minus directly before a digit belongs to the number: `8-3` are two "
        "numbers.",
        ("(- 8 3)", "(- 5 -3)"),
        ("(= 1 1)",),
    ),
)
GRAMMAR: Final = """\
program = { value }
value   = number | string | symbol | operator
        | "(" { value } ")" | "[" { value } "]" | "{" { value } "}"
"""
EXAMPLE: Final = """\
# The host is short of memory when less than this part of it is free.
(defvar threshold 0.2)

(if (valid Host.mem_free Host.mem_available)
    (Host.Control "ksm_run"
        (if (< Host.mem_free (* threshold Host.mem_available)) 1 0))
    nil)
"""
_DESCRIPTION: Final = (
    "A policy decides, from what is known of the host and its guests, how hard the kernel merges equal pages and how much memory each "
    "guest has. It is a text of forms in brackets, evaluated from the first to the last in each policy round (policy-engine-interval in "
    "momd.conf(5)). It reads fields and asks for controls; mom-fields(7) lists both. The language is that of oVirt's Memory "
    "Overcommitment Manager, whose policies run unchanged.",
    "`momctl policy check` tells what is wrong with a policy, `momctl policy eval` what it decides on a recorded snapshot, `momctl policy"
    " test` whether it decides as its author expects (mom-policy-test(5)); none of them needs the service. tutorial.md, beside this"
    " reference, writes a policy step by step.",
)
_GRAMMAR: Final = (
    "Numbers, strings and `nil` are worth themselves. A symbol is worth the variable of that name, `Host`, `Guests`, or a field:"
    " `Host.mem_free`. A list in round or square brackets calls what it begins with: a form, a function of the policy, or a method"
    " of an entity, `(guest.Prop 'name')`. Functions and variables have separate names.",
    "A block `{a b c}` evaluates a, b and c in order and gives the last, nil without any. It opens no scope.",
)
_VALUES: Final = (
    "nil, booleans, integers, floats, strings, lists, entities (the host and the guests) and objects in fields (disks). False are nil,"
    " false, 0, 0.0, the empty string and the empty list; all else is true. There are no literals of booleans and lists: comparisons give"
    " the former, `with` the latter. `True` and `False` are ordinary names: `(defvar False 0)` defines one.",
    "In arithmetic and comparison booleans count as 1 and 0, and integers and floats mix. Anything else of different types is an error,"
    " nil included, but for `==` and `!=`.",
)
_SPACE: Final = "White space, line breaks included, separates and means nothing else."
_FORMS: Final = "Each with the number of its arguments, which is checked at load, what they are, and an example."
_SCOPE: Final = (
    "Scope is dynamic. `let`, every call of a function and every round of `with` open a scope and close it at their end. A name is looked "
    "up from the innermost scope outwards, through the callers, to the global scope, which is new in each run and holds the parameters at "
    "first. What shall last longer is kept by `SetVar`.",
    "The arguments of a function are evaluated in the scope of the caller.",
)
_ENTITIES: Final = (
    "`Host` is the host, `Guests` the list of the guests, by name and then UUID. `(with Guests guest ...)` gives each in turn. "
    "`Host.FIELD` and `guest.FIELD` are the newest values of fields, nil where there is none now. Entities have these methods, and "
    "nothing else; names may be computed.",
)
_WORLD: Final = (
    "The examples ran on a host whose `mem_free` was 4000 and is 6000 and whose `swap_usage` has no value, with guests called one and "
    "two."
)
_DISKS: Final = (
    "The field `io_tune` is a list of objects, one for each disk, with members to be read, `disk.maximum.total_bytes_sec`, and setters to "
    "be called. mom-fields(7) lists them, and says whether their collector is built yet. A setter asks for a control of the guest; what "
    "it sets is current at once.",
)
_FRAGMENTS: Final = (
    "The files NAME.policy, and what clients load, run together as one program, in the order of their names (as plain strings), with one"
    f" global scope. A policy that is loaded without a name is called {MAIN_POLICY}.",
    "A parameter is a global variable that a policy gives a default by a `defvar` at top level, the value of which is a literal or a name "
    "that an earlier `defvar` binds to one. It can be set without changing a policy (`momctl params set NAME=VALUE`): its value is bound "
    "before the first form runs, and the `defvar` keeps it. The type of the default decides: an integer takes integers and booleans (as 1 "
    "and 0), a float any number, a string strings, nil anything. A `set` in a policy still wins, with a warning.",
)
_FAILURES: Final = (
    "What can be known to be wrong without running a policy is told when it is loaded, with its place, and the policy is refused; the one "
    "in force runs on. What fails in a run costs as little as possible:",
)
_ISOLATION: Final = (
    (
        "in a guest's round",
        "that is, in the outermost `with` whose item is a guest: the round ends there. All that it did is undone: controls, of any"
        " entity, SetVars, `set`s of variables outside it and definitions. Its value is nil. All controls of this guest in this run are"
        " dropped, later loops skip the guest, and the other guests go on.",
    ),
    ("elsewhere in a top-level form", "the form is undone in the same way, its value is nil, and the next form follows."),
    ("beyond the budget of the whole run", "the run ends, and none of its controls is applied."),
)
_REPORTED: Final = (
    "Each is reported with guest, policy, line, column and the calls that led there; `momctl status` is degraded until a run succeeds.",
)
_STEPS: Final = (
    "Steps are counted, not timed, so a policy takes the same on every machine. A step is about one operation; lists and long strings cost "
    f"more, by size. Each top-level form may take {FORM_STEPS} and each round of an outermost loop over guests {ROUND_STEPS} of its own.",
)
_FINDINGS: Final = (
    "Each has a severity, a code, a place (policy, line and column from 1), a message and often a hint, such as the nearest known name. "
    f"Several are told at once, up to {FINDINGS}. An error at load keeps a policy from being loaded; what fails in a run is always an "
    "error.",
    "Before the service takes a policy it also tries it on the newest figures, and refuses it for an error that no other figures would "
    f"cure: {', '.join(f'`{code}`' for code in CODES if code in INCURABLE)}.",
)
_DIFFERENCES: Final = (
    ("errors", "Cost the guest or form that they happen in, not the run; a bad value of a control costs that control."),
    ("text that can't be read", "Is an error with its place. There, it takes the rest of all policies with it, in silence."),
    ("unknown names", "Are found at load, where they can be; there, when they are reached."),
    ("and, or", "Stop at the operand that decides."),
    ("Stat", "Gives its default where the field is nil; there, never."),
    ("StatAvg", "Fails where there is no value at all, which skips that guest; there, it is 0."),
    ("SetVar", "Lasts beyond the run."),
    ("arguments", "Don't see earlier parameters of the function that is called."),
    ("names of forms, Host, Guests", "Can't be bound."),
    ("names twice", "In a parameter list, or in the bindings of a `let`, are an error."),
    ("functions", "Aren't hidden by variables of their names."),
    ("a.b.c", "Reads c of b of a; there, c is ignored. What has no such member is an error."),
    ("members", "Are declared fields and the methods above, and nothing else."),
    ("with", "Takes a list; there, a string as well."),
    ("*", "Takes numbers; there, a string as well."),
    ("numbers", "Such as 12b, 1_000, 007, 5. and 0o8 are errors."),
    ("policies without a form", "Load and do nothing."),
    ("(debug), (), {}", "Are an arity error, a form error and nil; there, they fail when they are reached."),
)


def policy() -> Page:
    """The page."""

    def blocks() -> Iterator[Block]:
        yield from section("Description", *map(Text, _DESCRIPTION), Code(EXAMPLE))
        yield from section("Lexical rules", *map(_lexeme, LEXEMES), Text(_SPACE))
        yield from section("Grammar", Code(GRAMMAR), *map(Text, _GRAMMAR))
        yield from section("Values", *map(Text, _VALUES))
        yield from section("Scope", *map(Text, _SCOPE))
        yield from section("Forms", Text(_FORMS))
        yield from (_form(form) for name, form in FORMS.items() if name == form.name)
        yield from section("Reserved names", Text(f"Nothing can be bound to: {' '.join(f'`{name}`' for name in sorted(RESERVED))}"))
        yield from section("Entities", *map(Text, _ENTITIES))
        yield from part("Methods", Text(_WORLD), *map(_form, METHODS.values()))
        yield from part("Setters of disks", *map(Text, _DISKS), *map(_setter, TUNE_SETTERS.values()))
        yield from section("Several policies, and parameters", *map(Text, _FRAGMENTS))
        yield from section("When something fails", *map(Text, _FAILURES), *(Entry(*row) for row in _ISOLATION), *map(Text, _REPORTED))
        yield from section("Limits", *map(Text, _STEPS), *map(_limit, LIMITS))
        yield from _diagnostics()
        yield from section("Differences from oVirt's MOM", *(Entry(*row) for row in _DIFFERENCES))
        yield from section("See also", Text("mom-fields(7), mom-policy-test(5), momctl(1), momd.conf(5)"))

    return Page("mom-policy", 5, "the policy language of the Memory Overcommitment Manager", blocks())


def _lexeme(lexeme: Lexeme) -> Entry:
    wrong = (f"Wrong: {_listed(lexeme.bad)}",) if lexeme.bad else ()
    return Entry(lexeme.name, lexeme.rule, (f"Examples: {_listed(lexeme.good)}", *wrong))


def _listed(examples: tuple[str, ...]) -> str:
    return ", ".join(f"`{example}`" for example in examples)


def _form(form: Form) -> Entry:
    return Entry(f"{', '.join((form.name, *form.synonyms))} ({form.arity()})", _said(form), (_example(form),))


def _setter(setter: Form) -> Entry:
    return Entry(f"{setter.name} ({setter.arity()})", _said(setter))


def _said(form: Form) -> str:
    arguments, _, does = form.doc.partition(": ")
    return f"Arguments: {arguments}. {does[0].upper()}{does[1:]}."


def _example(form: Form) -> str:
    return f"`{form.example}` gives `{written(form.gives)}`"


def written(value: object) -> str:
    """A value as the pages show it: as JSON, but nil."""
    return "nil" if value is None else json.dumps(value)


def _limit(limit: Limit) -> Entry:
    beyond = f" Beyond it: `{limit.code}`." if limit.code else ""
    return Entry(f"{limit.name}: {limit.value} {limit.unit}", f"{limit.doc}{beyond}")


def _diagnostics() -> Iterator[Block]:
    yield Section("Diagnostics")
    yield from map(Text, _FINDINGS)
    for severity in ("error", "warning"):
        yield Part(f"{severity.capitalize()}s")
        yield from (_code(code) for code in CODES.values() if code.severity == severity)


def _code(code: FindingCode) -> Entry:
    when = " and ".join([*["at load"] * code.load, *["in a run"] * code.run])
    examples = [text for text in (code.at_load, code.in_run) if 0 < len(text) <= _LONGEST_EXAMPLE][:1]
    return Entry(f"{code.name} ({when})", code.meaning, (code.advice, *(f"Example: `{text}`" for text in examples)))
