# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML, the table of polkit actions, the actions file, the examples and the objects say the same."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_engine import Bench

from momservice.bus.connection import Call, CallError, Export, load_interfaces
from momservice.bus.names import MANAGER, NAME, PATH, POLICY, XML
from momservice.bus.policy import Policy
from momservice.bus.polkit import ACTIONS, CONTROL, EXPLAIN, FREE, LOAD_POLICY, READ, SET_PARAMETERS
from momservice.bus.service import ANSWERING, publish
from momservice.explanations import Explainer

ROOT = Path(__file__).parents[2]
ACTIONS_FILE = ET.parse(ROOT / "polkit" / "org.ovirt.mom1.policy.in")
KEPT = "auth_admin_keep"
DEFAULTS = {READ: "yes", LOAD_POLICY: "auth_admin", SET_PARAMETERS: KEPT, EXPLAIN: KEPT, CONTROL: KEPT}


class Exports:
    """A connection that only remembers what it is to serve."""

    def __init__(self) -> None:
        self.served: dict[str, tuple[Export, ...]] = {}

    def emit(self, *_args: object) -> None:
        pass

    def serve(self, path: str, *exports: Export) -> None:
        self.served[path] = exports

    async def uid_of(self, _name: str) -> int:
        return 1000


def exports() -> dict[str, Export]:
    """The service's interfaces, those of a guest too, over an engine with stand-ins."""
    connection, bench = Exports(), Bench()
    publish(connection, bench.engine, bench.store, Explainer(bench.engine.runs, bench.at_once), lambda _uuid: None)  # type: ignore[arg-type]  # only that much of a connection is used
    bench.rounds()
    return {export.interface.name: export for path in connection.served for export in connection.served[path]}


def xml_members() -> set[tuple[str, str]]:
    return {(name, method.name) for name, interface in load_interfaces(XML).items() for method in interface.methods}


def test_every_member_has_an_action_and_no_action_lacks_a_member() -> None:
    assert set(ACTIONS) == xml_members()


def test_every_member_is_implemented() -> None:
    assert {(name, member) for name, export in exports().items() for member in export.methods} == xml_members()


def test_free_members_change_nothing() -> None:
    free = {member for (_, member), action in ACTIONS.items() if action == FREE}
    assert free == {"Ping", "GetStatistics", "GetHostStatistics", "GetGuestStatistics", "GetActiveGuests", "GetManagedObjects"}


def test_the_actions_file_has_the_actions_of_the_table() -> None:
    assert {action.get("id") for action in ACTIONS_FILE.iter("action")} == set(ACTIONS.values()) - {FREE}


@pytest.mark.parametrize("action", list(ACTIONS_FILE.iter("action")), ids=lambda action: str(action.get("id")))
def test_each_action_is_owned_and_has_its_default(action: ET.Element) -> None:
    owner = [note.text for note in action.iter("annotate") if note.get("key") == "org.freedesktop.policykit.owner"]
    assert owner == ["unix-user:@MOM_USER@"]
    assert [action.findtext(f"defaults/allow_{who}") for who in ("any", "inactive", "active")] == [DEFAULTS[str(action.get("id"))]] * 3
    assert action.findtext("description")
    assert action.findtext("message")


def test_example_rules_name_only_actions_that_there_are() -> None:
    for rule in (ROOT / "polkit" / "examples").glob("*.rules"):
        named = set(re.findall(r"org\.ovirt\.mom1\.[a-z-]+", rule.read_text(encoding="utf-8")))
        assert named <= set(ACTIONS.values()), rule.name


def test_the_bus_policy_lets_only_mom_own_the_name() -> None:
    conf = ET.parse(ROOT / "dbus" / "org.ovirt.Mom1.conf").getroot()
    owners = [(policy.get("user"), allow.get("own")) for policy in conf for allow in policy if allow.get("own")]
    assert owners == [("mom", NAME)]


def test_the_bus_policy_lets_everybody_ask_for_every_member() -> None:
    conf = ET.parse(ROOT / "dbus" / "org.ovirt.Mom1.conf").getroot()
    # Whatever names an interface or a member would have to be kept in step with the XML: what a caller may do is polkit's to say.
    rules = [(policy.attrib, [(rule.tag, rule.attrib) for rule in policy]) for policy in conf]
    assert ({"context": "default"}, [("allow", {"send_destination": NAME})]) in rules
    assert not list(conf.iter("deny"))


def test_properties_and_signals_of_the_xml_are_what_the_objects_have() -> None:
    for name, export in exports().items():
        assert set(export.variants()) == {prop.name for prop in load_interfaces(XML)[name].properties}, name
        assert set(export.interface.changes) == set(export.variants()), name
        assert set(export.interface.changes.values()) <= {"true", "invalidates", "const"}, name


@pytest.mark.parametrize("interface", [MANAGER, POLICY])
def test_a_member_without_a_row_is_refused(interface: str) -> None:
    call = Call(":1.5", PATH, interface, "Forgotten", (), interactive=False)
    with pytest.raises(CallError) as refused:
        asyncio.run(exports()[interface].guard(call))  # type: ignore[arg-type]  # a guard is a coroutine function
    assert refused.value.name == "org.freedesktop.DBus.Error.AccessDenied"


@pytest.mark.parametrize(("replaces", "told"), [(False, "SetPolicies a, "), (True, "SetPolicies, in place of all others: a, ")])
def test_whoever_decides_is_told_that_all_other_policies_would_go(replaces: bool, told: str) -> None:
    class Gate:
        async def authorize(self, _call: Call, details: Mapping[str, str]) -> None:
            assert details["mom.request"].startswith(told)

    policy = Policy(None, Gate(), None)  # type: ignore[arg-type]  # a guard asks nothing but the gate
    asyncio.run(policy.guard(Call(":1.5", PATH, POLICY, "SetPolicies", ({"a": "1"}, replaces), interactive=False)))


def test_what_only_answers_is_what_reads_or_tries() -> None:
    answering = {(interface, member) for interface, members in ANSWERING.items() for member in members}
    reads = {key for key, action in ACTIONS.items() if action in (FREE, READ, EXPLAIN)}
    assert answering == reads | {(POLICY, member) for member in ("ValidatePolicy", "Evaluate", "EvaluateNow")}
