# SPDX-License-Identifier: GPL-2.0-or-later
"""The typed client: what momctl imports, and any program that wants to talk to the service.

`Client` is for asyncio, `BlockingClient` has the same methods for everybody else, `VdsmMomClient` is what oVirt's VDSM calls. Every method
of the first two raises one of the classes of momservice.errors, CallError for other error replies (a missed deadline too), or
ServiceUnavailable. Service and bus may go away and come back: a call meanwhile raises ServiceUnavailable, the next one after that succeeds.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from momservice.bus.answers import to_diagnostic, to_explanation, to_wanted
from momservice.bus.checks import checked_runs, checked_seconds
from momservice.bus.connection import Connection, Variant
from momservice.bus.names import GUEST, MANAGER, OBJECT_MANAGER, POLICY
from momservice.bus.variants import Scalar, carried, plain, sendable, to_data
from momservice.decisions import Diagnostic
from momservice.errors import InvalidArgs
from momservice.explained import Explanation
from momservice.link import CLOSED, Link, ServiceUnavailable
from momservice.loop_thread import LoopEnded, LoopThread
from momservice.replies import PROPERTIES, Evaluation, Finding, GuestState, Parameter, ServiceStatus, Statistics
from momservice.snapshot import Sample
from momservice.vdsm import VdsmMomClient

__all__ = [
    "BlockingClient",
    "Client",
    "Evaluation",
    "Finding",
    "GuestState",
    "Parameter",
    "Scalar",
    "ServiceStatus",
    "ServiceUnavailable",
    "Statistics",
    "VdsmMomClient",
]

DEADLINE_S = 30.0
# A call that lets polkit ask a person for a password.
DIALOG_DEADLINE_S = 150.0

T = TypeVar("T")


class Client:
    """The service, for asyncio.

    `interactive`: polkit may ask the person at this session for a password.
    """

    def __init__(self, link: Link, *, interactive: bool = False, deadline_s: float = DEADLINE_S) -> None:
        self._link = link
        self.interactive = interactive
        self._deadline_s = DIALOG_DEADLINE_S if interactive else deadline_s

    @classmethod
    async def connect(cls, address: str | None = None, *, interactive: bool = False, deadline_s: float = DEADLINE_S) -> Client:
        """Connect to the system bus (or the one at `address`); the service itself is looked for with the first call."""
        link = Link(partial(Connection.open, address))
        await link.open(deadline_s)
        return cls(link, interactive=interactive, deadline_s=deadline_s)

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    async def _call(self, interface: str, member: str, signature: str = "", *args: Any) -> Sequence[Any]:
        return await self._link.call(interface, member, signature, *args, deadline_s=self._deadline_s, interactive=self.interactive)

    async def _one(self, interface: str, member: str, signature: str = "", *args: Any) -> Any:
        return (await self._call(interface, member, signature, *args))[0]

    # Manager

    async def status(self) -> ServiceStatus:
        """All properties."""
        values = plain(await self._one("org.freedesktop.DBus.Properties", "GetAll", "s", MANAGER))
        return ServiceStatus(*(values[name] for name in PROPERTIES))  # type: ignore[arg-type]  # typed by the XML; a test compares both

    async def ping(self) -> bool:
        """Whether the service answers."""
        return bool(await self._one(MANAGER, "Ping"))

    async def statistics(self) -> Statistics:
        """The newest values of all fields."""
        host, guests = await self._call(MANAGER, "GetStatistics")
        return Statistics(plain(host), {uuid: plain(sample) for uuid, sample in guests.items()})

    async def host_statistics(self) -> Sample:
        """The newest values of the host's fields."""
        return plain(await self._one(MANAGER, "GetHostStatistics"))

    async def guest_statistics(self, uuid: str) -> Sample:
        """The newest values of one guest's fields."""
        return plain(await self._one(MANAGER, "GetGuestStatistics", "s", carried(uuid)))

    async def active_guests(self) -> list[tuple[str, str]]:
        """UUID and name of every guest."""
        return [(uuid, name) for uuid, name in await self._one(MANAGER, "GetActiveGuests")]

    async def guest_states(self) -> dict[str, GuestState]:
        """The state of every guest, by UUID."""
        objects = await self._one(OBJECT_MANAGER, "GetManagedObjects")
        # Later versions may have objects of other kinds.
        guests: list[dict[str, Any]] = [plain(interfaces[GUEST]) for interfaces in objects.values() if GUEST in interfaces]
        return {guest["Uuid"]: GuestState(guest["State"], guest["StateReasons"], guest["Capabilities"]) for guest in guests}

    async def explain(self, entity: str, last: int = 1) -> list[Explanation]:
        """What the last runs (1 to 10) did for a guest, by UUID, or for "host", newest first."""
        answer = await self._one(MANAGER, "Explain", "su", carried(entity), checked_runs(last))
        return [to_explanation(row) for row in answer]

    async def pause(self, reason: str = "", seconds: int = 0) -> None:
        """Stop deciding for that long (0: until `resume`)."""
        await self._call(MANAGER, "Pause", "su", carried(reason), checked_seconds(seconds))

    async def resume(self) -> None:
        """End a pause."""
        await self._call(MANAGER, "Resume")

    async def reload(self) -> None:
        """Have configuration and policy files read again."""
        await self._call(MANAGER, "Reload")

    async def set_verbosity(self, level: str) -> None:
        """Have the service log from this level on, by name or number as in the configuration, until it is set again."""
        await self._call(MANAGER, "SetVerbosity", "s", carried(level))

    # Policy: whatever changes something gives the new generation

    async def policy(self) -> str:
        """The text of the policy named 50_main_, or ""."""
        return str(await self._one(POLICY, "GetPolicy"))

    async def policies(self) -> dict[str, str]:
        """All policies in force: name -> text."""
        return dict(await self._one(POLICY, "GetNamedPolicies"))

    async def set_policy(self, text: str) -> int:
        """Set the policy named 50_main_."""
        return int(await self._one(POLICY, "SetPolicy", "s", carried(text)))

    async def set_named_policy(self, name: str, text: str) -> int:
        """Set one policy."""
        return int(await self._one(POLICY, "SetNamedPolicy", "ss", carried(name), carried(text)))

    async def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """Set several at once; with `replace` all others go."""
        return int(await self._one(POLICY, "SetPolicies", "a{ss}b", _all_carried(texts), replace))

    async def remove_policy(self, name: str) -> int:
        """Remove one, or hide it if it is a file's."""
        return int(await self._one(POLICY, "RemoveNamedPolicy", "s", carried(name)))

    async def reset_policies(self) -> int:
        """Back to the files."""
        return int(await self._one(POLICY, "ResetPolicies"))

    async def validate(self, texts: Mapping[str, str]) -> list[Diagnostic]:
        """Check policies as one whole set without loading them."""
        return [to_diagnostic(found) for found in await self._one(POLICY, "ValidatePolicy", "a{ss}", _all_carried(texts))]

    async def evaluate(self, texts: Mapping[str, str], host: Sample, guests: Sequence[Sample] = ()) -> Evaluation:
        """What policies (without any: those in force) decide in a given world. The interface's XML says what it is made of."""
        world = _data(host), [_data(guest) for guest in guests]
        return _evaluation(*await self._call(POLICY, "Evaluate", "a{ss}a{sv}aa{sv}", _all_carried(texts), *world))

    async def evaluate_now(self, texts: Mapping[str, str]) -> Evaluation:
        """What policies, in place of all that are loaded (without any: those in force), decide on the live figures."""
        return _evaluation(*await self._call(POLICY, "EvaluateNow", "a{ss}", _all_carried(texts)))

    async def parameters(self) -> dict[str, Parameter]:
        """All parameters."""
        return {name: _parameter(fields) for name, fields in (await self._one(POLICY, "GetParameters")).items()}

    async def set_parameters(self, values: Mapping[str, Scalar]) -> int:
        """Set these and leave the others."""
        return int(await self._one(POLICY, "SetParameters", "a{sv}", sendable(values)))

    async def replace_parameters(self, values: Mapping[str, Scalar]) -> int:
        """Set these; all others go back to the policies' defaults."""
        return int(await self._one(POLICY, "ReplaceParameters", "a{sv}", sendable(values)))


