# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev run: the product at work on a throw-away host, squeezed and relaxed through its own bus interface."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab import knobs
from lab.common import LabError, say
from lab.host import Host
from lab.record import Record, look, numbers, squeeze
from lab.table import Table

# A balloon needs some twenty steps of a policy interval (2 s here) to go down as far as it will and to come back.
ROUND_S = 55.0
TICK_S = 1.0


def main(policy: Path | None, guests: int, seconds: float | None, as_json: bool) -> int:
    """Run it for so many seconds, None: until Ctrl-C. 0 if balloons went down and came back, knobs changed and were restored."""
    if policy is not None and not policy.exists():
        raise LabError(f"run: {policy}: no such file or directory")
    if guests < 1:
        raise LabError("run: at least one guest is needed")
    if seconds is not None and seconds <= 0:
        raise LabError("run: --seconds must be above 0")
    if not as_json:
        say(f"starting a bus, libvirtd and {guests} guests")
    with Host(guests, settle=policy is None, policy=policy) as host:
        record = Record(host)
        try:
            watch(host, record, seconds, None if as_json else Table())
        except KeyboardInterrupt:
            if seconds is not None:
                raise
        end_service(host, record)
    record.close()
    if as_json:
        sys.stdout.write(json.dumps(record.document()) + "\n")
    return report(record, as_json)


def phases(seconds: float | None) -> Iterator[tuple[str, float]]:
    """Phase and its end, in seconds from the start: a baseline, then rounds of being squeezed and, longer, relaxed.

    Relaxed longer, so that at the end of each round the balloons are back where they were.
    """
    baseline = 5.0 if seconds is None else min(5.0, seconds * 0.1)
    yield "baseline", baseline
    rounds = None if seconds is None else max(1, int((seconds - baseline) // ROUND_S))
    length = ROUND_S if seconds is None or rounds is None else (seconds - baseline) / rounds
    begin = baseline
    while rounds is None or begin < baseline + length * rounds - 0.001:
        yield "squeezed", begin + length * 0.4
        yield "relaxed", begin + length
        begin += length


def watch(host: Host, record: Record, seconds: float | None, table: Table | None) -> None:
    """Go through the phases, with a look every second."""
    start = time.monotonic()
    for phase, end in phases(seconds):
        if phase != "baseline":
            attempt(record, host, phase)
        while (elapsed := time.monotonic() - start) < end:
            try:
                sample = look(host)
            except LabError as error:
                record.complain(str(error))
            else:
                record.add(sample)
                if table:
                    table.show(sample, phase, elapsed)
            time.sleep(max(0.0, min(TICK_S, start + end - time.monotonic())))


def attempt(record: Record, host: Host, phase: str) -> None:
    """Squeeze or relax the host; what the service says against it is an error of the run."""
    try:
        squeeze(host, phase == "squeezed")
    except LabError as error:
        record.complain(str(error))


def end_service(host: Host, record: Record) -> None:
    """Stop the service and see that it puts the knobs back: the guardian would do it as well, unseen."""
    host.stop_service()
    end = time.monotonic() + 10
    while knobs.read() != host.knobs_before and time.monotonic() < end:
        time.sleep(0.1)
    for name, value in numbers(knobs.read()).items():
        if str(value) != host.knobs_before[name]:
            record.complain(f"KSM knob {name} was left at {value} by the service")


def report(record: Record, as_json: bool) -> int:
    """Say how it went, in words unless the JSON object said it. The exit status."""
    failures = record.failures()
    if not as_json:
        for line in failures or ["balloons went down and came back; KSM's knobs changed and are restored"]:
            say(line)
    return 1 if failures else 0
