# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate's own decisions, with a polkit that answers to order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from momservice import errors
from momservice.bus.connection import Call, CallError
from momservice.bus.names import MANAGER, PATH, POLICY
from momservice.bus.polkit import MAX_IN_ALL, MAX_PER_UID, PolkitGate

Answer: TypeAlias = tuple[bool, bool, dict[str, str]]
YES: Answer = (True, False, {})
NO: Answer = (False, False, {})
CHALLENGE: Answer = (False, True, {})
DISMISSED: Answer = (False, True, {"polkit.dismissed": "true"})
TIMEOUT = CallError("org.freedesktop.DBus.Error.Timeout", "no answer")
ABSENT = CallError("org.freedesktop.DBus.Error.ServiceUnknown", "not there")
MASKED = CallError("org.freedesktop.DBus.Error.NameHasNoOwner", "Could not activate remote peer.")
NOT_TRUSTED = CallError("org.freedesktop.PolicyKit1.Error.NotAuthorized", "only trusted callers")


class Bus:
    """Answers CheckAuthorization with what it was given, the last answer over and over."""

    def __init__(self, *answers: Answer | CallError, uid: int = 1000) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Sequence[Any], float]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.watched: Callable[[str | None], None] = lambda owner: None
        self.owner: str | None = None
        self._uid = uid

    async def uid_of(self, name: str) -> int:
        return int(name.removeprefix(":u")) if name.startswith(":u") else self._uid

    async def owner_of(self, _name: str) -> str | None:
        return self.owner

    async def watch_owner(self, _name: str, changed: Callable[[str | None], None]) -> str | None:
        self.watched = changed
        return None

    async def call(self, _name: str, _path: str, _interface: str, member: str, _signature: str, *args: Any, deadline_s: float) -> Any:
        self.asked.append((member, args, deadline_s))
        await self.hold.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CallError):
            raise answer
        return [answer]


def call(interface: str = MANAGER, member: str = "Resume", sender: str = ":1.5", *, interactive: bool = False) -> Call:
    return Call(sender, PATH, interface, member, (), interactive)


def gate(bus: Bus) -> PolkitGate:
    return PolkitGate(bus)  # type: ignore[arg-type]  # has all of Connection that the gate uses


async def authorize(bus: Bus, *, interactive: bool = False, times: int = 1) -> PolkitGate:
    under_test = gate(bus)
    for _ in range(times):
        await under_test.authorize(call(interactive=interactive))
    return under_test


def test_free_members_cost_no_question() -> None:
    async def run() -> None:
        bus = Bus(NO)
        await gate(bus).authorize(call(member="GetStatistics"))
        assert not bus.asked

    asyncio.run(run())


def test_the_subject_is_the_unique_name_and_the_action_the_member_s() -> None:
    async def run() -> None:
        bus = Bus(YES)
        await gate(bus).authorize(call(POLICY, "SetPolicy"), {"mom.policy.size": "3"})
        (member, (subject, action, details, flags, _), _), *_ = bus.asked
        assert (member, action, details, flags) == ("CheckAuthorization", "org.ovirt.mom1.load-policy", {"mom.policy.size": "3"}, 0)
        assert (subject[0], subject[1]["name"].value) == ("system-bus-name", ":1.5")

    asyncio.run(run())


