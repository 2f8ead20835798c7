# SPDX-License-Identifier: GPL-2.0-or-later
"""Not a test: runs in the lab as user mom, in momservice's place, and does to guests what it is told, a JSON object per line."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import libvirt

from momservice.bus.connection import BusLost, CallError, Connection
from momservice.collectors import Moment
from momservice.collectors.guest_libvirt import GuestLibvirt
from momservice.collectors.guest_qemu_proc import GuestQemuProc
from momservice.collectors.guest_state import GuestState
from momservice.controllers import HelperUnavailable, World
from momservice.controllers.balloon import Balloon
from momservice.controllers.guest_helper import NAME, PATH, GuestHelper
from momservice.controllers.stats_period import StatsPeriod
from momservice.decisions import Place, Wanted
from momservice.hypervisor import GuestRecord, HypervisorUnavailable
from momservice.hypervisor.libvirt_source import Hypervisor

# Statistics are fresh for three of them: emulated guests on a busy machine don't tell every second.
INTERVAL_S = 4.0
NOWHERE = Place("test", 1, 1)


class Probe:
    """The parts of the service that have to do with guests, without engine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._hypervisor = Hypervisor()
        helper = GuestHelper(connection)
        self._balloon, self._period = Balloon(helper), StatsPeriod(helper)
        self._collectors = (GuestLibvirt(), GuestQemuProc(), GuestState(self._balloon.works))

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one thing."""
        begin = time.monotonic()
        try:
            answer = await self._do(request)
        except HypervisorUnavailable as error:
            answer = {"unavailable": str(error)}
        except HelperUnavailable as error:
            answer = {"helper": str(error)}
        except CallError as error:
            answer = {"error": error.name, "text": error.text}
        return {**answer, "seconds": time.monotonic() - begin, "connected": self._hypervisor.connected}

    async def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "guests"}:
                return {"guests": {record.name: self._told(record) for record in await self._hypervisor.guests()}}
            case {"do": "apply", "targets": targets}:
                wanted = [Wanted(uuid, "balloon_target", value, NOWHERE) for uuid, value in targets.items()]
                outcomes = await self._balloon.apply(wanted, self._world(await self._hypervisor.guests()))
                return {"outcomes": {o.entity: [o.status, o.applied, o.reason] for o in outcomes}}
            case {"do": "ensure"}:
                records = await self._hypervisor.guests()
                await self._period.ensure(records, self._world(records))
                return {}
            case {"do": "forget", "uuid": uuid}:
                self._balloon.forget(uuid)
                return {}
            case {"do": "call", "member": member, "signature": signature, "args": args}:
                return {"answer": (await self._connection.call(NAME, PATH, NAME, member, signature, *args))[0]}
            case {"do": "write", "uuid": uuid}:
                return {"refused": [self._write(uuid, read_only) for read_only in (True, False)]}
        raise ValueError(request)

    def _told(self, record: GuestRecord) -> dict[str, Any]:
        moment = Moment(time.monotonic(), time.time(), INTERVAL_S, ())
        fields: dict[str, Any] = {"uuid": record.uuid, "pid": record.pid, "job": record.job, "state": record.state}
        for collector in self._collectors:
            fields |= collector.collect(record, moment)
        return fields

    def _world(self, records: tuple[GuestRecord, ...]) -> World:
        return World({}, {record.uuid: record for record in records}, time.monotonic(), time.time(), INTERVAL_S)

    def _write(self, uuid: str, read_only: bool) -> int:
        """The error code that libvirt refuses a write with, 0 if it doesn't."""
        try:
            connection = (libvirt.openReadOnly if read_only else libvirt.open)("qemu:///system")
            connection.lookupByUUIDString(uuid).setMemory(100_000)
        except libvirt.libvirtError as error:
            return int(error.get_error_code())
        return 0


async def main() -> None:
    """Own the service's name unless told not to, then answer until the end of standard input."""
    connection = await Connection.open()
    if "--nameless" not in sys.argv:
        await connection.own("org.ovirt.Mom1")
    probe = Probe(connection)
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    # Blocks the loop between requests: nothing else is to be done then.
    for line in sys.stdin:
        sys.stdout.write(json.dumps(await probe.answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except BusLost as lost:
        sys.exit(str(lost))
