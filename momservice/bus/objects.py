# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process serves on the bus: objects, their interfaces as the introspection XML declares them, and who implements a member.

Part of the code that runs as root. Nothing here talks to the bus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NewType
from xml.etree import ElementTree

from momservice.bus.library import Variant, intr

INTERFACES = Path(__file__).with_name("interfaces")
ERROR = "org.freedesktop.DBus.Error."
MAX_ERROR_CHARACTERS = 1000
EMITS_CHANGED = "org.freedesktop.DBus.Property.EmitsChangedSignal"

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
# What every object answers besides its own interfaces: member -> (signature in, signature out).
STANDARD: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "org.freedesktop.DBus.Introspectable": {"Introspect": ("", "s")},
    "org.freedesktop.DBus.Peer": {"Ping": ("", ""), "GetMachineId": ("", "s")},
    "org.freedesktop.DBus.Properties": {"Get": ("ss", "v"), "GetAll": ("s", "a{sv}"), "Set": ("ssv", "")},
}


def clean(text: str) -> str:
    """The text as D-Bus can carry it: without NUL and lone surrogates, for which the bus would throw the sender out."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


class CallError(Exception):
    """An error reply, sent or received: a D-Bus error name and one line of text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = " ".join(clean(text).split())[:MAX_ERROR_CHARACTERS]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Call:
    """One incoming method call. `interactive`: the caller allows polkit to ask for a password."""

    sender: str
    path: str
    interface: str
    member: str
    args: Sequence[Any]
    interactive: bool


Guard = Callable[[Call], Awaitable[None]]
# Gives the out-arguments in their order, or Marshalled: as D-Bus has them, little-endian, for answers that many callers share.
Method = Callable[[Call], Awaitable[Sequence[Any]]]
Marshalled = NewType("Marshalled", bytes)


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the project's XML. `element` is it as it stands there, with its annotations, which dbus-next's own form lacks.

    `signals`: name -> signature. `changes`: property -> how its changes are told: "true", "invalidates", "false" or "const".
    """

    name: str
    methods: Sequence[intr.Method]
    properties: Sequence[intr.Property]
    element: ElementTree.Element
    signals: Mapping[str, str] = field(init=False)
    changes: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        signals = {
            signal.get("name", ""): "".join(arg.get("type", "") for arg in signal.iter("arg")) for signal in self.element.iter("signal")
        }
        changes = {
            each.get("name", ""): note.get("value", "")
            for each in self.element.iter("property")
            for note in each.iter("annotation")
            if note.get("name") == EMITS_CHANGED
        }
        object.__setattr__(self, "signals", signals)
        object.__setattr__(self, "changes", changes)


@dataclass(frozen=True, slots=True)
class Export:
    """One interface of one object.

    `methods`: member -> coroutine function from the Call to the sequence of out-arguments. `guard` runs first and raises CallError to
    refuse; with `guard_first` it needs no arguments, gets () and runs before they are decoded. `properties` gives all values, plain, by
    name. `answering`: methods that do nothing but answer, so that nothing is to be done for a caller that wants no answer. Members that
    the XML lacks or that lack here are a programming error.
    """

    interface: Interface
    methods: Mapping[str, Method]
    guard: Guard
    properties: Callable[[], Mapping[str, Any]] = dict
    guard_first: bool = False
    answering: Collection[str] = ()
    signatures: dict[str, tuple[str, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for method in self.interface.methods:
            self.signatures[method.name] = (method.in_signature, method.out_signature)
        if stray := self.signatures.keys() ^ self.methods.keys():
            raise TypeError(f"{self.interface.name}: implemented members differ from the XML: {sorted(stray)}")

    def variants(self, names: Collection[str] | None = None) -> dict[str, Variant]:
        """Properties, all of them or some, as variants of the declared signatures."""
        values = self.properties()
        return {p.name: Variant(p.signature, values[p.name]) for p in self.interface.properties if names is None or p.name in names}


def load_interfaces(file_name: str) -> dict[str, Interface]:
    """The interfaces of one XML file of the project (a constant name, e.g. "org.ovirt.Mom1.xml"), by interface name."""
    root = ElementTree.parse(INTERFACES / file_name).getroot()  # noqa: S314  # installed with the program
    found = {}
    for element in root.iter("interface"):
        parsed = intr.Interface.from_xml(element)
        found[parsed.name] = Interface(parsed.name, parsed.methods, parsed.properties, element)
    return found


class Target(NamedTuple):
    """What a call is for: a member of one of the object's own interfaces or, without `export`, a standard one."""

    path: str
    interface: str
    member: str
    signature: str
    out_signature: str
    export: Export | None


