# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd's unit files say, as far as a check of the configuration needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Of a unit the first is used, of drop-ins of one name as well (systemd.unit(5)).
FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")


def listens_on(unit: str, root: Path = Path("/")) -> list[str] | None:
    """The ListenStream= of a socket unit with its drop-ins, None if there is no such unit, or none that we may read."""
    try:
        main = next((path for folder in FOLDERS if (path := root / folder / unit).is_file()), None)
    except PermissionError:
        return None
    if main is None:
        return None
    found: list[str] = []
    for file in (main, *_drop_ins(unit, root)):
        for value in values(file, "ListenStream"):
            # An empty one takes back what came before.
            found = [*found, value] if value else []
    return found


def _drop_ins(unit: str, root: Path) -> list[Path]:
    files: dict[str, Path] = {}
    for folder in reversed(FOLDERS):
        files |= {path.name: path for path in (root / folder / f"{unit}.d").glob("*.conf")}
    return [files[name] for name in sorted(files)]


def values(file: Path, key: str) -> Iterator[str]:
    """What a unit file gives a key, one after the other; nothing if it can't be read."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == key:
            yield value.strip()
