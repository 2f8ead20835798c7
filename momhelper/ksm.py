# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper: the root process that alone writes the kernel's KSM knobs. What its methods do and which errors they give says the XML."""

import asyncio
import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from momhelper.gate import Gate, TokenBucket
from momservice.bus.connection import ERROR, BusLost, Call, CallError, Connection, Export, load_interfaces
from momservice.stopping import stop_asked

log = logging.getLogger(__name__)
NAME, OBJECT, FOLDER = "org.ovirt.MomHelper1", "/org/ovirt/MomHelper1", Path("/sys/kernel/mm/ksm")
OUT_OF_RANGE, BUSY = "org.ovirt.Mom1.Error.OutOfRange", "org.ovirt.Mom1.Error.Busy"
U32, MODES, TICK_S, STOP_S = 2**32 - 1, ("none", "scan-time"), 0.5, 20.0
# File name in the KSM folder: the least and the most that the kernel takes, the least that callers get. Nothing else is ever written.
TABLE: dict[str, tuple[int, int, int]] = {
    "run": (0, 2, 0),
    "pages_to_scan": (0, U32, 1),
    "sleep_millisecs": (0, U32, 10),
    "merge_across_nodes": (0, 1, 0),
    "max_page_sharing": (2, 2**31 - 1, 2),
    "use_zero_pages": (0, 1, 0),
    "smart_scan": (0, 1, 0),
    "stable_node_chains_prune_millisecs": (0, U32, 0),
    "advisor_mode": (0, 1, 0),
    "advisor_target_scan_time": (1, U32, 1),
    "advisor_max_cpu": (0, 100, 0),
    "advisor_min_pages_to_scan": (0, U32, 1),
    "advisor_max_pages_to_scan": (0, U32, 1),
}
UNSHARED = frozenset({"merge_across_nodes", "max_page_sharing"})  # The kernel answers EBUSY while any page is shared.


