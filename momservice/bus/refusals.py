# SPDX-License-Identifier: GPL-2.0-or-later
"""Why our own calls fail, where everybody may read it: in reasons of the status, outcomes and signals.

A bus that refuses a message quotes its sender's command line, and the program that it couldn't start: such texts are only for the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from momservice.bus.connection import ERROR, BusLost, CallError
from momservice.text import shown

log = logging.getLogger(__name__)

# Errors whose text is our own, or that of a program which we call: no bus has them for a message of ours.
_TOLD: Final = frozenset(
    {ERROR + "Timeout", ERROR + "IOError", ERROR + "InvalidArgs", "org.ovirt.Mom1.Error.OutOfRange", "org.ovirt.Mom1.Error.Busy"}
)
# What the others mean for us, by what their names begin with.
_WORDS: Final[Mapping[str, str]] = {
    ERROR + "AccessDenied": "it, or the bus, refuses our call",
    ERROR + "LimitsExceeded": "a limit of the bus, or its own, is reached",
    ERROR + "ServiceUnknown": "there is no such service",
    ERROR + "NameHasNoOwner": "it isn't running",
    ERROR + "NoReply": "it gives no answer",
    ERROR + "Disconnected": "it gives no answer",
    ERROR + "TimedOut": "it doesn't start in time",
    ERROR + "Spawn.": "it can't be started",
    ERROR + "Unknown": "it knows no such call",
    "org.freedesktop.systemd1.": "systemd can't start it",
}
_OTHERWISE: Final = "our call fails"


def untold(error: BaseException | None) -> str:
    """What the bus said, or a program that we call, where `told` doesn't quote it; "" otherwise. Only for the log."""
    return error.text if isinstance(error, CallError) and error.name not in _TOLD else ""


def told(error: BusLost | CallError) -> str:
    """One line that names the error and quotes nothing of the bus. The whole text goes to the log, each time as a detail."""
    if isinstance(error, BusLost) or error.name in _TOLD:
        return str(error)
    log.debug("%s: %s", shown(error.name), shown(error.text, 1000))
    words = next((words for name, words in _WORDS.items() if error.name.startswith(name)), _OTHERWISE)
    return f"{words} ({shown(error.name)})"
