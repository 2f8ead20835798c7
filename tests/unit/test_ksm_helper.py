# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper's rules, on a folder of plain files that behaves as the kernel's does. The real one: test_ksm_real.py."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from momhelper import ksm
from momhelper.ksm import TABLE, Knobs
from momservice.bus.connection import ERROR, CallError

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
T = TypeVar("T")


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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ksm").mkdir()
    for name, value in FOUND.items():
        (tmp_path / "ksm" / name).write_text(MODES[value] if name == "advisor_mode" else f"{value}\n")
    for name in ("pages_shared", "pages_sharing", "ksm_zero_pages"):
        (tmp_path / "ksm" / name).write_text("0\n")
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text(BOOT)
    memory(tmp_path, 1_000_000)
    return tmp_path


@pytest.fixture
def kernel(root: Path) -> Iterator[Kernel]:
    kernel = Kernel(root)
    yield kernel
    kernel.may_begin.set()
    kernel.may_unmerge.set()


def memory(root: Path, available_kib: int) -> None:
    (root / "proc/meminfo").write_text(f"MemTotal: 2000000 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\nHugePages_Total: 0\n")


def within_seconds(work: Callable[[], T]) -> T:
    """What the work gives; fails rather than hangs."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results
    return results[0]


def refusal(kernel: Kernel, **wanted: int) -> CallError:
    with pytest.raises(CallError) as caught:
        kernel.apply(wanted)
    assert kernel.written == []
    assert kernel.saved == {}
    return caught.value


def test_the_table_is_what_the_kernel_has(kernel: Kernel) -> None:
    assert kernel.read() == FOUND
    assert FOUND.keys() == TABLE.keys()


def test_what_differs_is_written_run_last(kernel: Kernel) -> None:
    wanted = {"run": 1, "pages_to_scan": 200, "sleep_millisecs": 20, "smart_scan": 0}
    assert kernel.apply(wanted) == wanted
    assert sorted(kernel.written[:-1]) == [("pages_to_scan", 200), ("smart_scan", 0)]
    assert kernel.written[-1] == ("run", 1)


def test_nothing_to_change_leaves_nothing_to_restore(kernel: Kernel) -> None:
    assert kernel.apply(FOUND) == FOUND
    assert (kernel.written, kernel.saved) == ([], {})


@pytest.mark.parametrize(
    ("knob", "value", "written"),
    [
        ("sleep_millisecs", 0, 10),
        ("pages_to_scan", 0, 1),
        ("max_page_sharing", 0, 2),
        ("max_page_sharing", 2**32 - 1, 2**31 - 1),
        ("advisor_max_cpu", 999, 100),
    ],
)
def test_absurd_numbers_are_clamped(kernel: Kernel, knob: str, value: int, written: int) -> None:
    assert kernel.apply({knob: value}) == {knob: written}


@pytest.mark.parametrize("knob", ["run", "merge_across_nodes", "use_zero_pages", "smart_scan", "advisor_mode"])
def test_a_switch_position_that_there_is_not_is_refused(kernel: Kernel, knob: str) -> None:
    error = refusal(kernel, **{knob: 3})
    assert error.name == "org.ovirt.Mom1.Error.OutOfRange"
    assert error.text.startswith(f"{knob}: 3 is not between 0 and ")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "pages_shared", "", ".", "run\n", "x" * 5000, "RUN", "kşm"])
def test_other_names_are_refused(kernel: Kernel, name: str) -> None:
    error = refusal(kernel, **{name: 1, "run": 1})
    assert error.name == ERROR + "InvalidArgs"
    assert "this kernel has no such knob" in error.text
    assert len(error.text) < 200
    assert "\n" not in error.text


def test_the_error_names_every_bad_knob(kernel: Kernel) -> None:
    kernel.share(5)
    error = refusal(kernel, run=1, merge_across_nodes=0, nonsense=1, smart_scan=7)
    assert [part.split(":")[0] for part in error.text.split("; ")] == ["merge_across_nodes", "nonsense", "smart_scan"]


def test_a_knob_that_this_kernel_lacks_is_refused_and_the_others_work(root: Path) -> None:
    (root / "ksm/smart_scan").unlink()
    kernel = Kernel(root)
    assert refusal(kernel, smart_scan=0, run=1).text.startswith("smart_scan: this kernel has no such knob")
    assert kernel.apply({"run": 1}) == {"run": 1}


def test_a_kernel_without_ksm(tmp_path: Path, root: Path) -> None:
    kernel = Knobs(tmp_path / "nothing", tmp_path / "state", root / "proc")
    assert kernel.read() == {}
    with pytest.raises(CallError, match=r"^run: this kernel has no such knob$"):
        kernel.apply({"run": 1})
    assert kernel.restore()


def test_a_symbolic_link_is_no_knob(root: Path) -> None:
    target = root / "target"
    target.write_text("100\n")
    (root / "ksm/pages_to_scan").unlink()
    (root / "ksm/pages_to_scan").symlink_to(target)
    assert "pages_to_scan" in refusal(Kernel(root), pages_to_scan=5).text
    assert target.read_text() == "100\n"


def test_a_link_put_in_place_of_a_knob_later_is_not_followed(root: Path) -> None:
    knobs, target = Knobs(root / "ksm", root / "state", root / "proc"), root / "target"
    target.write_text("100\n")
    (root / "ksm/run").unlink()
    (root / "ksm/run").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links") as caught:
        knobs._write("run", 1)
    assert caught.value.errno == errno.ELOOP
    assert target.read_text() == "100\n"


def test_a_link_in_place_of_the_folder_is_refused(root: Path) -> None:
    (root / "link").symlink_to(root / "ksm")
    with pytest.raises(NotADirectoryError):
        Knobs(root / "link", root / "state", root / "proc")


def test_pages_to_scan_switches_the_advisor_off_first_and_says_so(kernel: Kernel) -> None:
    kernel.set("advisor_mode", 1)
    assert kernel.apply({"pages_to_scan": 300}) == {"pages_to_scan": 300, "advisor_mode": 0}
    assert kernel.written == [("advisor_mode", 0), ("pages_to_scan", 300)]
    assert kernel.restore()
    assert kernel.read()["advisor_mode"] == 1


def test_switching_the_advisor_on_gives_pages_to_scan_back_at_the_end(kernel: Kernel) -> None:
    kernel.set("pages_to_scan", 123)
    kernel.apply({"advisor_mode": 1})
    assert kernel.read()["pages_to_scan"] == 500
    kernel.restore()
    assert kernel.read() == {**FOUND, "pages_to_scan": 123}


def test_pages_to_scan_is_left_to_an_advisor_that_is_asked_for(kernel: Kernel) -> None:
    assert kernel.apply({"advisor_mode": 1, "pages_to_scan": 300}) == {"advisor_mode": 1, "pages_to_scan": 500}
    assert kernel.written == [("advisor_mode", 1)]


@pytest.mark.parametrize("knob", ["merge_across_nodes", "max_page_sharing"])
def test_what_needs_unshared_pages_is_refused_while_there_are_shared_ones(kernel: Kernel, knob: str) -> None:
    kernel.share(1)
    assert refusal(kernel, **{knob: 0}).name == "org.ovirt.Mom1.Error.Busy"
    assert kernel.apply({knob: FOUND[knob]}) == {knob: FOUND[knob]}
    kernel.share(0)
    kernel.apply({knob: 0})
    assert len(kernel.written) == 1


def test_all_or_nothing_when_the_kernel_refuses_one(kernel: Kernel) -> None:
    kernel.set("advisor_mode", 1)
    kernel.set("pages_to_scan", 500)
    before = kernel.read()
    kernel.refuse = {"run"}
    with pytest.raises(CallError) as caught:
        kernel.apply({"pages_to_scan": 300, "sleep_millisecs": 30, "run": 1})
    assert (caught.value.name, caught.value.text) == (ERROR + "IOError", "run: Input/output error")
    assert kernel.read() == before
    assert [name for name, _ in kernel.written].count("sleep_millisecs") == 2


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
def test_knobs_of_which_nothing_could_be_set_are_left_to_others(kernel: Kernel, root: Path, wanted: dict[str, int]) -> None:
    kernel.refuse = {"run"}
    with pytest.raises(CallError):
        kernel.apply(wanted)
    kernel.set("pages_to_scan", 777)
    assert Kernel(root).saved == {}
    assert kernel.restore()
    assert kernel.read() == FOUND | {"pages_to_scan": 777}


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


def test_restore_puts_everything_back_and_forgets(kernel: Kernel, root: Path) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200})
    kernel.apply({"pages_to_scan": 300, "merge_across_nodes": 0})
    assert kernel.restore()
    assert kernel.read() == FOUND
    assert kernel.saved == {}
    assert Kernel(root).saved == {}


def test_a_killed_helper_leaves_enough_for_the_next(kernel: Kernel, root: Path) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200})
    following = Kernel(root)
    following.apply({"sleep_millisecs": 50})
    assert Kernel(root).restore()
    assert kernel.read() == FOUND


def test_a_boot_makes_the_file_void(kernel: Kernel, root: Path) -> None:
    kernel.apply({"run": 1})
    (root / "proc/sys/kernel/random/boot_id").write_text("00000000-0000-4000-8000-0000000000b8\n")
    following = Kernel(root)
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
def test_a_damaged_file_is_set_aside_and_reported(root: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (root / "state").mkdir()
    saved = root / "state/saved.json"
    saved.write_bytes(text.replace('"b"', json.dumps(BOOT)).encode("latin-1")[: 65536 + 100])
    kernel = Kernel(root)
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
def test_only_a_regular_file_is_read(root: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    (root / "state").mkdir()
    make(root / "state/saved.json")
    kernel = within_seconds(lambda: Kernel(root))
    assert kernel.saved == {}
    assert "damaged and set aside" in caplog.text
    kernel.apply({"run": 1})
    assert json.loads((root / "state/saved.json").read_text())["knobs"] == FOUND


@pytest.mark.parametrize("make", [fifo, Path.mkdir])
def test_a_damaged_file_that_cannot_be_set_aside_is_left(root: Path, make: Callable[[Path], None]) -> None:
    (root / "state/saved.damaged/full").mkdir(parents=True)
    make(root / "state/saved.json")
    kernel = within_seconds(lambda: Kernel(root))
    assert kernel.restore()
    assert kernel.written == []


def test_the_new_file_is_never_written_into_something_old(kernel: Kernel) -> None:
    kernel.state.mkdir()
    fifo(kernel.state / "saved.new")
    within_seconds(lambda: kernel.apply({"run": 1}))
    assert json.loads((kernel.state / "saved.json").read_text())["knobs"] == FOUND


def test_unmerging_is_answered_at_once_and_holds_nobody_up(kernel: Kernel) -> None:
    kernel.share(1000)
    kernel.may_unmerge.clear()
    assert kernel.apply({"run": 2, "sleep_millisecs": 50}) == {"run": 2, "sleep_millisecs": 50}
    assert kernel.figure("pages_sharing") == 1000
    # What the kernel would block for is refused, anything else goes on.
    for knob in ("run", "merge_across_nodes", "max_page_sharing"):
        with pytest.raises(CallError, match=f"^{knob}: the kernel takes it only while"):
            kernel.apply({knob: 0})
    assert kernel.apply({"run": 2, "pages_to_scan": 400}) == {"run": 2, "pages_to_scan": 400}
    # Restore doesn't wait, and finishes later.
    assert not kernel.restore()
    assert kernel.saved.keys() == {"run", "merge_across_nodes", "max_page_sharing"}
    assert kernel.read() == {**FOUND, "run": 2}
    kernel.wait()
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_an_unmerge_that_waits_for_ksmd_is_under_way(kernel: Kernel) -> None:
    kernel.may_begin.clear()
    kernel.apply({"run": 2})
    assert kernel.read()["run"] == 2
    with pytest.raises(CallError, match=r"^run: the kernel takes it only while"):
        kernel.apply({"run": 0})
    kernel.may_begin.set()
    assert kernel.restore(wait_s=30)
    assert kernel.read() == FOUND


def test_restore_may_wait_for_unmerging(kernel: Kernel) -> None:
    kernel.share(1000)
    kernel.may_unmerge.clear()
    kernel.apply({"run": 2})
    threading.Timer(0.05, kernel.may_unmerge.set).start()
    assert kernel.restore(wait_s=30)
    assert kernel.read() == FOUND


@pytest.mark.parametrize(("pages", "fits"), [(225_000, True), (225_001, False)])
def test_unmerging_needs_room_for_the_pages_and_a_twentieth_of_all_memory(kernel: Kernel, root: Path, pages: int, fits: bool) -> None:
    memory(root, 100_000 + 225_000 * os.sysconf("SC_PAGE_SIZE") // 1024)
    kernel.share(pages)
    if fits:
        assert kernel.apply({"run": 2}) == {"run": 2}
    else:
        assert refusal(kernel, run=2).text == "run: the host has no room for the unmerged pages"


def test_unmerging_nothing_needs_no_room(kernel: Kernel, root: Path) -> None:
    memory(root, 1)
    assert kernel.apply({"run": 2}) == {"run": 2}


def test_merged_empty_pages_need_room_as_well(kernel: Kernel, root: Path) -> None:
    memory(root, 100_000)
    kernel.set("ksm_zero_pages", 1)
    assert "no room" in refusal(kernel, run=2).text


def test_unmerging_is_limited_in_rate(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.apply({"run": 2})
        kernel.wait()
        kernel.apply({"run": 1})
    with pytest.raises(CallError, match=r"^run: pages were unmerged a short while ago") as caught:
        kernel.apply({"run": 2})
    assert caught.value.name == ERROR + "LimitsExceeded"


def test_restore_unmerges_for_what_needs_it_if_there_is_room(kernel: Kernel) -> None:
    kernel.apply({"merge_across_nodes": 0, "run": 1})
    kernel.share(1000)
    assert kernel.restore(wait_s=30)
    assert kernel.written.count(("run", 2)) == 1
    assert kernel.read() == FOUND


def test_without_room_it_stays_in_the_file_and_goes_back_later(kernel: Kernel, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel.apply({"merge_across_nodes": 0, "max_page_sharing": 99, "run": 1})
    kernel.share(1000)
    memory(root, 1)
    for _ in range(3):
        assert not kernel.restore()
    assert kernel.read() == {**FOUND, "merge_across_nodes": 0, "max_page_sharing": 99}
    assert json.loads((kernel.state / "saved.json").read_text())["knobs"] == {"merge_across_nodes": 1, "max_page_sharing": 256}
    assert len([record for record in caplog.records if "not yet" in record.message and record.levelname == "WARNING"]) == 1
    kernel.share(0)
    assert Kernel(root).restore()
    assert kernel.read() == FOUND


def test_what_is_still_to_go_back_is_not_forgotten_by_the_next_write(kernel: Kernel, root: Path) -> None:
    kernel.apply({"merge_across_nodes": 0})
    kernel.share(1000)
    memory(root, 1)
    kernel.restore()
    kernel.apply({"run": 1})
    assert Kernel(root).saved == FOUND


def test_pages_shared_do_not_keep_back_what_is_as_it_was(kernel: Kernel) -> None:
    kernel.apply({"run": 1})
    kernel.share(1000)
    assert kernel.restore()
    assert (kernel.read(), kernel.figure("pages_sharing")) == (FOUND, 1000)


def test_found_unmerged_is_restored_only_with_room(kernel: Kernel, root: Path) -> None:
    kernel.set("run", 2)
    kernel.apply({"run": 1})
    kernel.share(1000)
    memory(root, 1)
    assert not kernel.restore()
    assert kernel.read()["run"] == 1
    memory(root, 1_000_000)
    assert kernel.restore(wait_s=30)
    assert kernel.read()["run"] == 2


def test_pages_unmerged_in_no_time_keep_nothing_back(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(threading.Thread):
        """Has ended before anybody looks."""

        def start(self) -> None:
            super().start()
            self.join()

    kernel.apply({"merge_across_nodes": 0, "run": 1})
    kernel.share(1)
    monkeypatch.setattr(ksm, "threading", SimpleNamespace(Thread=Quick))
    assert kernel.restore()
    assert kernel.read() == FOUND


def test_a_refused_knob_keeps_none_of_the_others_back(kernel: Kernel) -> None:
    kernel.apply({"run": 1, "pages_to_scan": 200, "sleep_millisecs": 30})
    kernel.refuse = {"pages_to_scan"}
    assert not kernel.restore()
    assert kernel.saved == {"pages_to_scan": 100}
    assert kernel.read() == {**FOUND, "pages_to_scan": 200}


def test_a_wrong_option_gives_usage_and_touches_nothing() -> None:
    code = "import sys; from momhelper.ksm import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, "--folder=/tmp"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "usage: momhelper [--restore]\n")


def test_the_root_code_stays_small() -> None:
    files = [Path(ksm.__file__), Path(ksm.__file__).with_name("gate.py")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 300
