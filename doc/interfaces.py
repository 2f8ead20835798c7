# SPDX-License-Identifier: GPL-2.0-or-later
"""org.ovirt.Mom1(5): the bus interfaces, from their XML, the table of polkit actions and the error classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from blocks import Block, Code, Entry, Page, Part, Section, Text, section

from momservice.bus import names
from momservice.bus.objects import EMITS_CHANGED, INTERFACES
from momservice.bus.polkit import ACTIONS, FREE
from momservice.errors import MomError

_ACTIONS: Final = Path(__file__).parent.parent / "polkit" / "org.ovirt.mom1.policy.in"
_INTRO = (
    f"The Memory Overcommitment Manager is `{names.NAME}` on the system bus. The object `{names.PATH}` has all interfaces below but "
    f"`{names.GUEST}`, which each guest's object has. Sizes are bytes; dictionaries of fields have the names and units of mom-fields(7): "
    "integers as `x` (beyond 64 bits: `d`), others as `d`, `b`, `s`; a field without a value is left out. Signatures never change; members "
    "may be added, and dictionaries may gain keys."
)
_WHO = (
    "Everybody may read properties, introspect and call the methods that need no action. For all others polkit decides, by the action that "
    "the method names; root may always. Without polkit only root may. These are the actions, and what they need by default:"
)
_DEFAULTS: Final = {
    "yes": "nothing",
    "auth_admin": "an administrator's password, each time",
    "auth_admin_keep": "an administrator's password",
}
_CHANGES: Final = {
    "true": "",
    "invalidates": "Changes are announced without the value.",
    "false": "Changes aren't announced.",
    "const": "Never changes.",
}
_EXAMPLE = f"""busctl introspect {names.NAME} {names.PATH}
busctl call {names.NAME} {names.PATH} {names.MANAGER} Pause su "maintenance" 3600
busctl get-property {names.NAME} {names.PATH} {names.HOST} MemoryAvailable PressureLevel
busctl monitor {names.NAME}
"""


def interfaces() -> Page:
    """The page."""

    def blocks() -> Iterator[Block]:
        yield from section("Description", Text(_INTRO))
        yield from section("Examples", Code(_EXAMPLE))
        yield from section("Who may call what", Text(_WHO))
        yield from (_action(action) for action in _actions().iter("action"))
        yield Section("Interfaces")
        for about, interface in _documented(_parsed()):
            yield from _interface(interface.get("name", ""), about, list(_documented(interface)))
        yield from section("Errors", Text("One line of text comes with each; for a policy it is `fragment:line:column: message`."))
        yield from (Entry(kind.error_name, kind.__doc__ or "") for kind in MomError.__subclasses__())
        yield from section("See also", Text("momctl(1), momservice(8), mom-policy(5), mom-fields(7), busctl(1)"))

    return Page(names.NAME, 5, "D-Bus interfaces of the Memory Overcommitment Manager", blocks())


def _actions() -> ElementTree.Element:
    return ElementTree.parse(_ACTIONS).getroot()  # noqa: S314 - our own file


def _parsed() -> ElementTree.Element:
    builder = ElementTree.TreeBuilder(insert_comments=True)
    return ElementTree.parse(INTERFACES / names.XML, ElementTree.XMLParser(target=builder)).getroot()  # noqa: S314 - our own file


def _documented(parent: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    """The elements in one, each with the comment that stands before it; a comment's tag is a function."""
    for comment, element in pairwise(parent):
        if not isinstance(comment.tag, str) and isinstance(element.tag, str):
            yield " ".join((comment.text or "").split()), element


def _interface(name: str, about: str, members: Sequence[tuple[str, ElementTree.Element]]) -> Iterator[Block]:
    yield from (Part(name), Text(about))
    for kind, title in (("method", "methods"), ("property", "properties"), ("signal", "signals")):
        of_kind = [(text, member) for text, member in members if member.tag == kind]
        yield from [Part(f"{name}: {title}")] if of_kind else ()
        yield from (_member(name, text, member) for text, member in of_kind)


def _action(action: ElementTree.Element) -> Entry:
    needs = _DEFAULTS[action.findtext("defaults/allow_active", "")]
    return Entry(action.get("id", ""), f"{action.findtext('description')}: {needs}.")


def _member(interface: str, about: str, member: ElementTree.Element) -> Entry:
    name = member.get("name", "")
    match member.tag:
        case "property":
            notes = [note.get("value", "") for note in member.iter("annotation") if note.get("name") == EMITS_CHANGED]
            return Entry(f"{name} {member.get('type')}", " ".join(filter(None, (about, *(_CHANGES[note] for note in notes)))))
        case "method":
            action = ACTIONS[interface, name]
            return Entry(_call(name, member), about if action == FREE else f"{about} Needs {action}.")
        case _:
            return Entry(f"{name}({_arguments(member)})", about)


def _call(name: str, method: ElementTree.Element) -> str:
    out = _arguments(method, "out")
    return f"{name}({_arguments(method, 'in')})" + (f" -> {out}" if out else "")


def _arguments(member: ElementTree.Element, direction: str | None = None) -> str:
    return ", ".join(f"{arg.get('type')} {arg.get('name')}" for arg in member.iter("arg") if arg.get("direction") == direction)
