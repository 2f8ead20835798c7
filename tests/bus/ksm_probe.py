# SPDX-License-Identifier: GPL-2.0-or-later
"""Not a test: runs in the lab and calls momhelper as it is told, a JSON list [member, signature, args...] per line.

With --own it does so in momservice's place; with the member "own" from then on.
"""

import asyncio
import json
import sys
from typing import Any

from momservice.bus.connection import CallError, Connection

SERVICE, NAME, PATH = "org.ovirt.Mom1", "org.ovirt.MomHelper1", "/org/ovirt/MomHelper1"


async def call(connection: Connection, member: str, signature: str, *args: Any) -> dict[str, Any]:
    """The body of the answer, or the error."""
    try:
        if member == "own":
            await connection.own(SERVICE)
            return {"answer": []}
        return {"answer": list(await connection.call(NAME, PATH, NAME, member, signature, *args))}
    except CallError as error:
        return {"error": error.name.rpartition(".")[2], "text": error.text}


async def main() -> None:
    """Answer until the end of standard input."""
    connection = await Connection.open()
    if "--own" in sys.argv:
        await connection.own(SERVICE)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    # Blocks the loop between requests: nothing else is to be done then.
    for line in sys.stdin:
        sys.stdout.write(json.dumps(await call(connection, *json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