@pytest.mark.parametrize(("answer", "error"), [(NO, errors.AccessDenied), (CHALLENGE, errors.InteractiveAuthorizationRequired)])
def test_no_and_challenge_have_errors_of_their_own(answer: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(_authorize_with(answer))


async def _authorize_with(*answers: Any, interactive: bool = False, uid: int = 1000, times: int = 1) -> PolkitGate:
    return await authorize(Bus(*answers, uid=uid), interactive=interactive, times=times)


def test_a_dialog_comes_only_where_the_message_allows_it_and_can_authorize() -> None:
    async def run() -> None:
        bus = Bus(CHALLENGE, YES)
        await authorize(bus, interactive=True)
        assert [args[3] for _, args, _ in bus.asked] == [0, 1]

    asyncio.run(run())


def test_a_challenge_that_no_agent_takes_up_is_a_no() -> None:
    with pytest.raises(errors.AccessDenied, match="no agent"):
        asyncio.run(_authorize_with(CHALLENGE, CHALLENGE, interactive=True))


def test_a_dismissed_dialog_is_a_no() -> None:
    with pytest.raises(errors.AccessDenied):
        asyncio.run(_authorize_with(CHALLENGE, DISMISSED, interactive=True))


def test_a_dialog_left_alone_is_taken_away() -> None:
    async def run() -> None:
        bus = Bus(CHALLENGE, TIMEOUT)
        with pytest.raises(errors.AccessDenied):
            await authorize(bus, interactive=True)
        (_, dialog, _), (member, cancelled, _) = bus.asked[1:]
        assert (member, cancelled) == ("CancelCheckAuthorization", (dialog[4],))

    asyncio.run(run())


@pytest.mark.parametrize("error", [TIMEOUT, ABSENT, MASKED])
def test_without_polkit_root_passes_and_others_get_a_clear_no(error: CallError) -> None:
    asyncio.run(_authorize_with(error, uid=0))
    with pytest.raises(errors.AccessDenied, match="polkit does not answer: only root"):
        asyncio.run(_authorize_with(error))


def test_a_caller_that_leaves_in_mid_check_makes_nobody_believe_that_polkit_is_gone() -> None:
    async def run() -> None:
        told: list[str] = []
        bus = Bus(CallError("org.freedesktop.DBus.Error.NameHasNoOwner", "Could not get UID of name ':1.5'"))
        bus.owner = ":1.99"
        under_test = PolkitGate(bus, told.append)  # type: ignore[arg-type]  # has all of Connection that the gate uses
        with pytest.raises(errors.AccessDenied):
            await under_test.authorize(call())
        assert (under_test.available, any(told)) == (True, False)

    asyncio.run(run())


def test_root_does_not_wait_long_for_a_polkit_that_is_known_to_hang() -> None:
    async def run() -> None:
        bus = Bus(TIMEOUT, uid=0)
        await authorize(bus, times=2)
        first, second = [deadline for _, _, deadline in bus.asked]
        assert second < first

    asyncio.run(run())


def test_available_says_how_polkit_is_and_its_return_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        bus = Bus(ABSENT, uid=0)
        reasons: list[str] = []
        under_test = PolkitGate(bus, reasons.append)  # type: ignore[arg-type]  # has all of Connection that the gate uses
        assert under_test.available
        await under_test.authorize(call())
        assert not under_test.available
        bus.watched(":1.99")
        assert under_test.available
        assert [bool(reason) for reason in reasons] == [True, False]

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == [f"polkit does not answer: {ABSENT}"]


def test_a_polkit_that_dislikes_the_question_is_available_and_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        under_test = gate(Bus(NOT_TRUSTED))
        with pytest.raises(errors.AccessDenied, match="polkit refuses to check"):
            await under_test.authorize(call())
        assert under_test.available

    asyncio.run(run())
    # What is to be mended, such as actions without an owner, isn't for the caller.
    assert [record.getMessage() for record in caplog.records] == [f"polkit refuses to check: {NOT_TRUSTED}"]


def test_a_user_has_few_checks_in_flight_and_gets_them_back() -> None:
    async def run() -> None:
        bus = Bus(YES)
        bus.hold.clear()
        under_test = gate(bus)
        waiting = [asyncio.ensure_future(under_test.authorize(call(sender=":u7"))) for _ in range(MAX_PER_UID)]
        await asyncio.sleep(0)
        with pytest.raises(errors.LimitsExceeded):
            await under_test.authorize(call(sender=":u7"))
        other = asyncio.ensure_future(under_test.authorize(call(sender=":u8")))
        bus.hold.set()
        await asyncio.gather(*waiting, other)
        await under_test.authorize(call(sender=":u7"))

    asyncio.run(run())


def test_all_users_together_have_a_bound_that_root_is_above() -> None:
    async def run() -> None:
        bus = Bus(YES)
        bus.hold.clear()
        under_test = gate(bus)
        waiting = [asyncio.ensure_future(under_test.authorize(call(sender=f":u{uid}"))) for uid in range(1, MAX_IN_ALL + 1)]
        await asyncio.sleep(0)
        with pytest.raises(errors.LimitsExceeded):
            await under_test.authorize(call(sender=":u1000"))
        root = asyncio.ensure_future(under_test.authorize(call(sender=":u0")))
        bus.hold.set()
        await asyncio.gather(*waiting, root)

    asyncio.run(run())
