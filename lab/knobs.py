# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies the kernel's KSM knobs and writes them back. Apart from the product's own code, because it cleans up behind that."""

import stat
from pathlib import Path

KSM = Path("/sys/kernel/mm/ksm")
LOCK = Path("/run/lock/mom-ksm.lock")
# The kernel answers EBUSY to these while any page is shared.
NEED_UNSHARED = ("merge_across_nodes", "max_page_sharing")


def read(folder: Path = KSM) -> dict[str, str]:
    """Every knob that can be written, as text; a knob of several words as the chosen one ("[none] scan-time" is "none")."""
    writable = (path for path in folder.iterdir() if path.stat().st_mode & stat.S_IWUSR)
    return {path.name: chosen(path.read_text(encoding="ascii")) for path in sorted(writable)}


def chosen(text: str) -> str:
    """What a knob's file says: the word in brackets, or else all of it."""
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else text.strip()


def restore(saved: dict[str, str], folder: Path = KSM) -> dict[str, str]:
    """Write back what differs, in the order the kernel needs. Returns what couldn't be written: knob -> the kernel's error."""
    present = read(folder)
    differing = [name for name in saved if present.get(name) != saved[name]]
    steps: list[tuple[str, str]] = []
    if any(name in differing for name in NEED_UNSHARED) and shared(folder):
        steps.append(("run", "2"))
    if differing and present.get("advisor_mode", "none") != "none":
        # The advisor owns pages_to_scan: while it is on the kernel refuses to have that written.
        steps.append(("advisor_mode", "none"))
    last = ("advisor_mode", "run")
    steps += [(name, saved[name]) for name in differing if name not in last]
    steps += [(name, saved[name]) for name in last if name in saved]
    if saved.get("advisor_mode", "none") != "none":
        steps = [step for step in steps if step[0] != "pages_to_scan"]
    return write(steps, folder) if differing else {}


def shared(folder: Path) -> bool:
    """Whether any page is shared at present."""
    return (folder / "pages_shared").read_text(encoding="ascii").strip() != "0"


def write(steps: list[tuple[str, str]], folder: Path) -> dict[str, str]:
    """Write knobs one by one; an error stops none of the others."""
    failed: dict[str, str] = {}
    for name, value in steps:
        try:
            (folder / name).write_text(value, encoding="ascii")
        except OSError as error:
            failed[name] = error.strerror or str(error)
    return failed
