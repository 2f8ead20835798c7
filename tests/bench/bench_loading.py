# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading of the policy of 2011 with all checks and with code generation, of many of it, and of 1 MiB: seconds (medians), and per KiB."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from momservice.bus.names import TEXT_BYTES
from momservice.config import Config
from momservice.parts import schema
from momservice.policy import load

SEED = (Path(__file__).parent.parent / "data" / "mom.policy").read_text()
RUNS = 5
COPIES = {"seed": 1, "10 seeds": 10, "30 seeds": 30, "1 MiB": TEXT_BYTES // (len(SEED.encode()) + 1)}


def main() -> dict[str, dict[str, float]]:
    """The figures by size."""
    known, figures = schema(Config()), {}
    for size, copies in COPIES.items():
        text, times = "\n".join([SEED] * copies), []
        for _ in range(RUNS):
            begin = time.perf_counter()
            assert load({"50_main_": text}, known).program is not None
            times.append(time.perf_counter() - begin)
        seconds = statistics.median(times)
        figures[size] = {"seconds": seconds, "seconds_per_kib": seconds / len(text) * 1024}
    return figures
