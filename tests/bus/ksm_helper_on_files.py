# SPDX-License-Identifier: GPL-2.0-or-later
"""Not a test: momhelper's own life in the lab, on a folder of plain files and with less patience. Arguments: folder, gone, lease, idle."""

import asyncio
import logging
import sys
from pathlib import Path

from momhelper.ksm import Helper, Knobs

if __name__ == "__main__":
    root = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    sys.exit(asyncio.run(Helper(Knobs(root / "ksm", root / "state"), *map(float, sys.argv[2:])).run()))
