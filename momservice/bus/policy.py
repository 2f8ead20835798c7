# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus interface org.ovirt.Mom1.Policy over the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from momservice.bus.arguments import checked_parameters, checked_policies, policy_details
from momservice.bus.backend import Parameter, PolicyStore
from momservice.bus.checks import checked_name
from momservice.bus.connection import Call, Marshalled, clean
from momservice.bus.given import given_world
from momservice.bus.marshal import array, entries, entry, keyed
from momservice.bus.names import MAIN_POLICY
from momservice.bus.polkit import NO_DETAILS, PolkitGate
from momservice.bus.reports import decisions, diagnostic, findings
from momservice.bus.shared import dictionaries_in_slices, in_slices


class Policy:
    """One coroutine per method: types in, types out, one delegation.

    `uid_of` gives the user id behind a unique name.
    """

    def __init__(self, store: PolicyStore, gate: PolkitGate, uid_of: Callable[[str], Awaitable[int]]) -> None:
        self._store, self._gate, self._uid_of = store, gate, uid_of

    async def guard(self, call: Call) -> None:
        """Check the arguments, then polkit's word on the call, which is told what would be loaded."""
        await self._gate.authorize(call, self._details(call))

    @staticmethod
    def _details(call: Call) -> Mapping[str, str]:
        match call.member:
            case "SetParameters" | "ReplaceParameters":
                checked_parameters(call.args[0])
                return NO_DETAILS
            case "RemoveNamedPolicy":
                return {"mom.request": f"{call.member} {checked_name(call.args[0])}"}
            case "ResetPolicies":
                return {"mom.request": call.member}
            case "SetPolicies":
                return policy_details("SetPolicies, in place of all others:" if call.args[1] else call.member, _texts(call))
            case "SetPolicy" | "SetNamedPolicy" | "ValidatePolicy" | "Evaluate" | "EvaluateNow":
                return policy_details(call.member, _texts(call))
            case _:
                return NO_DETAILS

    async def get_policy(self, _call: Call) -> Sequence[Any]:
        """`GetPolicy() -> s`."""
        return [clean(self._store.texts().get(MAIN_POLICY, ""))]

    async def get_named_policies(self, _call: Call) -> Sequence[Any]:
        """`GetNamedPolicies() -> a{ss}`."""
        return [{clean(name): clean(text) for name, text in self._store.texts().items()}]

    async def set_some(self, call: Call) -> Sequence[Any]:
        """`SetPolicy(s) -> t`, `SetNamedPolicy(s, s) -> t`."""
        return [await self._store.set_policies(_texts(call))]

    async def set_policies(self, call: Call) -> Sequence[Any]:
        """`SetPolicies(a{ss}, b) -> t`."""
        return [await self._store.set_policies(_texts(call), replace=call.args[1])]

    async def remove_named_policy(self, call: Call) -> Sequence[Any]:
        """`RemoveNamedPolicy(s) -> t`."""
        return [await self._store.remove(call.args[0])]

    async def reset_policies(self, _call: Call) -> Sequence[Any]:
        """`ResetPolicies() -> t`."""
        return [await self._store.reset()]

    async def validate_policy(self, call: Call) -> Marshalled:
        """`ValidatePolicy(a{ss}) -> aa{sv}`."""
        return Marshalled(await dictionaries_in_slices(map(diagnostic, await self._store.validate(_texts(call)))))

    async def evaluate(self, call: Call) -> Marshalled:
        """`Evaluate(a{ss}, a{sv}, aa{sv}) -> aa{sv}, aa{sv}`, `EvaluateNow(a{ss}) -> aa{sv}, aa{sv}`."""
        given = partial(given_world, *call.args[1:]) if call.member == "Evaluate" else None
        run = await self._store.dry_run(_texts(call), given)
        decided = await dictionaries_in_slices(() if run.decisions is None else decisions(run.decisions))
        return Marshalled(decided + await dictionaries_in_slices(findings(run), len(decided)))

    async def set_parameters(self, call: Call) -> Sequence[Any]:
        """`SetParameters(a{sv}) -> t`, `ReplaceParameters(a{sv}) -> t`."""
        values, uid = checked_parameters(call.args[0]), await self._uid_of(call.sender)
        return [await self._store.set_parameters(values, uid, replace=call.member == "ReplaceParameters")]

    async def get_parameters(self, _call: Call) -> Marshalled:
        """`GetParameters() -> a{sa{sv}}`. A policy may have thousands."""
        parameters = self._store.each_parameter()
        return Marshalled(array(await in_slices(keyed(name, _parameter(parameter)) for name, parameter in parameters)))


def _texts(call: Call) -> dict[str, str]:
    """The policies in the arguments of a call, checked."""
    match call.args:
        case [str(text)]:
            return checked_policies({MAIN_POLICY: text})
        case [str(name), str(text)]:
            return checked_policies({name: text})
        case [texts, *_]:
            return checked_policies(texts)
        case _:
            raise TypeError(f"{call.member} carries no policies")


def _parameter(parameter: Parameter) -> list[bytes]:
    """`value` (left out for nil), `origin`, `time` (us since the epoch), `uid` (only of a client's)."""
    fields = [*entries({"value": parameter.value, "origin": parameter.origin}), entry("time", "t", parameter.time_us)]
    return fields if parameter.uid is None else [*fields, entry("uid", "u", parameter.uid)]