def _all_carried(texts: Mapping[str, str]) -> dict[str, str]:
    return {carried(name): carried(text) for name, text in texts.items()}


def _data(values: Sample) -> dict[str, Variant]:
    try:
        return {carried(name): to_data(value) for name, value in values.items() if value is not None}
    except (TypeError, OverflowError) as error:
        raise InvalidArgs(str(error)) from None


def _evaluation(decisions: Sequence[Mapping[str, Variant]], diagnostics: Sequence[Mapping[str, Variant]]) -> Evaluation:
    findings = [Finding(to_diagnostic(found), str(plain(found).get("entity", ""))) for found in diagnostics]
    return Evaluation([to_wanted(decision) for decision in decisions], findings)


def _parameter(found: Mapping[str, Variant]) -> Parameter:
    field = {name: variant.value for name, variant in found.items()}
    return Parameter(field.get("value"), field["origin"], field["time"], field.get("uid"))


class BlockingClient:
    """The service, for programs without an event loop. Methods are those of `Client`; any thread may call them."""

    def __init__(
        self, address: str | None = None, *, interactive: bool = False, deadline_s: float = DEADLINE_S, kind: type[Client] = Client
    ) -> None:
        """`kind`: what makes the calls."""
        self._thread = LoopThread("mom-client")
        try:
            self._client = self._wait(kind.connect(address, interactive=interactive, deadline_s=deadline_s))
        except BaseException:
            self._thread.close()
            raise

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.run(work)
        except LoopEnded:
            raise ServiceUnavailable(CLOSED) from None

    def close(self) -> None:
        """End the connection."""
        with suppress(ServiceUnavailable):
            self._wait(self._client.close())
        self._thread.close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def interactive(self) -> bool:
        """See Client, like all below."""
        return self._client.interactive

    def status(self) -> ServiceStatus:
        """See Client."""
        return self._wait(self._client.status())

    def ping(self) -> bool:
        """See Client."""
        return self._wait(self._client.ping())

    def statistics(self) -> Statistics:
        """See Client."""
        return self._wait(self._client.statistics())

    def host_statistics(self) -> Sample:
        """See Client."""
        return self._wait(self._client.host_statistics())

    def guest_statistics(self, uuid: str) -> Sample:
        """See Client."""
        return self._wait(self._client.guest_statistics(uuid))

    def active_guests(self) -> list[tuple[str, str]]:
        """See Client."""
        return self._wait(self._client.active_guests())

    def guest_states(self) -> dict[str, GuestState]:
        """See Client."""
        return self._wait(self._client.guest_states())

    def explain(self, entity: str, last: int = 1) -> list[Explanation]:
        """See Client."""
        return self._wait(self._client.explain(entity, last))

    def pause(self, reason: str = "", seconds: int = 0) -> None:
        """See Client."""
        self._wait(self._client.pause(reason, seconds))

    def resume(self) -> None:
        """See Client."""
        self._wait(self._client.resume())

    def reload(self) -> None:
        """See Client."""
        self._wait(self._client.reload())

    def set_verbosity(self, level: str) -> None:
        """See Client."""
        self._wait(self._client.set_verbosity(level))

    def policy(self) -> str:
        """See Client."""
        return self._wait(self._client.policy())

    def policies(self) -> dict[str, str]:
        """See Client."""
        return self._wait(self._client.policies())

    def set_policy(self, text: str) -> int:
        """See Client."""
        return self._wait(self._client.set_policy(text))

    def set_named_policy(self, name: str, text: str) -> int:
        """See Client."""
        return self._wait(self._client.set_named_policy(name, text))

    def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """See Client."""
        return self._wait(self._client.set_policies(texts, replace=replace))

    def remove_policy(self, name: str) -> int:
        """See Client."""
        return self._wait(self._client.remove_policy(name))

    def reset_policies(self) -> int:
        """See Client."""
        return self._wait(self._client.reset_policies())

    def validate(self, texts: Mapping[str, str]) -> list[Diagnostic]:
        """See Client."""
        return self._wait(self._client.validate(texts))

    def evaluate(self, texts: Mapping[str, str], host: Sample, guests: Sequence[Sample] = ()) -> Evaluation:
        """See Client."""
        return self._wait(self._client.evaluate(texts, host, guests))

    def evaluate_now(self, texts: Mapping[str, str]) -> Evaluation:
        """See Client."""
        return self._wait(self._client.evaluate_now(texts))

    def parameters(self) -> dict[str, Parameter]:
        """See Client."""
        return self._wait(self._client.parameters())

    def set_parameters(self, values: Mapping[str, Scalar]) -> int:
        """See Client."""
        return self._wait(self._client.set_parameters(values))

    def replace_parameters(self, values: Mapping[str, Scalar]) -> int:
        """See Client."""
        return self._wait(self._client.replace_parameters(values))
