# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON documents that outlive the process, at whatever moment it, the machine or the disk fails.

A document lies in two files, of which the one with the higher number holds. A new one replaces the other: it is written beside it, flushed,
renamed over it, and the folder is flushed. So there is always one that is whole, and the one before it where that turns out to be damaged.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

from momservice import strict_json
from momservice.strict_json import Json
from momservice.text import shown

T = TypeVar("T")

# How the names of other files end: one that is being written, and those that are set aside.
NEW, DAMAGED, NEWER = ".new", ".damaged", ".newer"
# Numbers that a damaged file may have used are left out, so that none is given twice.
MARGIN: Final = 1000
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def files_of(name: str) -> list[str]:
    """The files of a document, in its folder."""
    return [f"{name}-1.json", f"{name}-2.json"]


class _NewerVersion(ValueError):
    """Written by a later version of the program."""


class Document(Generic[T]):
    """One document. Not for two threads at a time; all methods block.

    `name`: of its files and its format. `version`: the newest that `decode` reads, all older ones with it. `decode`: makes the content of
    JSON or raises ValueError. `number`: of the document that holds; who writes the next one counts it up. `folder` None: nothing is kept.
    """

    def __init__(self, folder: Path | None, name: str, version: int, limit_bytes: int, decode: Callable[[Json], T]) -> None:
        self._folder, self._name, self._version = folder, name, version
        self._limit_bytes, self._decode = limit_bytes, decode
        # The file that the next document replaces, and the one that holds.
        self._files = files_of(name)
        self.number = 0
        # Why nothing may be written: it could have a lower number than what couldn't be read.
        self._refusal: OSError | None = None

    def read(self) -> tuple[T | None, list[str]]:
        """The content that holds, None for none, and a line for each file that couldn't be used: it is set aside."""
        if self._folder is None:
            return None, []
        problems: list[str] = []
        found: dict[str, tuple[int, T]] = {}
        try:
            with _opened(self._folder) as folder:
                for file in self._files:
                    self._try(folder, file, found, problems)
        except OSError as error:
            self._refusal = error
            return None, [f"the state folder can't be used until the next start: {error.strerror}"]
        self._files.sort(key=lambda file: found[file][0] if file in found else -1)
        newest = found.get(self._files[1])
        self.number = newest[0] if newest else 0
        if problems:
            # Where nothing could be read: fewer than a thousand numbers a second have ever been used.
            self.number = self.number + MARGIN if newest else time.time_ns() // 1_000_000
        return (newest[1] if newest else None), problems

    def write(self, content: str) -> None:
        """Make this, a JSON text, the content that holds, with the present `number`. Raises OSError; then what held before still does."""
        if self._folder is None:
            return
        if self._refusal:
            raise OSError(*self._refusal.args)
        head = f'{{"format":"mom-{self._name}","version":{self._version},"number":{self.number},"content":'
        with _opened(self._folder) as folder:
            self._replace(folder, self._files[0], f"{head}{content}}}\n".encode("ascii"))
        self._files.reverse()

    def _replace(self, folder: int, file: str, content: bytes) -> None:
        new = self._name + NEW
        try:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=folder)
            with os.fdopen(os.open(new, _CREATE, 0o600, dir_fd=folder), "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        try:
            os.replace(new, file, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError:
            # Whoever wrote it is told that it doesn't hold, so it mustn't be found later.
            for name in (new, file):
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            raise

    def _try(self, folder: int, file: str, found: dict[str, tuple[int, T]], problems: list[str]) -> None:
        try:
            found[file] = self._parse(self._content(folder, file), file)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            newer = isinstance(error, _NewerVersion)
            aside = file.replace(".json", NEWER if newer else DAMAGED)
            what = "is of a later version" if newer else "is damaged"
            why = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
            try:
                os.replace(file, aside, src_dir_fd=folder, dst_dir_fd=folder)
                done = f"set aside as {aside}"
            except OSError as refusal:
                self._refusal = refusal
                done = f"can't be set aside: {refusal.strerror}"
            problems.append(shown(f"the state file {file} {what} and {done} ({why})", 300))

    def _content(self, folder: int, file: str) -> str:
        with os.fdopen(os.open(file, _READ, dir_fd=folder), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("not a regular file")
            content = stream.read(self._limit_bytes + 1)
        if len(content) > self._limit_bytes:
            raise ValueError(f"over {self._limit_bytes // 1024} KiB")
        return content.decode("utf-8")

    def _parse(self, text: str, file: str) -> tuple[int, T]:
        document: Mapping[str, Json] = strict_json.parse(text, file)
        if strict_json.get(document, "format", str, file) != f"mom-{self._name}":
            raise ValueError(f"'format' is not mom-{self._name}")
        version, number = (strict_json.get(document, key, int, file) for key in ("version", "number"))
        if version > self._version:
            raise _NewerVersion(f"version {version}; this program reads up to {self._version}")
        if version < 1 or not 0 <= number < 1 << 63:
            raise ValueError("'version' or 'number' is out of range")
        return number, self._decode(document.get("content"))
