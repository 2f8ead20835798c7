# SPDX-License-Identifier: GPL-2.0-or-later
"""What momhelper lets callers do to the knobs, on a folder of plain files."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ksm_folder import FOUND, Kernel, furnish, opened, refusal

from momhelper import ksm
from momhelper.ksm import TABLE, Knobs
from momservice.bus.connection import ERROR, CallError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return furnish(tmp_path)


@pytest.fixture
def kernel(root: Path) -> Iterator[Kernel]:
    with opened(root) as kernel:
        yield kernel


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


def test_a_wrong_option_gives_usage_and_touches_nothing() -> None:
    code = "import sys; from momhelper.ksm import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, "--folder=/tmp"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "usage: momhelper [--restore]\n")


def test_the_root_code_stays_small() -> None:
    files = [Path(ksm.__file__), Path(ksm.__file__).with_name("gate.py")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 300
