# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate: who may call which member. polkit decides, by the caller's unique name, before a guarded method runs."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Final

from momservice.bus.bounds import Seldom
from momservice.bus.connection import Call, CallError, Connection, Variant
from momservice.bus.names import MANAGER, OBJECT_MANAGER, POLICY
from momservice.bus.refusals import told, untold
from momservice.errors import AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded
from momservice.text import shown

log = logging.getLogger(__name__)
# Callers can cause what it says.
log.addFilter(Seldom())

POLKIT = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority")
# What polkit's own errors begin with: it answered, and it is the question that it didn't like.
POLKIT_ERROR = "org.freedesktop.PolicyKit1.Error."
# It answered as well, if it is there: whom it was asked about has left the bus. dbus-broker has the same for what can't be started.
CALLER_GONE = "org.freedesktop.DBus.Error.NameHasNoOwner"
ALLOW_USER_INTERACTION = 1
CHECK_DEADLINE_S = 5.0
# uid 0 passes with or without polkit, so it needn't wait long for one that is known to hang.
ROOT_DEADLINE_S = 1.0
# Time to type a password.
DIALOG_DEADLINE_S = 120.0
MAX_PER_UID = 4
MAX_IN_ALL = 64

FREE: Final = ""
READ: Final = "org.ovirt.mom1.read"
LOAD_POLICY: Final = "org.ovirt.mom1.load-policy"
SET_PARAMETERS: Final = "org.ovirt.mom1.set-parameters"
EXPLAIN: Final = "org.ovirt.mom1.explain"
CONTROL: Final = "org.ovirt.mom1.control"

_MEMBERS: Final[Mapping[str, Mapping[str, str]]] = {
    FREE: {
        MANAGER: "Ping GetStatistics GetHostStatistics GetGuestStatistics GetActiveGuests",
        OBJECT_MANAGER: "GetManagedObjects",
    },
    READ: {POLICY: "GetPolicy GetNamedPolicies GetParameters"},
    LOAD_POLICY: {POLICY: "SetPolicy SetNamedPolicy SetPolicies RemoveNamedPolicy ResetPolicies ValidatePolicy Evaluate EvaluateNow"},
    SET_PARAMETERS: {POLICY: "SetParameters ReplaceParameters"},
    EXPLAIN: {MANAGER: "Explain"},
    CONTROL: {MANAGER: "Pause Resume Reload SetVerbosity"},
}
# (interface, member) -> action. A member without a row is refused.
ACTIONS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {(i, member): action for action, rows in _MEMBERS.items() for i, members in rows.items() for member in members.split()}
)

NO_DETAILS: Mapping[str, str] = MappingProxyType({})


class PolkitGate:
    """Lets calls pass or raises AccessDenied, InteractiveAuthorizationRequired or LimitsExceeded.

    `available`: whether polkit answered when it was last asked; `tell` gets a line saying why not, "" when it does. Without polkit uid 0
    passes and everybody else is refused.
    """

    def __init__(self, connection: Connection, tell: Callable[[str], None] = lambda reason: None) -> None:
        self.available = True
        self._tell = tell
        self._connection = connection
        # Whether polkit's name is watched, so that its return is seen; it is from when polkit was first missed.
        self._watching = False
        self._in_flight: Counter[int] = Counter()
        self._cancellations = itertools.count(1)

    async def authorize(self, call: Call, details: Mapping[str, str] = NO_DETAILS) -> None:
        """Pass or raise. `details` are shown to rules and in the dialog."""
        action = ACTIONS.get((call.interface, call.member))
        if action == FREE:
            return
        uid = await self._connection.uid_of(call.sender)
        if action is None:
            raise AccessDenied(f"{call.member} is open to nobody")
        async with self._slot(uid):
            await self._decide(action, call, uid, details)

    @asynccontextmanager
    async def _slot(self, uid: int) -> AsyncIterator[None]:
        """One of the few checks that may be under way at a time. uid 0 never waits for a person, so it needs no bound."""
        if uid and (self._in_flight[uid] >= MAX_PER_UID or self._in_flight.total() >= MAX_IN_ALL):
            raise LimitsExceeded("too many authorization checks under way: try again later")
        self._in_flight[uid] += 1
        try:
            yield
        finally:
            self._in_flight[uid] -= 1
            if not self._in_flight[uid]:
                del self._in_flight[uid]

    async def _decide(self, action: str, call: Call, uid: int, details: Mapping[str, str]) -> None:
        try:
            deadline_s = CHECK_DEADLINE_S if uid or self.available else ROOT_DEADLINE_S
            authorized, challenge = await self._check(action, call, details, deadline_s)
            self._answered("")
        except CallError as error:
            await self._missed(error)
            self._without_polkit(action, call, uid, error)
            return
        if challenge and call.interactive:
            authorized, challenge = await self._dialog(action, call, details)
        if authorized:
            return
        if challenge:
            if call.interactive:
                raise AccessDenied(f"{call.member} needs authentication for {action}, and no agent of the caller could ask for it")
            raise InteractiveAuthorizationRequired(f"{call.member} needs authentication for {action}, and the call doesn't allow to ask")
        raise AccessDenied(f"polkit does not grant {action} to the caller of {call.member}")

    async def _missed(self, error: CallError) -> None:
        if error.name.startswith(POLKIT_ERROR):
            # No reason of the status, for others may well be authorized: the log alone says what is wrong, such as actions without owner.
            log.warning("polkit refuses to check: %s", shown(str(error)))
        if error.name.startswith(POLKIT_ERROR) or (error.name == CALLER_GONE and await self._connection.owner_of(POLKIT[0])):
            return self._answered("")
        if self.available and (text := untold(error)):
            log.warning("polkit does not answer: %s", shown(text))
        self._answered(f"polkit does not answer, only root can change anything: {told(error)}")
        if not self._watching:
            self._watching = True
            await self._connection.watch_owner(POLKIT[0], lambda owner: self._answered("") if owner else None)

    def _answered(self, reason: str) -> None:
        self.available = not reason
        self._tell(reason)

    def _without_polkit(self, action: str, call: Call, uid: int, error: CallError) -> None:
        reason = "polkit refuses to check" if self.available else "polkit does not answer"
        if uid == 0:
            log.debug("%s by uid 0 passes: %s: %s", call.member, reason, shown(str(error)))
            return
        raise AccessDenied(f"{call.member} needs {action}, but {reason}: only root can do that now")

    async def _dialog(self, action: str, call: Call, details: Mapping[str, str]) -> tuple[bool, bool]:
        """The check once more, now with a dialog; a dialog that is left alone is taken away."""
        cancellation = f"mom{next(self._cancellations)}"
        try:
            return await self._check(action, call, details, DIALOG_DEADLINE_S, ALLOW_USER_INTERACTION, cancellation)
        except CallError as error:
            log.info("no answer to the dialog about %s for %s: %s", call.member, call.sender, shown(str(error)))
        with suppress(CallError):
            await self._connection.call(*POLKIT, "CancelCheckAuthorization", "s", cancellation, deadline_s=ROOT_DEADLINE_S)
        return False, False

    async def _check(
        self, action: str, call: Call, details: Mapping[str, str], deadline_s: float, flags: int = 0, cancellation: str = ""
    ) -> tuple[bool, bool]:
        """Ask polkit once: (authorized, or would be after authentication)."""
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        body = [subject, action, dict(details), flags, cancellation]
        reply = await self._connection.call(*POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", *body, deadline_s=deadline_s)
        authorized, challenge, answers = reply[0]
        return bool(authorized), bool(challenge) and "polkit.dismissed" not in answers