class Knobs:
    """The knobs, what was found in them (`saved`) and the file that remembers it."""

    def __init__(self, folder: Path, state: Path, proc: Path = Path("/proc")) -> None:
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) if folder.is_dir() else -1
        self._file, self._proc = state / "saved.json", proc
        self._unmerge, self._unmerges = threading.Thread(), TokenBucket(burst=3, per_s=1 / 60)
        self._boot = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        self.saved = self._load() if self._file.exists() else {}

    def _load(self) -> dict[str, int]:
        """What an earlier process found and didn't put back. Root will write it: a file with anything strange in it is set aside."""
        try:
            with os.fdopen(os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                document = json.loads(file.read(min(os.fstat(file.fileno()).st_size, 65536)))  # Only a regular file has a size.
            saved = {name: int(value) for name, value in document["knobs"].items() if TABLE[name][0] <= value <= TABLE[name][1]}
            if saved != document["knobs"]:
                raise ValueError("a value is out of range")
            return saved if document["boot"] == self._boot else {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.error("%s is damaged and set aside, KSM stays as it is: %r", self._file, error)
            with suppress(OSError):
                self._file.replace(self._file.with_suffix(".damaged"))
            return {}

    def _store(self, saved: dict[str, int]) -> None:
        """Make the file say this. It need not outlive the machine, only us: a boot resets the knobs, so a file from before it is void."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.write_text(json.dumps({"boot": self._boot, "knobs": saved}), encoding="ascii")
        new.replace(self._file)
        self.saved = saved

    def read(self) -> dict[str, int]:
        """The values of all knobs that this kernel has. An unmerge may wait for ksmd before the kernel says so."""
        unmerging = {"run": 2} if self._unmerge.is_alive() else {}
        return {name: value for name in TABLE if (value := self.figure(name)) is not None} | unmerging

    def figure(self, name: str) -> int | None:
        """The number in one file of the KSM folder, at most U32; None if there is none."""
        try:
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder), encoding="ascii") as file:
                text = file.read(64)
            return MODES.index(text.partition("[")[2].partition("]")[0]) if name == "advisor_mode" else min(int(text), U32)
        except (OSError, ValueError):
            return None

    def _write(self, name: str, value: int) -> None:
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=self._folder), "w") as file:
            file.write(MODES[value] if name == "advisor_mode" else str(value))

    def _put(self, values: dict[str, int], found: dict[str, int]) -> tuple[str, str] | None:
        """Save what was found, then write what differs, advisor first and `run` last, up to the first refusal: that knob and the reason."""
        for name, value in sorted(values.items(), key=lambda item: {"advisor_mode": 0, "run": 2}.get(item[0], 1)):
            if self.figure(name) == value or (name == "pages_to_scan" and values.get("advisor_mode")):  # The advisor's own then: EINVAL.
                continue
            try:
                if found.keys() - self.saved.keys():
                    self._store(found | self.saved)
                if (name, value) == ("run", 2):  # The kernel blocks the writer until all is unmerged.
                    self._unmerge = threading.Thread(target=self._write, args=("run", 2), daemon=True)
                    self._unmerge.start()
                else:
                    self._write(name, value)
            except OSError as error:
                return name, str(error.strerror)
        return None

    def apply(self, wanted: dict[str, int]) -> dict[str, int]:
        """Write all or nothing; gives the values then in force of the named knobs, and of advisor_mode if it had to go off."""
        now = self.read()
        if problems := [(name, *why) for name in wanted if (why := self._problem(name, wanted[name], now))]:
            raise CallError(problems[0][1], "; ".join(f"{name[:40]}: {reason}" for name, _, reason in problems))
        knobs = {name: min(max(value, TABLE[name][2]), TABLE[name][1]) for name, value in wanted.items()}
        if "pages_to_scan" in knobs and now.get("advisor_mode"):
            knobs.setdefault("advisor_mode", 0)
        changes, touched = {name: value for name, value in knobs.items() if value != now[name]}, bool(self.saved)
        if refusal := self._put(changes, now):
            undo = now.keys() & {*changes, *(["pages_to_scan"] if "advisor_mode" in changes else [])}  # The advisor's switch sets both.
            if not self._put({name: now[name] for name in undo}, {}) and not touched:
                with suppress(OSError):
                    self._store({})  # Nothing is ours: what others set from now on must stay.
            raise CallError(ERROR + "IOError", ": ".join(refusal))
        log.log(logging.INFO if changes else logging.DEBUG, "set %s", changes)
        return {name: value for name, value in self.read().items() if name in knobs}

    def _problem(self, name: str, value: int, now: dict[str, int]) -> tuple[str, str] | None:
        """What speaks against this value: the name of an error and the reason."""
        if name not in now:
            return ERROR + "InvalidArgs", "this kernel has no such knob"
        if TABLE[name][1] in {1, 2} and value > TABLE[name][1]:
            return OUT_OF_RANGE, f"{value} is not between 0 and {TABLE[name][1]}"
        if value == now[name] or name not in {"run", *UNSHARED}:
            return None
        if self._unmerge.is_alive() or (name in UNSHARED and self.figure("pages_shared")):
            return BUSY, "the kernel takes it only while no page is shared or being unmerged"
        return self._no_unmerge() if (name, value) == ("run", 2) else None

    def _no_unmerge(self) -> tuple[str, str] | None:
        """What speaks against unmerging. What it takes must be available, and a twentieth of all memory left over."""
        pages = (self.figure("pages_sharing") or 0) + (self.figure("ksm_zero_pages") or 0)
        kib = {line.split()[0]: int(line.split()[1]) for line in (self._proc / "meminfo").read_text(encoding="ascii").splitlines()}
        if pages and pages * os.sysconf("SC_PAGE_SIZE") // 1024 + kib["MemTotal:"] // 20 > kib["MemAvailable:"]:
            return ERROR + "LimitsExceeded", "the host has no room for the unmerged pages"
        return None if self._unmerges.take() else (ERROR + "LimitsExceeded", "pages were unmerged a short while ago: try again in a minute")

    def restore(self, wait_s: float = 0) -> bool:
        """Put back what was found: all of it? What the kernel refuses stays for the next time. Waits so long for pages being unmerged."""
        shared = {*UNSHARED, *(["run"] if ("run", 2) in self.saved.items() else [])} if self.figure("pages_shared") else set()
        waiting = {name for name in shared & self.saved.keys() if self.figure(name) not in {self.saved[name], None}}
        if waiting and not self._unmerge.is_alive() and not self._no_unmerge() and not self._put({"run": 2}, {}):
            waiting = set()  # With few pages it has ended by now.
        if self._unmerge.is_alive():
            self._unmerge.join(wait_s)
            waiting = {"run", *UNSHARED} if self._unmerge.is_alive() else set()
        todo = {name: value for name, value in self.saved.items() if name not in waiting}
        refused = []
        while refusal := self._put(todo, {}):
            refused.append(f"{refusal[0]}={todo.pop(refusal[0])} ({refusal[1]})")
        if todo:
            self._store({name: value for name, value in self.saved.items() if name not in todo})
            log.log(logging.WARNING if self.saved else logging.INFO, "put back %s; not yet: %s", todo, [*waiting, *refused])
        return not self.saved


class Helper:
    """The life of momhelper on the bus: restores when the service is gone, when its lease has run out, and at the end."""

    def __init__(self, knobs: Knobs, gone_s: float = 30.0, lease_s: float = 60.0, idle_s: float = 60.0) -> None:
        self._knobs, self._gone_s, self._lease_s, self._idle_s = knobs, gone_s, lease_s, idle_s
        self._lease, self._idle = 0.0, time.monotonic() + idle_s  # When they end.
        self._seen = time.monotonic()  # When the service was there.

    async def _answer(self, call: Call) -> list[object]:
        self._seen = now = time.monotonic()
        self._idle = now + self._idle_s
        match call.member:
            case "Apply":
                self._lease = now + self._lease_s
                return [self._knobs.apply(call.args[0])]
            case "Read":
                return [self._knobs.read() | {name: self._knobs.figure(name) or 0 for name in ("pages_shared", "pages_sharing")}]
            case "Renew" if call.args[0] not in range(1, 121):
                raise CallError(OUT_OF_RANGE, "a lease lasts 1 to 120 seconds")
            case "Renew":
                self._lease = now + call.args[0]
            case "Restore":
                self._lease = now
                self._knobs.restore()
        return []

    async def run(self) -> int:
        """Serve until a signal or idleness ends it (0) or the bus is lost (1)."""
        connection = await Connection.open()
        gate, stop, lost = Gate(connection), stop_asked(), asyncio.ensure_future(connection.lost())
        interface, methods = load_interfaces(NAME + ".xml")[NAME], dict.fromkeys(("Apply", "Read", "Renew", "Restore"), self._answer)
        export = Export(interface, methods, gate.check, lambda: {"Knobs": list(self._knobs.read())}, guard_first=True)
        connection.serve(OBJECT, export)
        await gate.open()
        await connection.own(NAME)
        self._knobs.restore()
        while not stop.is_set() and not lost.done() and (self._knobs.saved or time.monotonic() < self._idle):
            await asyncio.sleep(TICK_S)
            self._seen = time.monotonic() if gate.service_present else self._seen
            if self._knobs.saved and time.monotonic() > min(self._lease, self._seen + self._gone_s):
                self._knobs.restore()
        self._knobs.restore(STOP_S)
        return int(lost.done())


def main(argv: list[str] = sys.argv[1:]) -> int:
    """The program: serves the system bus; with --restore puts back what a killed one had found. Gives the exit status."""
    if argv not in ([], ["--restore"]):
        sys.exit("usage: momhelper [--restore]")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    threading.excepthook = lambda failure: log.error("unmerging failed: %s", failure.exc_value)
    try:
        knobs = Knobs(FOLDER, Path(os.environ.get("STATE_DIRECTORY", "/var/lib/momhelper")))
        return asyncio.run(Helper(knobs).run()) if not argv else int(not knobs.restore(STOP_S))
    except (BusLost, CallError, OSError) as error:
        sys.exit(f"momhelper: {error}")
