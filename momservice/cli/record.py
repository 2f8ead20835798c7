# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl record: what policies can see, written to a file as it happens."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Final

from momservice.cli.output import Problem, count, say_done
from momservice.cli.policy_files import STDIN
from momservice.cli.service import connected
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import BlockingClient, Parameter
from momservice.recorder import Recorder
from momservice.strict_json import FILE_BYTES

MORE = f"""\
Writes a snapshot at once, and one each time that policies run, with the figures of all samples since the one before: a line of JSON each, \
until Ctrl-C, SIGTERM, the end of the terminal, the given end, or {FILE_BYTES >> 20} MiB; each of these leaves a file of whole lines, and \
the exit status 0. SIGINT is not heeded where whoever started it ignores it, as scripts have their jobs in the background do, nor SIGHUP \
under nohup: there SIGTERM ends it. `momctl policy replay` runs policies over it; a file of one snapshot is one for \
`momctl policy eval --snapshot`. Recorded are the fields of host and guests, names, and the parameters that clients set. Not recorded are \
fields that the service doesn't collect or can't send (the disks of io_tune), history from before, what SetVar has kept, samples less than \
a second apart, and samples that are the same as the ones before. Anybody may record."""
# How often the service is asked whether there are new samples.
POLL_S: Final = 1.0
# Signals that end it unless they were ignored when it was started.
MAY_BE_IGNORED: Final = (signal.SIGINT, signal.SIGHUP)


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "record", "write what policies can see to a file", record, more=MORE, parents=[json_option])
    parser.add_argument("file", type=Path, metavar="FILE", help='a file that isn\'t there yet; "-" for standard output')
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--seconds", type=_number, metavar="N", help="end after so long")
    ends.add_argument("--snapshots", type=_number, metavar="N", help="end with so many")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 32:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of these")
    return int(text)


def record(options: argparse.Namespace) -> int:
    """`momctl record`."""
    to_output = str(options.file) == STDIN
    with interruptions() as sleep, connected() as client:
        # Before there is a file: there must be a service.
        interval_s = client.status().interval_ms / 1000
        with nullcontext(sys.stdout) if to_output else _new_file(options.file) as out:
            written, why = Recording(client, out, sleep).run(interval_s, options.snapshots, options.seconds)
    if not to_output:
        text = f"{options.file}: {count(written, 'snapshot')}{'; ' if why else ''}{why}"
        say_done(options, text, file=str(options.file), snapshots=written, reason=why)
    return 0


def _new_file(path: Path) -> IO[str]:
    try:
        return path.open("x", encoding="ascii")
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}") from error


@contextmanager
def interruptions() -> Iterator[Callable[[float], bool]]:
    """Sleeps that signals end, which then end nothing else: no line is ever cut off. They give whether to go on."""
    # In the background of a script Ctrl-C, and under nohup the end of the terminal, are meant for others. SIGTERM never is.
    ends = {signal.SIGTERM, *(number for number in MAY_BE_IGNORED if signal.getsignal(number) is not signal.SIG_IGN)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        yield lambda seconds: signal.sigtimedwait(ends, max(0.0, seconds)) is None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Recording:
    """Writes a series."""

    def __init__(
        self, client: BlockingClient, out: IO[str], sleep: Callable[[float], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`sleep` gives whether to go on."""
        self._client, self._out, self._sleep, self._clock = client, out, sleep, clock
        self._recorder = Recorder()
        self._left_bytes = FILE_BYTES

    def run(self, interval_s: float, snapshots: int | None, seconds: int | None) -> tuple[int, str]:
        """How many snapshots were written, and why no more, where that isn't what was asked for."""
        begin = due = self._clock()
        written = 0
        while True:
            self._see()
            if self._clock() >= due:
                if not self._write(int(interval_s)):
                    return written, f"the file would grow beyond {FILE_BYTES >> 20} MiB"
                written, due = written + 1, due + interval_s
            now = self._clock()
            if written == snapshots or (seconds is not None and now - begin >= seconds):
                return written, ""
            if not self._sleep(min(POLL_S, max(due - now, 0.0), *([] if seconds is None else [begin + seconds - now]))):
                return written, ""

    def _see(self) -> None:
        statistics = self._client.statistics()
        self._recorder.see(statistics.host, statistics.guests)

    def _write(self, interval_s: int) -> bool:
        """Whether the next snapshot still fits."""
        parameters = {name: each.value for name, each in self._client.parameters().items() if _is_set(each)}
        line = self._recorder.document(self._names(), interval_s, parameters, time.time_ns() // 1000) + "\n"
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            return False
        self._out.write(line)
        self._out.flush()
        return True

    def _names(self) -> Sequence[tuple[str, str]]:
        return sorted(self._client.active_guests(), key=lambda guest: (guest[1], guest[0]))


def _is_set(parameter: Parameter) -> bool:
    """Whether somebody gave it another value than the policy does."""
    return parameter.origin == "client"
