# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl without a service: what works off line, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "conformance" / "language-cases.json"
NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/bus", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
UTF8 = {"PYTHONUTF8": "1"}


def momctl(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "momservice.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=NO_BUS | UTF8 | environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def cases_file(folder: Path, *cases: dict[str, Any]) -> Path:
    file = folder / "cases.json"
    file.write_text(json.dumps({"cases": cases}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def conformance() -> subprocess.CompletedProcess[str]:
    return momctl("policy", "test", CASES)


def test_the_conformance_file_runs_and_is_counted(conformance: subprocess.CompletedProcess[str]) -> None:
    passed, failed = (int(word) for word in conformance.stdout.splitlines()[-1].replace(",", "").split()[::2])
    assert passed + failed == len(json.loads(CASES.read_text(encoding="utf-8"))["cases"])
    assert conformance.returncode == (1 if failed else 0)
    assert conformance.stderr == ""


def test_a_failed_case_prints_what_differs(tmp_path: Path) -> None:
    good = {"name": "good", "policy": "(+ 1 2)", "expect": {"results": [3]}}
    bad = {"name": "bad", "policies": {"a": "(defvar x 1)", "b": "x"}, "expect": {"results": [1, 2]}}
    done = momctl("policy", "test", cases_file(tmp_path, good, bad))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'cases.json'}: bad:",
        "    results",
        "        got       [1, 1]",
        "        expected  [1, 2]",
        "1 passed, 1 failed",
    ]


def test_cases_as_json(tmp_path: Path) -> None:
    done = momctl("policy", "test", "--json", cases_file(tmp_path, {"name": "good", "policy": "7", "expect": {"results": [7]}}))
    answer = json.loads(done.stdout)
    assert (answer["passed"], answer["failed"], answer["cases"][0]["name"], done.returncode) == (1, 0, "good", 0)


def test_a_file_that_holds_no_cases_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    done = momctl("policy", "test", tmp_path / "x.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_a_good_policy_is_checked_without_a_service(tmp_path: Path) -> None:
    (tmp_path / "10_a.policy").write_text('(Host.Control "ksm_run" 1)', encoding="utf-8")
    done = momctl("policy", "check", tmp_path / "10_a.policy")
    assert (done.returncode, done.stdout) == (0, "10_a: no errors, no warnings\n")


def test_a_bad_policy_is_shown_with_place_and_caret(tmp_path: Path) -> None:
    (tmp_path / "10_a.policy").write_text("(defvar a 1)\n(+ a bb)", encoding="utf-8")
    done = momctl("policy", "check", tmp_path / "10_a.policy")
    assert done.returncode == 1
    finding, line, caret, count = done.stdout.splitlines()
    assert finding.startswith("error: 10_a:2:6: ")
    assert (line, caret) == ("(+ a bb)", "     ^")
    assert count == "10_a: 1 error, no warnings"


def test_check_reads_files_as_one_set(tmp_path: Path) -> None:
    for name, text in (("a", "(defvar x 1)"), ("b", "(+ x 1)")):
        (tmp_path / f"{name}.policy").write_text(text, encoding="utf-8")
    assert momctl("policy", "check", tmp_path / "b.policy").returncode == 1
    assert momctl("policy", "check", tmp_path / "b.policy", tmp_path / "a.policy").returncode == 0


def test_check_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("(", encoding="utf-8")
    done = momctl("policy", "check", "--json", tmp_path / "a.policy")
    (found,) = json.loads(done.stdout)["diagnostics"]
    assert (found["severity"], found["code"], found["fragment"], found["line"], done.returncode) == ("error", "parse", "a", 1, 1)


def test_check_reads_standard_input() -> None:
    assert momctl("policy", "check", "-", stdin="(+ 1 2)").stdout == "50_main_: no errors, no warnings\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no.policy", None, "No such file"),
        ("a b.policy", b"1", "can't name a policy"),
        ("x.policy", b"\xff", "not UTF-8"),
        ("big.policy", b"#" * (1 << 21), "over"),
    ],
    ids=["missing", "no name", "no text", "big"],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for verb in ("check", "set"):
        done = momctl("policy", verb, tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert said in done.stderr


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.policy").write_text("1", encoding="utf-8")
    assert "another file" in momctl("policy", "set", tmp_path / "x" / "a.policy", tmp_path / "y" / "a.policy").stderr


ONLINE = (
    ["status"],
    ["stats"],
    ["stats", "vm1"],
    ["policy", "get"],
    ["policy", "set", "-"],
    ["policy", "remove", "x"],
    ["policy", "reset"],
    ["policy", "try", "-"],
    ["explain", "vm1"],
    ["explain", "host", "--runs", "3"],
    ["record", "-"],
    ["params"],
    ["params", "get", "x"],
    ["params", "set", "x=1"],
    ["params", "replace"],
    ["pause"],
    ["resume"],
    ["reload"],
    ["log-level", "debug"],
    ["guests"],
    ["ksm"],
    ["metrics"],
    ["top"],
    ["monitor"],
)


@pytest.mark.parametrize("arguments", ONLINE, ids=" ".join)
def test_without_a_bus_every_verb_says_so_and_exits_3(arguments: list[str]) -> None:
    done = momctl(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "cannot connect to the system bus" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["policy"],
        ["policy", "set"],
        ["policy", "test"],
        ["policy", "eval", "x"],
        ["policy", "eval", "--snapshot", "x", "--param", "y", "z"],
        ["policy", "format", "--check", "--write", "x"],
        ["policy", "try"],
        ["policy", "replay", "x"],
        ["explain"],
        ["explain", "vm1", "--runs", "11"],
        ["record"],
        ["record", "x", "--seconds", "0"],
        ["record", "x", "--seconds", "1", "--snapshots", "1"],
        ["params", "set"],
        ["params", "set", "x"],
        ["pause", "--for", "-1"],
        ["pause", "--for", "10 minutes"],
        ["log-level"],
        ["log-level", "loud"],
        ["top", "--interval", "0"],
        ["top", "--sort", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = momctl(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["status"],
        ["policy", "set"],
        ["policy", "check"],
        ["policy", "eval"],
        ["policy", "test"],
        ["policy", "format"],
        ["policy", "try"],
        ["policy", "replay"],
        ["explain"],
        ["record"],
        ["params", "set"],
        ["stats"],
        ["top"],
        ["monitor"],
        ["pause"],
    ],
    ids=" ".join,
)
def test_every_verb_has_help(arguments: list[str]) -> None:
    done = momctl(*arguments, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_the_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("(+ 1 ünknown)", encoding="utf-8")
    done = momctl("policy", "check", tmp_path / "a.policy", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["policy", "check", "--json"], ["--json", "policy", "check"]], ids=" ".join)
def test_json_may_be_asked_for_before_and_after_the_verb(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.policy").write_text("1", encoding="utf-8")
    done = momctl(*arguments, tmp_path / "a.policy")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"diagnostics": []}, "")


def interrupted(verb: str, folder: Path, held: Callable[[], bool]) -> tuple[int, bytes, bytes]:
    """How momctl ends that gets SIGINT when it is held."""
    # Whoever runs the tests in the background has them ignore Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "momservice.cli", *verb.split()]
    environment = NO_BUS | {"PYTHONPATH": f"{folder}:{ROOT}"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not held() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=50)
    return process.returncode, *said


def test_an_interrupt_while_it_imports_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "dbus_next.py").write_text("import pathlib, time; pathlib.Path('held').touch(); time.sleep(60)", encoding="utf-8")
    assert interrupted("status", tmp_path, (tmp_path / "held").exists) == (-signal.SIGINT, b"", b"")


