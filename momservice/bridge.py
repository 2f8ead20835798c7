# SPDX-License-Identifier: GPL-2.0-or-later
"""mom-rpc-bridge: the methods of the old MOM's XML-RPC, for a VDSM that knows nothing of D-Bus.

A mere client of the service: it runs as user vdsm and may what polkit lets that user. What the service refuses is a fault with the reason.
While the service is away calls get no answer at all, since that is how VDSM knows a MOM that isn't there; any fault would break it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any
from xmlrpc.client import Fault

from momservice import __version__
from momservice.bus.bounds import Seldom
from momservice.bus.connection import ERROR, CallError
from momservice.client import Client
from momservice.collectors.host_ksm import HostKSM
from momservice.errors import UnknownPolicy
from momservice.link import Link, ServiceUnavailable
from momservice.options import parsed
from momservice.snapshot import Sample
from momservice.stopping import stop_asked
from momservice.unix_http import Server
from momservice.xml_rpc import INVALID_ARGUMENTS, REFUSED, UNKNOWN_METHOD, read_call, write_answer

log = logging.getLogger("mom-rpc-bridge")
log.addFilter(Seldom())

# VDSM itself gives up after 2 s; others may wait for a load that takes its time.
DEADLINE_S = 10.0
IDLE_S = 60.0
# The first descriptor that systemd hands over (sd_listen_fds(3)).
FIRST_SOCKET = 3
BACKLOG = 32
# VDSM reads these without asking whether they are there: where the host doesn't tell they are nil.
KSM = tuple(field.name for field in HostKSM.FIELDS)
DESCRIPTION = (
    "Serves VDSM with the RPC of old: a VDSM that knows nothing of D-Bus calls MOM by XML-RPC on a Unix socket. What it calls is "
    "handed over to momservice as the user that this program runs as, vdsm, so that polkit's rules for that user decide. Started by "
    "systemd with the first connection to mom-rpc-bridge.socket; ends when nobody has been connected for a minute. Only root and its "
    "own user may connect. Methods: ping, setPolicy(text), setNamedPolicy(name, text, or nil to remove it), getPolicy, "
    "getNamedPolicies, resetPolicies, setVerbosity(level), getStatistics, getActiveGuests. What momservice refuses is a fault with its "
    "reason; while momservice is away the connection is closed without an answer. A request has at most 1 MiB and 5 seconds."
)
EXITS = "Exit status: 0 after a stop or when nobody needs it any more, 1 when it cannot go on, 2 for a wrong command line."

Method = Callable[..., Awaitable[Any]]
Kind = type | UnionType


class Methods:
    """The old MOM's methods. Results are those of MOM: True, texts, dictionaries by name."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._table: Mapping[str, tuple[Method, Sequence[Kind]]] = {
            "ping": (client.ping, ()),
            "setPolicy": (self._set_policy, (str,)),
            "setNamedPolicy": (self._set_named_policy, (str, str | None)),
            "getPolicy": (client.policy, ()),
            "getNamedPolicies": (client.policies, ()),
            "resetPolicies": (self._reset_policies, ()),
            "setVerbosity": (self._set_verbosity, (str | int,)),
            "getStatistics": (self._statistics, ()),
            "getActiveGuests": (self._active_guests, ()),
        }

    async def answer(self, body: bytes) -> bytes | None:
        """The answer to a call, a fault if need be; None without the service."""
        try:
            return write_answer(await self._call(*read_call(body)))
        except Fault as fault:
            log.warning("a call is refused: %s", fault.faultString)
            return write_answer(fault)
        except ServiceUnavailable as error:
            log.warning("a call gets no answer: %s", error)
            return None
        except Exception:
            log.exception("internal error")
            return write_answer(Fault(REFUSED, "internal error: see the log of mom-rpc-bridge"))

    async def _call(self, name: str, arguments: Sequence[Any]) -> Any:
        if name not in self._table:
            raise Fault(UNKNOWN_METHOD, f"there is no such method; there are {', '.join(self._table)}")
        method, kinds = self._table[name]
        if len(arguments) != len(kinds) or not all(map(isinstance, arguments, kinds)):
            takes = ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds) or "no arguments"
            raise Fault(INVALID_ARGUMENTS, f"{name} takes {takes}")
        try:
            return await method(*arguments)
        except CallError as error:
            if error.name == ERROR + "Timeout":
                raise ServiceUnavailable(str(error)) from None
            raise Fault(REFUSED, str(error)) from None

    async def _set_policy(self, text: str) -> bool:
        await self._client.set_policy(text)
        return True

    async def _set_named_policy(self, name: str, text: str | None) -> bool:
        if text is not None:
            await self._client.set_named_policy(name, text)
            return True
        try:
            await self._client.remove_policy(name)
        except UnknownPolicy:
            log.debug("a policy to be removed isn't there")
        return True

    async def _reset_policies(self) -> bool:
        await self._client.reset_policies()
        return True

    async def _set_verbosity(self, level: str | int) -> bool:
        await self._client.set_verbosity(str(level))
        return True

    async def _statistics(self) -> Mapping[str, Sample | Mapping[str, Sample]]:
        statistics, names = await asyncio.gather(self._client.statistics(), self._client.active_guests())
        # A guest may come or go between the two answers.
        guests = {name: statistics.guests[uuid] for uuid, name in names if uuid in statistics.guests}
        return {"host": dict.fromkeys(KSM) | dict(statistics.host), "guests": guests}

    async def _active_guests(self) -> list[str]:
        return [name for _, name in await self._client.active_guests()]


def handed_over() -> list[socket.socket]:
    """The sockets that systemd listens on for us, none if it didn't start us so."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return [socket.socket(fileno=FIRST_SOCKET + number) for number in range(int(os.environ.get("LISTEN_FDS", "0")))]


def listen(path: Path) -> socket.socket:
    """A socket of our own, for nobody but this user and root. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        _remove_dead(path)
        listening.bind(str(path))
    finally:
        os.umask(mask)
    listening.listen(BACKLOG)
    return listening


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens on any more: one that was killed leaves it behind."""
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


async def serve(sockets: Sequence[socket.socket], *, until_idle: bool) -> None:
    """Answer until told to stop or, if that is wanted, until nobody needs us."""
    stop, client = stop_asked(), Client(Link(), deadline_s=DEADLINE_S)
    # Our own user is vdsm.
    server = Server(Methods(client).answer, {0, os.geteuid()})
    listening = [await server.serve(each) for each in sockets]
    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    if until_idle:
        ends.append(asyncio.ensure_future(server.idle(IDLE_S)))
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for each in listening:
        each.close()
    await client.close()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("mom-rpc-bridge", description=DESCRIPTION, epilog=EXITS)
    parser.add_argument("--version", action="version", version=f"mom-rpc-bridge {__version__}")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="listen here instead of on what systemd hands over, and stay")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = parsed(arguments(), argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        sockets = [listen(options.socket)] if options.socket else handed_over()
    except OSError as error:
        log.error("cannot listen: %s", error.strerror or error)
        return 1
    if not sockets:
        log.error("systemd hands over no socket; give --socket PATH")
        return 2
    asyncio.run(serve(sockets, until_idle=not options.socket))
    if options.socket:
        options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
