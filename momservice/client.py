# SPDX-License-Identifier: GPL-2.0-or-later
"""The typed client: what momctl imports, and any program that wants to talk to the service.

`Client` is for asyncio, `BlockingClient` has the same methods for everybody else. Every method raises one of the classes of
momservice.errors, CallError for other error replies (a missed deadline too), or ServiceUnavailable.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from momservice.bus.connection import ERROR, BusLost, CallError, Connection, Variant, clean
from momservice.bus.names import MANAGER, NAME, PATH, POLICY
from momservice.bus.variants import plain, to_variants
from momservice.errors import InvalidArgs, typed
from momservice.policy.decisions import Diagnostic, Place
from momservice.snapshot import Sample, Value

DEADLINE_S = 30.0
# A call that lets polkit ask a person for a password.
DIALOG_DEADLINE_S = 150.0
# What the bus answers for a service that isn't there and can't be started.
MISSING = tuple(ERROR + name for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "Spawn."))
HOW_TO_START = "start it with: systemctl start momservice"

T = TypeVar("T")
Scalar: TypeAlias = bool | int | float | str


class ServiceUnavailable(Exception):
    """There is no service to talk to. The text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The properties of org.ovirt.Mom1.Manager. `_us`: microseconds (`last_evaluation_us` since the epoch, 0 for none yet)."""

    version: str
    api_version: int
    status: str
    status_reasons: Sequence[str]
    generation: int
    interval_ms: int
    guest_count: int
    hypervisor_connected: bool
    helper_available: bool
    polkit_available: bool
    last_evaluation_us: int
    evaluation_duration_us: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """The newest values of the host's fields and of each guest's by UUID, in the units of the field tables; nil fields are left out."""

    host: Sample
    guests: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's value in force (None: nil), who gave it, when (us since the epoch), and the uid of the client that did."""

    value: Value
    origin: str
    time_us: int
    uid: int | None


class Client:
    """The service, for asyncio.

    `interactive`: polkit may ask the person at this session for a password.
    """

    def __init__(self, connection: Connection, *, interactive: bool = False, deadline_s: float = DEADLINE_S) -> None:
        self._connection = connection
        self._interactive = interactive
        self._deadline_s = DIALOG_DEADLINE_S if interactive else deadline_s

    @classmethod
    async def connect(cls, address: str | None = None, *, interactive: bool = False, deadline_s: float = DEADLINE_S) -> Client:
        """Connect to the system bus (or the one at `address`); the service itself is looked for with the first call."""
        try:
            return cls(await Connection.open(address), interactive=interactive, deadline_s=deadline_s)
        except BusLost as error:
            raise ServiceUnavailable(str(error)) from error

    async def close(self) -> None:
        """End the connection."""
        self._connection.close()
        await self._connection.lost()

    async def _call(self, interface: str, member: str, signature: str = "", *args: Any) -> Sequence[Any]:
        try:
            return await self._connection.call(
                NAME, PATH, interface, member, signature, *args, deadline_s=self._deadline_s, interactive=self._interactive
            )
        except BusLost as error:
            raise ServiceUnavailable(str(error)) from error
        except CallError as error:
            if error.name.startswith(MISSING):
                raise ServiceUnavailable(f"the service {NAME} does not run; {HOW_TO_START}") from error
            raise typed(error) from None

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
        return plain(await self._one(MANAGER, "GetGuestStatistics", "s", _carried(uuid)))

    async def active_guests(self) -> list[tuple[str, str]]:
        """UUID and name of every guest."""
        return [(uuid, name) for uuid, name in await self._one(MANAGER, "GetActiveGuests")]

    async def pause(self, reason: str = "", seconds: int = 0) -> None:
        """Stop deciding for that long (0: until `resume`)."""
        await self._call(MANAGER, "Pause", "su", _carried(reason), seconds)

    async def resume(self) -> None:
        """End a pause."""
        await self._call(MANAGER, "Resume")

    async def reload(self) -> None:
        """Have configuration and policy files read again."""
        await self._call(MANAGER, "Reload")

    async def set_verbosity(self, level: str) -> None:
        """Log so much: debug, info, warn, error or critical."""
        await self._call(MANAGER, "SetVerbosity", "s", _carried(level))

    # Policy: whatever changes something gives the new generation

    async def policy(self) -> str:
        """The text of the policy named 50_main_, or ""."""
        return str(await self._one(POLICY, "GetPolicy"))

    async def policies(self) -> dict[str, str]:
        """All policies in force: name -> text."""
        return dict(await self._one(POLICY, "GetNamedPolicies"))

    async def set_policy(self, text: str) -> int:
        """Set the policy named 50_main_."""
        return int(await self._one(POLICY, "SetPolicy", "s", _carried(text)))

    async def set_named_policy(self, name: str, text: str) -> int:
        """Set one policy."""
        return int(await self._one(POLICY, "SetNamedPolicy", "ss", _carried(name), _carried(text)))

    async def set_policies(self, texts: Mapping[str, str], *, replace: bool = False) -> int:
        """Set several at once; with `replace` all others go."""
        return int(await self._one(POLICY, "SetPolicies", "a{ss}b", _all_carried(texts), replace))

    async def remove_policy(self, name: str) -> int:
        """Remove one, or hide it if it is a file's."""
        return int(await self._one(POLICY, "RemoveNamedPolicy", "s", _carried(name)))

    async def reset_policies(self) -> int:
        """Back to the files."""
        return int(await self._one(POLICY, "ResetPolicies"))

    async def validate(self, texts: Mapping[str, str]) -> list[Diagnostic]:
        """Check policies as one whole set without loading them."""
        return [_diagnostic(found) for found in await self._one(POLICY, "ValidatePolicy", "a{ss}", _all_carried(texts))]

    async def parameters(self) -> dict[str, Parameter]:
        """All parameters."""
        return {name: _parameter(fields) for name, fields in (await self._one(POLICY, "GetParameters")).items()}

    async def set_parameters(self, values: Mapping[str, Scalar]) -> int:
        """Set these and leave the others."""
        return int(await self._one(POLICY, "SetParameters", "a{sv}", _variants(values)))

    async def replace_parameters(self, values: Mapping[str, Scalar]) -> int:
        """Set these; all others go back to the policies' defaults."""
        return int(await self._one(POLICY, "ReplaceParameters", "a{sv}", _variants(values)))