class Objects:
    """All objects of a process, by path."""

    def __init__(self) -> None:
        self._exports: dict[str, dict[str, Export]] = {}
        # Path -> names of the nodes below it: anybody may ask for any path, and there may be thousands of objects.
        self._children: dict[str, set[str]] = {}

    def serve(self, path: str, exports: Sequence[Export]) -> None:
        """Add an object, or put it in the place of the one at this path."""
        self._exports[path] = {export.interface.name: export for export in exports}
        while path != "/":
            parent, name = _split(path)
            self._children.setdefault(parent, set()).add(name)
            path = parent

    def withdraw(self, path: str) -> None:
        """Take an object away."""
        self._exports.pop(path, None)
        while path != "/" and path not in self._exports and path not in self._children:
            parent, name = _split(path)
            siblings = self._children.get(parent, set())
            siblings.discard(name)
            if siblings:
                return
            self._children.pop(parent, None)
            path = parent

    def find(self, path: str, interface: str, member: str) -> Target:
        """What a call is for; it may leave the interface out (""). Raises CallError (UnknownObject, UnknownInterface, UnknownMethod)."""
        exports = self._exports.get(path)
        if exports is None and path not in self._children:
            raise CallError(ERROR + "UnknownObject", f"no object at {path}")
        own = {name: export.signatures for name, export in (exports or {}).items()}
        tables: dict[str, Mapping[str, tuple[str, str]]] = {**own, **STANDARD}
        if interface and interface not in tables:
            raise CallError(ERROR + "UnknownInterface", f"no interface {interface} at {path}")
        for name in [interface] if interface else tables:
            if member in tables[name]:
                return Target(path, name, member, *tables[name][member], (exports or {}).get(name))
        raise CallError(ERROR + "UnknownMethod", f"no method {member} in {interface or path}")

    def standard(self, target: Target, args: Sequence[Any]) -> Sequence[Any]:
        """The answer to a call of a standard member that can be given without the bus. Raises CallError."""
        match target.member:
            case "Introspect":
                return [self._introspect(target.path)]
            case "Get":
                return [self._property(target.path, *args)]
            case "GetAll":
                return [self._export(target.path, args[0]).variants() if args[0] not in STANDARD else {}]
            case "Set":
                self._property(target.path, *args[:2])
                raise CallError(ERROR + "PropertyReadOnly", f"property {args[1]} is read-only")
            case _:
                return []

    def _export(self, path: str, interface: str) -> Export:
        try:
            return self._exports[path][interface]
        except KeyError:
            raise CallError(ERROR + "UnknownInterface", f"no interface {interface} here") from None

    def _property(self, path: str, interface: str, name: str) -> Variant:
        values = self._export(path, interface).variants()
        if name not in values:
            raise CallError(ERROR + "UnknownProperty", f"{interface} has no property {name}")
        return values[name]

    def _introspect(self, path: str) -> str:
        node = ElementTree.Element("node")
        node.extend(interface.to_xml() for interface in intr.Node.default().interfaces if interface.name in STANDARD)
        node.extend(export.interface.element for export in self._exports.get(path, {}).values())
        node.extend(ElementTree.Element("node", name=child) for child in sorted(self._children.get(path, ())))
        return DOCTYPE + ElementTree.tostring(node, "unicode")


def _split(path: str) -> tuple[str, str]:
    """The node above, and the name below it."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name
