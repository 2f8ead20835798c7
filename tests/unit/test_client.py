# SPDX-License-Identifier: GPL-2.0-or-later
"""The client against the XML, and its mapping of errors."""

from __future__ import annotations

import asyncio
import inspect
import threading
from dataclasses import fields
from typing import Any

import pytest

from momservice import errors
from momservice.bus.connection import BusLost, CallError, Connection, Variant, load_interfaces
from momservice.bus.names import GUEST, MANAGER, XML
from momservice.client import BlockingClient, Client, ServiceStatus, ServiceUnavailable
from momservice.link import Link
from momservice.replies import PROPERTIES, GuestState

NAMES = {kind.error_name: kind for kind in errors.MomError.__subclasses__()}
NO_BUS = "unix:path=/nonexistent/bus"


class Broken:
    """A connection all of whose calls fail, or answer with one thing."""

    def __init__(self, error: Exception | None = None, answer: Any = None) -> None:
        self.error, self.answer = error, answer
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, *args: Any, **_more: Any) -> Any:
        self.calls.append(args)
        if self.error:
            raise self.error
        return self.answer

    async def lost(self) -> None:
        await asyncio.Event().wait()


def client(connection: Broken) -> Client:
    async def connect() -> Connection:
        return connection  # type: ignore[return-value]  # has all of Connection that a client uses

    return Client(Link(connect))


def test_status_has_every_property_in_the_order_of_its_fields() -> None:
    assert set(PROPERTIES) == {prop.name for prop in load_interfaces(XML)[MANAGER].properties}
    assert [name.lower() for name in PROPERTIES] == [
        field.name.removesuffix("_ms").removesuffix("_us").replace("_", "") for field in fields(ServiceStatus)
    ]


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: [str(p) for p in inspect.signature(f).parameters.values()] for name, f in members if not name.startswith("_")}

    assert signatures(Client) == signatures(BlockingClient)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_error_comes_back_as_the_class_of_its_name(name: str) -> None:
    with pytest.raises(NAMES[name], match="text"):
        asyncio.run(client(Broken(CallError(name, "text"))).ping())


def test_objects_that_are_no_guests_are_passed_over() -> None:
    texts = {"Uuid": Variant("s", "a"), "State": Variant("s", "managed")}
    guest = {**texts, "StateReasons": Variant("as", []), "Capabilities": Variant("a{ss}", {})}
    objects = {"/guest/a": {GUEST: guest}, "/hold/1": {"org.ovirt.Mom1.Hold": {}}}
    assert asyncio.run(client(Broken(answer=[objects])).guest_states()) == {"a": GuestState("managed", [], {})}


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(CallError) as raised:
        asyncio.run(client(Broken(CallError("org.freedesktop.DBus.Error.Timeout", "late"))).ping())
    assert (raised.value.name, str(raised.value)) == ("org.freedesktop.DBus.Error.Timeout", "late")


@pytest.mark.parametrize("name", ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Spawn.ExecFailed"])
def test_a_missing_service_is_told_with_the_way_to_start_it(name: str) -> None:
    with pytest.raises(ServiceUnavailable, match="systemctl start momservice"):
        asyncio.run(client(Broken(CallError(f"org.freedesktop.DBus.Error.{name}", "x"))).ping())


def test_a_bus_that_goes_is_told() -> None:
    with pytest.raises(ServiceUnavailable, match="gone"):
        asyncio.run(client(Broken(BusLost("gone"))).ping())


@pytest.mark.parametrize("text", ["a\0b", "a\udc80"])
def test_a_text_for_which_the_bus_would_throw_us_out_is_never_sent(text: str) -> None:
    connection = Broken(answer=[1])
    under_test = client(connection)
    for work in (under_test.set_policy(text), under_test.set_policies({"a": text}), under_test.set_parameters({"a": text})):
        with pytest.raises(errors.InvalidArgs):
            asyncio.run(work)
    assert not connection.calls


@pytest.mark.parametrize("value", [None, [], {}, object(), 1 << 2000])
def test_what_is_no_parameter_is_never_sent(value: Any) -> None:
    connection = Broken(answer=[1])
    for work in (client(connection).set_parameters({"a": value}), client(connection).replace_parameters({"a": value})):
        with pytest.raises(errors.InvalidArgs, match="parameter a: "):
            asyncio.run(work)
    assert not connection.calls


@pytest.mark.parametrize("seconds", [-1, 1 << 32])
def test_a_pause_that_the_bus_cannot_carry_is_out_of_range(seconds: int) -> None:
    connection = Broken(answer=[])
    with pytest.raises(errors.OutOfRange, match=str(seconds)):
        asyncio.run(client(connection).pause("", seconds))
    assert not connection.calls


def test_without_a_bus_the_blocking_client_says_so_and_leaves_no_thread() -> None:
    with pytest.raises(ServiceUnavailable, match="cannot connect to the system bus"):
        BlockingClient(NO_BUS)
    assert "mom-client" not in [thread.name for thread in threading.enumerate()]


def test_without_a_bus_the_connection_says_so() -> None:
    with pytest.raises(BusLost, match=r"^cannot connect to the system bus: No such file or directory$"):
        asyncio.run(Connection.open(NO_BUS))
