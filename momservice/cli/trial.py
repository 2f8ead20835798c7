# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl policy try: what would change if policies were loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeVar

from momservice.cli.findings import plain, say_findings
from momservice.cli.output import count, say, say_json, say_table
from momservice.cli.policy_files import PolicyFile, add_files, read_policies, texts
from momservice.cli.service import add_asking, connected
from momservice.cli.values import readable, written
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import BlockingClient, Evaluation
from momservice.decisions import Diagnostic, Wanted
from momservice.snapshot import HOST
from momservice.strict_json import Json

T = TypeVar("T")
MORE = """\
The set in force and the same with these files over it are evaluated on the live figures, and what they decide is compared; nothing is \
loaded or applied. Exit status: 0 also if much would change; 1 for policies that the service would refuse."""
# So often at most it is begun anew because the figures have moved on in between.
TRIES: Final = 3
# How many guests that fail are named.
NAMED: Final = 5


def add(actions: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    what = "show what would change if policies were loaded"
    parser = add_verb(actions, "try", what, try_policies, more=MORE, parents=[json_option])
    add_files(parser)
    add_asking(parser)


@dataclass(frozen=True, slots=True)
class _Change:
    """A control that would be another one; None: there is none."""

    now: Wanted | None
    then: Wanted | None

    @property
    def any(self) -> Wanted:
        """Whichever there is."""
        found = self.then or self.now
        assert found is not None
        return found


def try_policies(options: argparse.Namespace) -> int:
    """`momctl policy try`."""
    given = read_policies(options.files)
    with connected(options) as client:
        there = {name: PolicyFile("in force", text) for name, text in client.policies().items()}
        policies = {**there, **given}
        (now, then), still = _undisturbed(client, lambda: (client.evaluate_now({}), client.evaluate_now(texts(policies))))
        names = dict(client.active_guests())
    loads = all(found.diagnostic.severity != "error" for found in then.findings)
    findings = _findings(then, names)
    changes = _changes(now, then) if loads else []
    if options.json:
        plain_findings = [plain(found, policies) for found in findings]
        say_json({"changes": [_plain(change, names) for change in changes], "diagnostics": plain_findings, "undisturbed": still})
    else:
        say_findings(findings, policies)
        _say(changes, names, loads=loads, still=still)
    return 0 if loads else 1


def _undisturbed(client: BlockingClient, work: Callable[[], T]) -> tuple[T, bool]:
    """What work gives, and whether neither figures nor kept variables have changed meanwhile."""

    def seen() -> object:
        return client.statistics(), client.status().last_evaluation_us

    before = seen()
    for _ in range(TRIES):
        given = work()
        after = seen()
        if before == after:
            return given, True
        if client.interactive:
            # Whoever was asked for passwords would be asked again.
            break
        before = after
    return given, False


def _findings(then: Evaluation, names: Mapping[str, str]) -> list[Diagnostic]:
    """The findings; one of several guests is told once."""
    dropped: dict[Diagnostic, list[str]] = {}
    for found in then.findings:
        guests = dropped.setdefault(found.diagnostic, [])
        guests += [names.get(found.entity, found.entity)] if found.entity else []
    return [_with_dropped(found, guests) for found, guests in dropped.items()]


def _with_dropped(found: Diagnostic, guests: Sequence[str]) -> Diagnostic:
    if not guests:
        return found
    more = f" and {len(guests) - NAMED} more" if len(guests) > NAMED else ""
    are = "guest is" if len(guests) == 1 else "guests are"
    return replace(found, message=f"{found.message}; the {are} dropped: {', '.join(guests[:NAMED])}{more}")


def _changes(now: Evaluation, then: Evaluation) -> list[_Change]:
    before, after = (_by_control(decided.controls) for decided in (now, then))
    order = {entity: number for number, entity in enumerate(dict.fromkeys(key[0] for key in (*before, *after)))}
    keys = sorted(before.keys() | after.keys(), key=lambda key: (order[key[0]], key[1:]))
    pairs = [_Change(before.get(key), after.get(key)) for key in keys]
    return [change for change in pairs if _value(change.now) != _value(change.then)]


def _by_control(controls: Sequence[Wanted]) -> dict[tuple[str, str, str], Wanted]:
    return {(wanted.entity, wanted.name, wanted.item): wanted for wanted in controls}


def _value(wanted: Wanted | None) -> tuple[type, object]:
    """The value, with its type: 1 isn't 1.0. No control and nil are the same."""
    value = None if wanted is None else wanted.value
    return type(value), value


def _plain(change: _Change, names: Mapping[str, str]) -> dict[str, Json]:
    return {
        "entity": change.any.entity,
        "guest": names.get(change.any.entity),
        "control": change.any.name,
        "item": change.any.item,
        "in_force": None if change.now is None else written(change.now.value),
        "then": None if change.then is None else written(change.then.value),
        "in_force_place": None if change.now is None else asdict(change.now.place),
        "then_place": None if change.then is None else asdict(change.then.place),
    }


def _say(changes: Sequence[_Change], names: Mapping[str, str], *, loads: bool, still: bool) -> None:
    if not loads:
        say("these policies would be refused")
        return
    if changes:
        say_table(("ENTITY", "CONTROL", "IN FORCE", "THEN", "BY"), [_row(change, names) for change in changes], frozenset({2, 3}))
    say(f"{count(len(changes), 'control')} would change" if changes else "nothing would change")
    if not still:
        say("the figures changed meanwhile, and some of that may be for this reason")


def _row(change: _Change, names: Mapping[str, str]) -> Sequence[str]:
    wanted = change.any
    name = f"{wanted.item}.{wanted.name}" if wanted.item else wanted.name
    values = ["" if each is None else readable(each.value) for each in (change.now, change.then)]
    by = "" if change.then is None else str(change.then.place)
    return wanted.entity if wanted.entity == HOST else names.get(wanted.entity, wanted.entity), name, *values, by
