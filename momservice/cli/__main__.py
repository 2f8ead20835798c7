# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl: entry point."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run momctl; gives the exit status."""
    # Ctrl-C ends it as it ends other programs, without a word: nothing here needs to be put in order. Who ignores it keeps ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from momservice.cli import command  # noqa: PLC0415 - the imports take longer than most of what follows, and may be interrupted too

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