def test_an_interrupt_while_it_waits_ends_it_without_a_word(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.policy")
    writers: list[int] = []

    def reads() -> bool:
        with suppress(OSError):
            writers.append(os.open(tmp_path / "a.policy", os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    assert interrupted("policy check a.policy", tmp_path, reads) == (-signal.SIGINT, b"", b"")
    os.close(writers[0])


def test_an_interrupt_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    code = "import os, pathlib, signal; os.kill(os.getpid(), signal.SIGINT); raise ImportError('still here')"
    (tmp_path / "dbus_next.py").write_text(code, encoding="utf-8")
    command = ["sh", "-c", "trap '' INT; exec \"$0\" -m momservice.cli status", sys.executable]
    done = subprocess.run(command, cwd=ROOT, env=NO_BUS | {"PYTHONPATH": f"{tmp_path}"}, capture_output=True, text=True, check=False)
    assert "still here" in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m momservice.cli policy test --json {CASES} | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=NO_BUS, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.parametrize(
    ("output", "said"),
    [("> /dev/full", "momctl: cannot write the output: No space left on device\n"), (">&-", "momctl: standard output is closed\n")],
)
def test_output_that_cannot_be_written_is_told_in_a_line(tmp_path: Path, output: str, said: str) -> None:
    (tmp_path / "a.policy").write_text("1", encoding="utf-8")
    command = f"{sys.executable} -m momservice.cli policy check {tmp_path}/a.policy {output}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=NO_BUS, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, said)


TELLING = [
    ["--help"],
    ["--version"],
    ["policy", "--help"],
    ["status", "--help"],
    ["policy", "check", "conf/policy.d/10_ksm.policy"],
    ["policy", "check", "--json", "conf/policy.d/10_ksm.policy"],
    ["policy", "format", "conf/policy.d/10_ksm.policy"],
    ["policy", "test", str(CASES)],
]
# With buffers the disk is found full at the end, without them at once.
BUFFERS = [{}, {"PYTHONUNBUFFERED": "1"}]


def written_to(output: int, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "momservice.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=NO_BUS | UTF8 | environment, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("environment", BUFFERS, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", TELLING, ids=" ".join)
def test_a_full_disk_is_told_in_one_line(arguments: list[str], environment: dict[str, str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = written_to(full, arguments, environment)
    finally:
        os.close(full)
    assert (done.returncode, done.stderr) == (1, "momctl: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("environment", BUFFERS, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", TELLING, ids=" ".join)
def test_a_reader_that_has_gone_is_no_news(arguments: list[str], environment: dict[str, str]) -> None:
    end, pipe = os.pipe()
    os.close(end)
    try:
        done = written_to(pipe, arguments, environment)
    finally:
        os.close(pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("errors", ["2> /dev/full", "2>&-"])
def test_the_exit_status_is_right_where_complaints_can_not_be_written(errors: str) -> None:
    for verb, status in (("status", 3), ("policy check /nonexistent", 1), ("nonsense", 2)):
        command = f"{sys.executable} -m momservice.cli {verb} {errors}"
        assert subprocess.run(["sh", "-c", command], cwd=ROOT, env=NO_BUS, timeout=60, check=False).returncode == status


@pytest.mark.parametrize("environment", BUFFERS, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize(("module", "name"), [("momservice", "momservice"), ("momservice.bridge", "mom-rpc-bridge")])
def test_the_other_programs_end_in_the_same_way(module: str, name: str, option: str, environment: dict[str, str]) -> None:
    for where, said in (("> /dev/full", f"{name}: cannot write the output: No space left on device\n"), ("| head -0", "")):
        command = f"set -o pipefail; {sys.executable} -m {module} {option} {where}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=NO_BUS | environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout, done.stderr) == ("", said)
        # A reader that has only just gone may be missed.
        assert done.returncode in ((1,) if said else (0, 1))
