# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies the kernel's KSM knobs and writes them back. Apart from the product's own code, because it cleans up behind that."""

import stat
from pathlib import Path

from lab.common import LabError

KSM = Path("/sys/kernel/mm/ksm")
LOCK = Path("/run/lock/mom-ksm.lock")
# The kernel answers EBUSY to these while any page is shared.
NEED_UNSHARED = ("merge_across_nodes", "max_page_sharing")


def read(folder: Path = KSM) -> dict[str, str]:
    """Every knob that can be written, as text; a knob of several words as the chosen one ("[none] scan-time" is "none").

    Raises LabError where the kernel has no KSM.
    """
    if not folder.is_dir():
        raise LabError(f"this kernel has no KSM: there is no {folder}")
    writable = (path for path in folder.iterdir() if path.stat().st_mode & stat.S_IWUSR)
    return {path.name: chosen(path.read_text(encoding="ascii")) for path in sorted(writable)}


def chosen(text: str) -> str:
    """What a knob's file says: the word in brackets, or else all of it."""
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else text.strip()


def restore(saved: dict[str, str], folder: Path = KSM) -> dict[str, str]:
    """Write back what differs, in the order the kernel needs. Returns what couldn't be written: knob -> the kernel's error."""
    shared = (folder / "pages_shared").read_text(encoding="ascii").strip() != "0"
    failed: dict[str, str] = {}
    for name, value in steps(saved, read(folder), shared):
        try:
            (folder / name).write_text(value, encoding="ascii")
        except OSError as error:
            failed[name] = error.strerror or str(error)
    return failed


def steps(saved: dict[str, str], present: dict[str, str], shared: bool) -> list[tuple[str, str]]:
    """What to write, in which order, to get from the present knobs to the saved ones. shared: whether any page is, at present."""
    differing = [name for name in saved if present.get(name) != saved[name]]
    first: list[tuple[str, str]] = []
    if shared and any(name in differing for name in NEED_UNSHARED):
        first.append(("run", "2"))
    if differing and present.get("advisor_mode", "none") != "none":
        # While the advisor is on it owns pages_to_scan, and the kernel refuses to have that written.
        first.append(("advisor_mode", "none"))
    if saved.get("advisor_mode", "none") != "none":
        differing = [name for name in differing if name != "pages_to_scan"]
    # Last, because the one takes pages_to_scan over and the other sets ksmd to work with all the rest; again if written above.
    last = [name for name in ("advisor_mode", "run") if name in differing or (name in saved and name in dict(first))]
    return first + [(name, saved[name]) for name in [*(name for name in differing if name not in last), *last]]
