# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper's knobs on a folder of plain files that behaves as the kernel's does, for tests. The real one: test_ksm_real.py."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from momhelper import ksm
from momhelper.ksm import Knobs
from momservice.bus.connection import CallError

BOOT = "00000000-0000-4000-8000-00000000b007\n"
FOUND = {
    "run": 0,
    "pages_to_scan": 100,
    "sleep_millisecs": 20,
    "merge_across_nodes": 1,
    "max_page_sharing": 256,
    "use_zero_pages": 0,
    "smart_scan": 1,
    "stable_node_chains_prune_millisecs": 2000,
    "advisor_mode": 0,
    "advisor_target_scan_time": 200,
    "advisor_max_cpu": 70,
    "advisor_min_pages_to_scan": 500,
    "advisor_max_pages_to_scan": 30000,
}
MODES = ("[none] scan-time\n", "none [scan-time]\n")


class Kernel(Knobs):
    """The helper's knobs on such a folder. `written`: what was written; `refuse`: knobs whose writing fails."""

    def __init__(self, root: Path) -> None:
        self.folder, self.state = root / "ksm", root / "state"
        self.written: list[tuple[str, int]] = []
        self.refuse: set[str] = set()
        self.may_unmerge = threading.Event()
        self.may_unmerge.set()
        # Whether ksmd lets the writer in.
        self.may_begin = threading.Event()
        self.may_begin.set()
        super().__init__(self.folder, self.state, root / "proc")

    def set(self, name: str, value: int) -> None:
        """As another program would."""
        new = self.folder / f"{name}.new"
        new.write_text(MODES[value] if name == "advisor_mode" else f"{value}\n")
        # Another thread never sees half of it, as in the kernel.
        new.replace(self.folder / name)

    def share(self, pages: int) -> None:
        self.set("pages_shared", min(pages, 1))
        self.set("pages_sharing", pages)

    def _write(self, name: str, value: int) -> None:
        self.written.append((name, value))
        if threading.current_thread() is not threading.main_thread():
            self.may_begin.wait()
        if name in self.refuse:
            raise OSError(errno.EIO, "Input/output error")
        if name == "pages_to_scan" and self.figure("advisor_mode"):
            raise OSError(errno.EINVAL, "Invalid argument")
        if name in ksm.UNSHARED and self.figure("pages_shared"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        if name == "advisor_mode":
            self.set("pages_to_scan", 500 if value else 100)
        if (name, value) == ("run", 2):
            self.set("run", 2)
            self.may_unmerge.wait()
            self.share(0)
        self.set(name, value)

    def wait(self) -> None:
        self.may_unmerge.set()
        self._unmerge.join()


@contextmanager
def opened(root: Path) -> Iterator[Kernel]:
    """The knobs of such a folder; whatever they wait for at the end comes."""
    kernel = Kernel(root)
    yield kernel
    kernel.may_begin.set()
    kernel.may_unmerge.set()


def furnish(root: Path) -> Path:
    """Make the folder, and what else of the kernel is read, below this one."""
    (root / "ksm").mkdir()
    for name, value in FOUND.items():
        (root / "ksm" / name).write_text(MODES[value] if name == "advisor_mode" else f"{value}\n")
    for name in ("pages_shared", "pages_sharing", "ksm_zero_pages"):
        (root / "ksm" / name).write_text("0\n")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text(BOOT)
    memory(root, 1_000_000)
    return root


def memory(root: Path, available_kib: int) -> None:
    (root / "proc/meminfo").write_text(f"MemTotal: 2000000 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\nHugePages_Total: 0\n")


def refusal(kernel: Kernel, **wanted: int) -> CallError:
    """The error that callers get who want this; nothing is written then."""
    with pytest.raises(CallError) as caught:
        kernel.apply(wanted)
    assert kernel.written == []
    assert kernel.saved == {}
    return caught.value
