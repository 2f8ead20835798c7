# SPDX-License-Identifier: GPL-2.0-or-later
"""What momhelper remembers of the knobs as it found them, on a folder of plain files."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from ksm_folder import BOOT, FOUND, Kernel

from momservice.bus.connection import ERROR, CallError

T = TypeVar("T")


def within_seconds(work: Callable[[], T]) -> T:
    """What the work gives; fails rather than hangs."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results
    return results[0]


def test_without_a_place_to_save_nothing_is_written(kernel: Kernel) -> None:
    kernel.state.write_text("not a folder")
    with pytest.raises(CallError, match="run: ") as caught:
        kernel.apply({"run": 1})
    assert caught.value.name == ERROR + "IOError"
    assert kernel.written == []


def test_what_was_found_is_on_disk_before_the_first_write(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, value: int) -> None:
        assert json.loads((kernel.state / "saved.json").read_text()) == {"boot": BOOT, "knobs": FOUND}
        kernel.set(name, value)

    monkeypatch.setattr(kernel, "_write", write)
    assert kernel.apply({"run": 1}) == {"run": 1}


@pytest.mark.parametrize("wanted", [{"run": 1}, {"sleep_millisecs": 30, "run": 1}])
def test_knobs_of_which_nothing_could_be_set_are_left_to_others(kernel: Kernel, kernel_root: Path, wanted: dict[str, int]) -> None:
    kernel.refuse = {"run"}
    with pytest.raises(CallError):
        kernel.apply(wanted)
    kernel.set("pages_to_scan", 777)
    assert Kernel(kernel_root).saved == {}
    assert kernel.restore()
    assert kernel.read() == FOUND | {"pages_to_scan": 777}


def test_a_refusal_also_undoes_what_switching_the_advisor_did(kernel: Kernel, kernel_root: Path) -> None:
    kernel.set("pages_to_scan", 777)
    kernel.refuse = {"run"}
    with pytest.raises(CallError):
        kernel.apply({"advisor_mode": 1, "run": 1})
    assert kernel.read() == FOUND | {"pages_to_scan": 777}
    assert Kernel(kernel_root).saved == {}


def test_what_could_not_be_undone_is_put_back_later(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, value: int) -> None:
        if (name, value) != ("sleep_millisecs", 30):
            raise OSError(errno.EIO, "Input/output error")
        kernel.set(name, value)

    with monkeypatch.context() as fault:
        fault.setattr(kernel, "_write", write)
        with pytest.raises(CallError):
            kernel.apply({"sleep_millisecs": 30, "run": 1})
    assert kernel.read() == FOUND | {"sleep_millisecs": 30}
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_a_refusal_forgets_nothing_of_what_was_set_before(kernel: Kernel) -> None:
    kernel.apply({"pages_to_scan": 200})
    kernel.refuse = {"run"}
    with pytest.raises(CallError):
        kernel.apply({"run": 1})
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_restore_puts_everything_back_and_forgets(kernel: Kernel, kernel_root: Path) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200})
    kernel.apply({"pages_to_scan": 300, "merge_across_nodes": 0})
    assert kernel.restore()
    assert kernel.read() == FOUND
    assert kernel.saved == {}
    assert Kernel(kernel_root).saved == {}


def test_a_killed_helper_leaves_enough_for_the_next(kernel: Kernel, kernel_root: Path) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200})
    following = Kernel(kernel_root)
    following.apply({"sleep_millisecs": 50})
    assert Kernel(kernel_root).restore()
    assert kernel.read() == FOUND


def test_a_boot_makes_the_file_void(kernel: Kernel, kernel_root: Path) -> None:
    kernel.apply({"run": 1})
    (kernel_root / "proc/sys/kernel/random/boot_id").write_text("00000000-0000-4000-8000-0000000000b8\n")
    following = Kernel(kernel_root)
    assert following.restore()
    assert following.written == []
    assert following.read()["run"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"boot": "b", "knobs": []}',
        '{"boot": "b", "knobs": {"run": "1"}}',
        '{"boot": "b", "knobs": {"run": 3}}',
        '{"boot": "b", "knobs": {"run": -1}}',
        '{"boot": "b", "knobs": {"run": 0.5}}',
        '{"boot": "b", "knobs": {"run": NaN}}',
        '{"boot": "b", "knobs": {"run": null}}',
        '{"boot": "b", "knobs": {"run": [1]}}',
        '{"boot": "b", "knobs": {"max_page_sharing": 1}}',
        '{"boot": "b", "knobs": {"advisor_max_cpu": 101}}',
        '{"boot": "b", "knobs": {"../../../../etc/passwd": 1}}',
        '{"knobs": {"run": 1}}',
        "[" * 60000,
        '{"boot": "b", "knobs": {"run": ' + "1" * 60000 + "}}",
        '{"boot": "b", "knobs": {"run": 1}}' + " " * 65536 + "x",
        "\xff",
    ],
)
def test_a_damaged_file_is_set_aside_and_reported(kernel_root: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (kernel_root / "state").mkdir()
    saved = kernel_root / "state/saved.json"
    saved.write_bytes(text.replace('"b"', json.dumps(BOOT)).encode("latin-1")[: 65536 + 100])
    kernel = Kernel(kernel_root)
    if text.endswith("x"):
        # Beyond 64 KiB nothing is read.
        assert kernel.saved == {"run": 1}
        return
    assert kernel.saved == {}
    assert kernel.restore()
    assert kernel.written == []
    assert "damaged and set aside" in caplog.text
    assert not saved.exists()
    assert saved.with_suffix(".damaged").exists()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def held_fifo(path: Path) -> None:
    """One that a writer has put valid content into."""
    os.mkfifo(path)
    os.write(os.open(path, os.O_RDWR), json.dumps({"boot": BOOT, "knobs": {"run": 1}}).encode())


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path) -> None:
    path.with_name("elsewhere").write_text(json.dumps({"boot": BOOT, "knobs": {"run": 1}}))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [fifo, held_fifo, endless, link, Path.mkdir])
def test_only_a_regular_file_is_read(kernel_root: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    (kernel_root / "state").mkdir()
    make(kernel_root / "state/saved.json")
    kernel = within_seconds(lambda: Kernel(kernel_root))
    assert kernel.saved == {}
    assert "damaged and set aside" in caplog.text
    kernel.apply({"run": 1})
    assert json.loads((kernel_root / "state/saved.json").read_text())["knobs"] == FOUND


@pytest.mark.parametrize("make", [fifo, Path.mkdir])
def test_a_damaged_file_that_cannot_be_set_aside_is_left(kernel_root: Path, make: Callable[[Path], None]) -> None:
    (kernel_root / "state/saved.damaged/full").mkdir(parents=True)
    make(kernel_root / "state/saved.json")
    kernel = within_seconds(lambda: Kernel(kernel_root))
    assert kernel.restore()
    assert kernel.written == []


def test_the_new_file_is_never_written_into_something_old(kernel: Kernel) -> None:
    kernel.state.mkdir()
    fifo(kernel.state / "saved.new")
    within_seconds(lambda: kernel.apply({"run": 1}))
    assert json.loads((kernel.state / "saved.json").read_text())["knobs"] == FOUND