# The D-Bus names of the fields of ServiceStatus, in their order.
PROPERTIES = (
    "Version",
    "ApiVersion",
    "Status",
    "StatusReasons",
    "Generation",
    "Interval",
    "GuestCount",
    "HypervisorConnected",
    "HelperAvailable",
    "PolkitAvailable",
    "LastEvaluation",
    "EvaluationDuration",
    "LastError",
)


def _carried(text: str) -> str:
    """The text, if D-Bus can carry it; the bus would end our connection for any other. Raises InvalidArgs."""
    if clean(text) != text:
        raise InvalidArgs("a text with NUL or half a surrogate pair can't be sent")
    return text


def _all_carried(texts: Mapping[str, str]) -> dict[str, str]:
    return {_carried(name): _carried(text) for name, text in texts.items()}


def _variants(values: Mapping[str, Scalar]) -> dict[str, Variant]:
    return to_variants({_carried(name): _carried(value) if isinstance(value, str) else value for name, value in values.items()})


def _diagnostic(found: Mapping[str, Variant]) -> Diagnostic:
    field = {name: variant.value for name, variant in found.items()}
    place = Place(field["fragment"], field["line"], field["column"])
    return Diagnostic(field["severity"], field["code"], place, field["message"], field["hint"])


def _parameter(found: Mapping[str, Variant]) -> Parameter:
    field = {name: variant.value for name, variant in found.items()}
    return Parameter(field.get("value"), field["origin"], field["time"], field.get("uid"))


class BlockingClient:
    """The service, for programs without an event loop. Methods are those of `Client`; any thread may call them."""

    def __init__(
        self, address: str | None = None, *, interactive: bool = False, deadline_s: float = DEADLINE_S, kind: type[Client] = Client
    ) -> None:
        """`kind`: what makes the calls."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mom-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(kind.connect(address, interactive=interactive, deadline_s=deadline_s))
        except BaseException:
            self._end_loop()
            raise

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        """End the connection."""
        self._wait(self._client.close())
        self._end_loop()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def status(self) -> ServiceStatus:
        """See Client, like all below."""
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

    def parameters(self) -> dict[str, Parameter]:
        """See Client."""
        return self._wait(self._client.parameters())

    def set_parameters(self, values: Mapping[str, Scalar]) -> int:
        """See Client."""
        return self._wait(self._client.set_parameters(values))

    def replace_parameters(self, values: Mapping[str, Scalar]) -> int:
        """See Client."""
        return self._wait(self._client.replace_parameters(values))
