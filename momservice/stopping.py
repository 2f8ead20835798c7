# SPDX-License-Identifier: GPL-2.0-or-later
"""How programs are told to end. Part of the code that runs as root."""

import asyncio
import signal


def stop_asked() -> asyncio.Event:
    """Is set by SIGTERM or SIGINT, from now on; until now they end the process as it stands, so ask before anything needs an end."""
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    return asked
