# SPDX-License-Identifier: GPL-2.0-or-later
"""A bus that refuses our own calls quotes our command line: nothing that everybody may read repeats it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lab.buses import DAEMON, PrivateBus
from momservice.bus.connection import BUS, Call, CallError, Connection
from momservice.bus.names import MANAGER, PATH
from momservice.bus.polkit import POLKIT, PolkitGate
from momservice.controllers import HelperUnavailable, Outcome, World, guest_helper, ksm
from momservice.decisions import Place, Wanted
from momservice.reasons import Reasons

REFUSED = "org.freedesktop.DBus.Error.AccessDenied"
# Programs that we call.
CALLED = (ksm.NAME, guest_helper.NAME, POLKIT[0])


async def refusing(bus: PrivateBus, configuration: Path) -> tuple[Connection, Connection]:
    """Us, and one that owns what we call; the bus refuses to hand our calls on from now on."""
    ours, theirs = await Connection.open(bus.address), await Connection.open(bus.address)
    for name in CALLED:
        await theirs.own(name)
    denied = "".join(f'<deny send_destination="{name}"/>' for name in CALLED)
    configuration.write_text(configuration.read_text().replace("</policy>", f"{denied}</policy>"))
    await ours.call(*BUS, "ReloadConfig")
    return ours, theirs


def played(bus: PrivateBus, scenario: Callable[[Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = await refusing(bus, Path(bus.address.removeprefix("unix:path=")).parent / "bus.conf")
        try:
            await scenario(ours)
        finally:
            for each in (ours, theirs):
                each.close()
                await each.lost()

    asyncio.run(asyncio.wait_for(main(), 60))


def is_clean(text: str) -> bool:
    return not any(word in text for word in ("comm=", "python", "sender", "uid", "/"))


def test_the_bus_does_quote_us(bus: PrivateBus) -> None:
    async def scenario(ours: Connection) -> None:
        with pytest.raises(CallError) as raised:
            await ours.call(ksm.NAME, ksm.PATH, ksm.NAME, "Read")
        assert raised.value.name == REFUSED
        # What is cured here; dbus-broker says less.
        assert is_clean(raised.value.text) is (bus.kind != DAEMON)

    played(bus, scenario)


def test_a_helper_that_we_may_not_call_is_a_reason_in_our_own_words(bus: PrivateBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(ours: Connection) -> None:
        helper, controller, reasons = guest_helper.GuestHelper(ours), ksm.Ksm(ours), Reasons()
        wanted = [Wanted("host", "ksm_run", 1, Place("p", 1, 1))]

        async def apply() -> list[Outcome]:
            return await controller.apply(wanted, World({}, {}, 0, 0, 5))

        for ask in (helper.probe, lambda: helper.set_memory({}), controller.probe, apply):
            with pytest.raises(HelperUnavailable) as raised:
                await ask()
            assert REFUSED in str(raised.value)
            assert is_clean(str(raised.value))
            reasons.set("helper", str(raised.value))
        assert is_clean(reasons.last_error)

    played(bus, scenario)
    assert is_clean(caplog.text.replace("reasons.py", ""))


def test_a_polkit_that_we_may_not_ask_is_a_reason_in_our_own_words(bus: PrivateBus) -> None:
    async def scenario(ours: Connection) -> None:
        told: list[str] = []
        gate = PolkitGate(ours, told.append)
        # Root passes all the same.
        await gate.authorize(Call(ours.unique_name, PATH, MANAGER, "Resume", (), False))
        assert told == [f"polkit does not answer, only root can change anything: it, or the bus, refuses our call ({REFUSED})"]

    played(bus, scenario)
