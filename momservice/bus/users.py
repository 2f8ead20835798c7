# SPDX-License-Identifier: GPL-2.0-or-later
"""Which user is behind a connection of somebody's to the bus.

Part of the code that runs as root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from momservice.bus.wire import Reply, outcome

# Names that have left are forgotten when others come.
MAX_UIDS = 1024


class Users:
    """User ids by bus name, as the bus saw them when the connections were made.

    `ask`: asks the bus for the one behind a name.
    """

    def __init__(self, ask: Callable[[str], asyncio.Future[Reply | None]]) -> None:
        self._ask = ask
        self._uids: dict[str, int] = {}
        self._asked: dict[str, asyncio.Future[int]] = {}

    def known(self, name: str) -> int | None:
        """The user id behind a name. None: it has to be asked for."""
        return self._uids.get(name)

    def asked(self, name: str) -> asyncio.Future[int]:
        """One question for all who want to know, who share its outcome: CallError when the name is gone, BusLost. Not to be cancelled."""
        if name not in self._asked:
            self._asked[name] = known = asyncio.get_running_loop().create_future()
            # The first to hear of it: what has been asked for is known before any other caller is answered.
            known.add_done_callback(lambda _known: self._learnt(name, known))
            self._ask(name).add_done_callback(lambda reply: _tell(known, reply.result()))
        return self._asked[name]

    async def uid_of(self, name: str) -> int:
        """The user id behind a name. Raises CallError when the name is gone, or BusLost."""
        return self._uids[name] if name in self._uids else await asyncio.shield(self.asked(name))

    def _learnt(self, name: str, known: asyncio.Future[int]) -> None:
        del self._asked[name]
        # The bus never gives a unique name to another.
        if not known.exception() and name.startswith(":"):
            if len(self._uids) >= MAX_UIDS:
                del self._uids[next(iter(self._uids))]
            self._uids[name] = known.result()


def _tell(known: asyncio.Future[int], reply: Reply | None) -> None:
    try:
        (uid,) = outcome(reply)
        known.set_result(int(uid))
    except Exception as error:
        # Without the traceback, which holds `known`, and so on in a circle: who leaves by thousands must leave nothing to collect.
        known.set_exception(error.with_traceback(None))
