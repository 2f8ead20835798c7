# SPDX-License-Identifier: GPL-2.0-or-later
"""A document is the old one or the new one, whatever fails at whatever step; and what can't be read is set aside, not in the way."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from momservice.durable import MARGIN, Document

# Every call that touches the disk.
STEPS = ("open", "unlink", "fsync", "replace")


def decode(content: Any) -> str:
    if not isinstance(content, str):
        raise ValueError("not a text")
    return content


def document(folder: Path) -> Document[str]:
    return Document(folder, "test", 1, 4096, decode)


def write(made: Document[str], content: str) -> None:
    made.number += 1
    made.write(json.dumps(content))


def read(folder: Path) -> tuple[int, str | None, list[str]]:
    made = document(folder)
    content, problems = made.read()
    return made.number, content, problems


class Killed(BaseException):
    """The process ends here: nothing that handles errors sees it."""


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, fault: Callable[[], BaseException], after: bool) -> Iterator[list[str]]:
    """The step of that number fails, before or after it has been done; gives the names of the steps done, in order."""
    done: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            done.append(name)
            if len(done) != at + 1:
                return real(*args, **more)
            if after:
                with suppress(FileNotFoundError):
                    real(*args, **more)
            raise fault()

        return step

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield done


def steps_of_a_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    made = document(folder)
    made.read()
    with interrupted(monkeypatch, -1, Killed, after=False) as done:
        write(made, "x")
    return done


def test_what_is_written_is_read_and_the_former_stays_beside_it(tmp_path: Path) -> None:
    assert read(tmp_path) == (0, None, [])
    made = document(tmp_path)
    for number in range(1, 6):
        write(made, f"text {number} \N{EURO SIGN}\n")
        assert read(tmp_path) == (number, f"text {number} \N{EURO SIGN}\n", [])
        (tmp_path / made._files[1]).unlink()
        assert read(tmp_path)[1] == (f"text {number - 1} \N{EURO SIGN}\n" if number > 1 else None)
        made.number -= 1
        made._files.reverse()
        write(made, f"text {number} \N{EURO SIGN}\n")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_the_content_is_on_the_disk_before_its_name_and_its_name_before_the_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step for step in steps_of_a_write(tmp_path, monkeypatch) if step in ("fsync", "replace")]
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("earlier", [1, 2, 3])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int, after: bool) -> None:
    steps = len(steps_of_a_write(tmp_path, monkeypatch))
    assert steps > 5
    seen = set()
    for at in range(steps):
        folder = tmp_path / str(at)
        folder.mkdir()
        made = document(folder)
        for number in range(earlier):
            write(made, f"text {number}")
        with pytest.raises(Killed), interrupted(monkeypatch, at, Killed, after):
            write(made, "new")
        number, content, problems = read(folder)
        assert ((number, content) in {(earlier, f"text {earlier - 1}"), (earlier + 1, "new")}, problems) == (True, [])
        seen.add(content)
        # Whatever was left over isn't in the way.
        next_one = document(folder)
        next_one.read()
        write(next_one, "next")
        assert read(folder)[1:] == ("next", [])
    assert len(seen) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("after", [False, True])
def test_what_fails_at_any_step_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: bool) -> None:
    for at, step in enumerate(steps_of_a_write(tmp_path, monkeypatch)):
        folder = tmp_path / str(at)
        folder.mkdir()
        made = document(folder)
        for content in ("older", "old"):
            write(made, content)

        def fault() -> OSError:
            return OSError(code, os.strerror(code))

        with pytest.raises(OSError, match=os.strerror(code)), interrupted(monkeypatch, at, fault, after):
            write(made, "new")
        assert read(folder)[1] == "old", step
        assert not list(folder.glob("*.new"))
        write(made, "next")
        assert read(folder)[1:] == ("next", [])


def damaged(folder: Path, how: str) -> None:
    """Damage the file that holds."""
    file = max(folder.glob("test-?.json"), key=lambda each: json.loads(each.read_text())["number"])
    text = file.read_text()
    file.unlink()
    match how:
        case "symlink":
            file.with_name("elsewhere").write_text(text)
            file.symlink_to("elsewhere")
        case "fifo":
            os.mkfifo(file)
        case "folder":
            (file / "inner").mkdir(parents=True)
        case _:
            changed = {
                "empty": "",
                "cut": text[:-5],
                "not JSON": "hello",
                "not UTF-8": "\xff\xfe",
                "nested": "[" * 2000,
                "a list": "[1]",
                "of another kind": text.replace("mom-test", "mom-other"),
                "without number": text.replace('"number"', '"numb"'),
                "number as text": text.replace('"number":2', '"number":"2"'),
                "negative": text.replace('"number":2', '"number":-2'),
                "version 0": text.replace('"version":1', '"version":0'),
                "content of another type": text.replace('"two"', "2"),
                "no content": text.replace('"content"', '"other"'),
                "too large": text.replace("two", "x" * 5000),
            }[how]
            file.write_text(changed, encoding="latin-1")


@pytest.mark.parametrize(
    "how",
    [
        "symlink",
        "fifo",
        "folder",
        "empty",
        "cut",
        "not JSON",
        "not UTF-8",
        "nested",
        "a list",
        "of another kind",
        "without number",
        "number as text",
        "negative",
        "version 0",
        "content of another type",
        "no content",
        "too large",
    ],
)
def test_a_damaged_file_is_set_aside_and_the_one_before_holds(tmp_path: Path, how: str) -> None:
    made = document(tmp_path)
    write(made, "one")
    write(made, "two")
    damaged(tmp_path, how)
    again = document(tmp_path)
    content, (problem,) = again.read()
    assert (content, again.number) == ("one", 1 + MARGIN)
    assert problem.startswith("the state file test-2.json is damaged and set aside as test-2.damaged (")
    assert problem.isprintable()
    assert str(tmp_path) not in problem
    assert os.path.lexists(tmp_path / "test-2.damaged")
    write(again, "three")
    assert read(tmp_path) == (2 + MARGIN, "three", [])


def test_both_damaged_leave_nothing_and_stop_nothing(tmp_path: Path) -> None:
    made = document(tmp_path)
    write(made, "one")
    write(made, "two")
    for file in tmp_path.iterdir():
        file.write_text("{")
    again = document(tmp_path)
    content, problems = again.read()
    assert (content, len(problems)) == (None, 2)
    write(again, "three")
    # Not even when that happens once more is a number given twice.
    (file,) = tmp_path.glob("test-?.json")
    file.write_text("{")
    time.sleep(0.01)
    assert read(tmp_path)[0] > again.number > made.number


def test_a_later_version_is_set_aside_whole_and_the_one_before_holds(tmp_path: Path) -> None:
    made = document(tmp_path)
    write(made, "one")
    later = Document(tmp_path, "test", 2, 4096, decode)
    later.read()
    write(later, "two")
    text = (tmp_path / "test-2.json").read_text()
    _, content, (problem,) = read(tmp_path)
    assert content == "one"
    assert problem == (
        "the state file test-2.json is of a later version and set aside as test-2.newer (version 2; this program reads up to 1)"
    )
    assert (tmp_path / "test-2.newer").read_text() == text


def test_an_older_version_and_keys_that_nobody_knows_are_read(tmp_path: Path) -> None:
    (tmp_path / "test-1.json").write_text('{"number": 7, "more": [1], "content": "old", "version": 1, "format": "mom-test"}')
    made = Document(tmp_path, "test", 3, 4096, decode)
    assert made.read() == ("old", [])
    assert made.number == 7


def test_without_a_folder_nothing_is_kept_and_with_a_missing_one_that_is_said(tmp_path: Path) -> None:
    nowhere: Document[str] = Document(None, "test", 1, 4096, decode)
    assert nowhere.read() == (None, [])
    write(nowhere, "x")
    missing = document(tmp_path / "missing")
    assert missing.read() == (None, ["the state folder can't be used until the next start: No such file or directory"])


def test_what_was_not_seen_at_the_start_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = document(folder)
    made.read()
    folder.mkdir()
    write(before := document(folder), "acknowledged by another process")
    with pytest.raises(OSError, match="No such file"):
        write(made, "x")
    assert read(folder) == (before.number, "acknowledged by another process", [])


def test_a_damaged_file_that_cannot_be_set_aside_stops_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test-1.json").write_text("{")
    made = document(tmp_path)

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        _, (problem,) = made.read()
    assert "is damaged and can't be set aside: Read-only file system" in problem
    with pytest.raises(OSError, match="Read-only"):
        write(made, "x")
