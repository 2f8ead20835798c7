# SPDX-License-Identifier: GPL-2.0-or-later
"""What momctl does with policies and without a service: check, eval, test and format, in this process."""

from __future__ import annotations

import io
import json
import random
import stat
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from momservice.bus.names import TEXT_BYTES
from momservice.cli import command
from momservice.snapshot import HOST, Entity, Snapshot
from momservice.snapshot_text import write_snapshot

ROOT = Path(__file__).parents[2]
SEED = ROOT / "tests" / "data" / "mom.policy"
OURS = ROOT / "conf" / "policy.d"


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def momctl(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Done:
        return Done(command.main([str(argument) for argument in arguments]), *capsys.readouterr())

    return run


def policy(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.policy"
    file.write_text(text, encoding="utf-8")
    return file


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    guests = [Entity(uuid(n), [{"balloon_cur": 1000 * n, "mem_unused": 10}], {"name": f"vm{n}", "uuid": uuid(n)}) for n in (1, 2)]
    taken = Snapshot(Entity(HOST, [{"mem_free": 500}], {"interval": 5}), guests, {"factor": 2})
    file = tmp_path / "snapshot.json"
    file.write_text(write_snapshot(taken))
    return file


# --- check -------------------------------------------------------------------------------------------------------------------------------

DEAD = '(Host.Control "balloon_target" 1)'


def test_warnings_are_no_errors_unless_asked_for(tmp_path: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", DEAD)
    assert momctl("policy", "check", file).status == 0
    assert momctl("policy", "check", "--warnings-are-errors", file).status == 1
    assert momctl("policy", "check", "--warnings-are-errors", policy(tmp_path, "b", "1")).status == 0


def test_editors_get_the_file_and_one_line_for_each_finding(tmp_path: Path, momctl: Any) -> None:
    file = policy(tmp_path, "10_a", "(defvar known 1)\n(+ knwon 1)\n(-)")
    done = momctl("policy", "check", "--editor", file)
    first, second = done.out.splitlines()
    assert first.startswith(f"{file}:2:4: error: ")
    assert "known" in first.split("(")[-1]
    assert second.startswith(f"{file}:3:2: error: ")
    assert done.status == 1
    assert momctl("policy", "check", "--editor", policy(tmp_path, "b", "1")) == Done(0, "", "")


def test_standard_input_has_a_name_for_editors(momctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"(")))
    assert momctl("policy", "check", "--editor", "-").out.startswith("<stdin>:1:1: error: ")


def test_json_has_the_file_of_each_finding(tmp_path: Path, momctl: Any) -> None:
    (found,) = json.loads(momctl("policy", "check", "--json", policy(tmp_path, "10_a", "(defvar known 1)\n(+ knwon 1)")).out)["diagnostics"]
    assert found.pop("message")
    assert found.pop("hint")
    expected = {"severity": "error", "code": "name", "fragment": "10_a", "file": str(tmp_path / "10_a.policy"), "line": 2, "column": 4}
    assert found == expected


def test_a_directory_means_its_policies(tmp_path: Path, momctl: Any) -> None:
    policy(tmp_path, "20_b", "(+ a 1)")
    policy(tmp_path, "10_a", "(defvar a 1)")
    (tmp_path / "README").write_text("(")
    assert momctl("policy", "check", tmp_path).out == "10_a, 20_b: no errors, no warnings\n"
    (tmp_path / "none").mkdir()
    done = momctl("policy", "check", tmp_path / "none")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "no *.policy in this directory" in done.err


def test_the_policies_that_must_load_do(tmp_path: Path, momctl: Any) -> None:
    assert momctl("policy", "check", SEED).status == 0
    assert momctl("policy", "check", "--warnings-are-errors", OURS).status == 0
    assert momctl("policy", "check", policy(tmp_path, "01-parameters", "# only a comment")).status == 0


def test_json_and_editor_exclude_each_other(tmp_path: Path, momctl: Any) -> None:
    done = momctl("policy", "check", "--json", "--editor", policy(tmp_path, "a", "1"))
    assert (done.status, done.out, done.err) == (2, "", "momctl: --json and --editor don't go together\n")


# --- eval --------------------------------------------------------------------------------------------------------------------------------

SHRINK = """(defvar factor 1)
(def shrink (guest) {
    (/ 1 (- guest.balloon_cur 2000))
    (guest.Control "balloon_target" (* factor guest.balloon_cur)) })
(debug "free" Host.mem_free)
(Host.Control "ksm_run" 1)
(with Guests guest (shrink guest))"""


def test_eval_shows_controls_failures_and_debug(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    done = momctl("policy", "eval", "--snapshot", snapshot, policy(tmp_path, "10_a", SHRINK))
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[:4] == ["host", "    ksm_run = 1  (10_a:6:1)", f"guest vm1 ({uuid(1)})", "    balloon_target = 2000  (10_a:4:5)"]
    assert any(line.startswith("debug: ") and "free" in line for line in lines)
    (failed,) = [line for line in lines if line.startswith("failed: ")]
    assert failed.startswith(f"failed: guest vm2 ({uuid(2)}) dropped: 10_a:3:5: ")
    assert failed.endswith(", in shrink called at 10_a:7:20")
    assert lines[-1].startswith("2 controls, 1 failure, ")


def test_eval_explains(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    done = momctl("policy", "eval", "--explain", "--snapshot", snapshot, policy(tmp_path, "10_a", SHRINK))
    at = done.out.index(f"guest vm1 ({uuid(1)})")
    rule, call, *reads = [line.strip() for line in done.out[at:].splitlines()[2:]]
    assert rule == 'set at 10_a:4:5: (guest.Control "balloon_target" (* factor guest.balloon_cur)) })'
    assert call.startswith("in shrink called at 10_a:7:20: (with Guests guest ")
    assert "read stat balloon_cur of vm1: 1000" in reads


def test_explaining_changes_no_decision(snapshot: Path, momctl: Any) -> None:
    def decisions(*more: str) -> Any:
        decided = json.loads(momctl("policy", "eval", "--json", *more, "--snapshot", snapshot, OURS).out)["decisions"]
        return decided | {"steps": None, "controls": [control | {"reads": None} for control in decided["controls"]]}

    assert decisions("--explain") == decisions()


def test_eval_as_json(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    done = momctl("policy", "eval", "--json", "--explain", "--snapshot", snapshot, policy(tmp_path, "10_a", SHRINK))
    answer = json.loads(done.out)
    assert answer["diagnostics"] == []
    decisions = answer["decisions"]
    host, guest = decisions["controls"]
    assert (host["entity"], host["guest"], host["control"], host["value"], host["reads"]) == ("host", None, "ksm_run", 1, [])
    assert (guest["entity"], guest["guest"], guest["value"], guest["line"], guest["column"]) == (uuid(1), "vm1", 2000, 4, 5)
    assert guest["calls"] == [{"function": "shrink", "fragment": "10_a", "line": 7, "column": 20}]
    assert {"entity": uuid(1), "kind": "stat", "name": "balloon_cur", "value": 1000} in guest["reads"]
    (failure,) = decisions["failures"]
    assert (failure["guest"], failure["line"], failure["calls"][0]["column"]) == ("vm2", 3, 20)
    assert decisions["degraded"] is True
    assert decisions["results"][:2] == [2, "shrink"]


def test_values_that_json_lacks_are_written_as_in_snapshots(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", '(defvar big 1e308) (* big 10) (with Guests g g) (Host.SetVar "v" (* big 10))')
    done = momctl("policy", "eval", "--json", "--snapshot", snapshot, file)
    decisions = json.loads(done.out)["decisions"]
    assert decisions["results"] == [1e308, {"$float": "inf"}, [{"$opaque": "guest"}, {"$opaque": "guest"}], None]
    assert decisions["variables"][HOST] == {"v": {"$float": "inf"}}


def test_results_and_variables_on_demand(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", '(+ 1 2) (Host.SetVar "v" "x")')
    assert "form 0" not in momctl("policy", "eval", "--snapshot", snapshot, file).out
    done = momctl("policy", "eval", "--results", "--snapshot", snapshot, file)
    assert done.out.splitlines()[:4] == ["results", "    form 0: 3", "    form 1: null", '    host keeps v = "x"']


def test_parameters_are_checked_and_win_over_the_snapshot(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", "(defvar factor 1) (defvar limit 0.5)")

    def results(*more: str) -> Done:
        return Done(*momctl("policy", "eval", "--results", *more, "--snapshot", snapshot, file))

    assert results().out.splitlines()[1:3] == ["    form 0: 2", "    form 1: 0.5"]
    assert results("--param", "factor=7", "--param", "limit=2").out.splitlines()[1:3] == ["    form 0: 7", "    form 1: 2.0"]
    unknown, mistyped = results("--param", "fctor=7"), results("--param", "factor=x")
    assert unknown == Done(1, "", "momctl: these policies have no parameter fctor; there are: factor, limit\n")
    assert mistyped == Done(1, "", "momctl: parameter 'factor' takes an integer\n")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("1", 0),
        ("(/ 1 0)", 0),
        ("(with Guests g (/ 1 (- g.balloon_cur 1000)))", 0),
        ("(", 1),
        ("(launch)", 1),
        ("(if Host.mem_free later 0) (defvar later 1)", 1),
        ("(def f (x) (f x)) (f 1)", 1),
    ],
)
def test_eval_fails_where_the_service_would_refuse(tmp_path: Path, snapshot: Path, momctl: Any, text: str, status: int) -> None:
    done = momctl("policy", "eval", "--snapshot", snapshot, policy(tmp_path, "a", text))
    assert (done.status, done.err) == (status, "")
    assert json.loads(momctl("policy", "eval", "--json", "--snapshot", snapshot, policy(tmp_path, "a", text)).out)


def test_a_snapshot_that_is_none_is_told_in_one_line(tmp_path: Path, momctl: Any) -> None:
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.json", "none"):
        done = momctl("policy", "eval", "--snapshot", tmp_path / name, policy(tmp_path, "a", "1"))
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert name in done.err


# --- test --------------------------------------------------------------------------------------------------------------------------------


def cases(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "cases.json"
    file.write_text(json.dumps({"cases": rows}))
    return file


def test_only_some_cases_run_on_demand(tmp_path: Path, momctl: Any) -> None:
    rows = [{"name": name, "policy": "1", "expect": {"results": [result]}} for name, result in (("a-good", 1), ("b-bad", 2))]
    file = cases(tmp_path, *rows)
    assert momctl("policy", "test", file).out.endswith("\n1 passed, 1 failed\n")
    assert momctl("policy", "test", "--only", "a-*", file) == Done(0, "1 passed, 0 failed\n", "")
    assert momctl("policy", "test", "--only", "a-*", "--only", "b-*", file).status == 1
    assert momctl("policy", "test", "--only", "c*", file) == Done(1, "", "momctl: no case has a name like c*\n")


def test_differences_are_told_one_below_the_other(tmp_path: Path, momctl: Any) -> None:
    wanted = {"controls": {"guests": {"vm1": {"balloon_target": 6}}}}
    row = {"name": "n", "policy": "(with Guests g (g.Control 'balloon_target' g.x))", "guests": [{"x": 5}], "expect": wanted}
    file = cases(tmp_path, row)
    assert momctl("policy", "test", file).out.splitlines() == [
        f"{file}: n:",
        "    controls of guest 0 (vm1): balloon_target",
        "        got       5",
        "        expected  6",
        "0 passed, 1 failed",
    ]
    (case,) = json.loads(momctl("policy", "test", "--json", file).out)["cases"]
    assert case == {
        "file": str(file),
        "name": "n",
        "passed": False,
        "differences": ["controls of guest 0 (vm1): balloon_target: got 5, expected 6"],
        "details": [{"what": "controls of guest 0 (vm1): balloon_target", "got": "5", "expected": "6"}],
    }


# --- format ------------------------------------------------------------------------------------------------------------------------------

UGLY, PRETTY = "( +  1 2 ) # sum", "(+ 1 2)  # sum\n"


def test_format_prints_and_leaves_the_file(tmp_path: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", UGLY)
    assert momctl("policy", "format", file) == Done(0, PRETTY, "")
    assert file.read_text() == UGLY


def test_format_checks(tmp_path: Path, momctl: Any) -> None:
    ugly, pretty = policy(tmp_path, "a", UGLY), policy(tmp_path, "b", PRETTY)
    assert momctl("policy", "format", "--check", ugly, pretty) == Done(1, f"{ugly}: not formatted\n", "")
    assert momctl("policy", "format", "--check", pretty) == Done(0, "", "")
    assert momctl("policy", "format", "--check", OURS) == Done(0, "", "")
    assert ugly.read_text() == UGLY


def test_format_tells_in_json_what_it_makes_of_each_file(tmp_path: Path, momctl: Any) -> None:
    ugly, pretty, bad = policy(tmp_path, "a", UGLY), policy(tmp_path, "b", PRETTY), policy(tmp_path, "c", "( + 1\n")
    done = momctl("policy", "format", "--json", "--check", ugly, pretty, bad)
    told = json.loads(done.out)["files"]
    assert [(row["file"], row["text"], row["changes"]) for row in told] == [
        (str(ugly), PRETTY, True), (str(pretty), PRETTY, False), (str(bad), None, False)
    ]  # fmt: skip
    assert [len(row["diagnostics"]) for row in told] == [0, 0, 1]
    assert told[2]["diagnostics"][0]["file"] == str(bad)
    assert (done.status, done.err) == (1, "")
    done = momctl("policy", "format", "--json", "--write", ugly)
    assert (done.status, json.loads(done.out)["files"][0]["changes"], ugly.read_text()) == (0, True, PRETTY)


def test_format_writes_with_the_file_s_mode_and_through_links(tmp_path: Path, momctl: Any) -> None:
    file = policy(tmp_path, "a", UGLY)
    file.chmod(0o640)
    (tmp_path / "link.policy").symlink_to(file)
    assert momctl("policy", "format", "--write", tmp_path / "link.policy").status == 0
    assert file.read_text() == PRETTY
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (tmp_path / "link.policy").is_symlink()
    before = file.stat().st_ino
    assert momctl("policy", "format", "--write", file) == Done(0, "", "")
    assert file.stat().st_ino == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.policy", "link.policy"]


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path, momctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = policy(tmp_path, "a", UGLY)
    monkeypatch.setattr("os.fsync", full)
    done = momctl("policy", "format", "--write", file)
    assert (done.status, done.err) == (1, f"momctl: {file}: No space left on device\n")
    assert (file.read_text(), [found.name for found in tmp_path.iterdir()]) == (UGLY, ["a.policy"])


def test_what_does_not_read_is_told_and_left_alone(tmp_path: Path, momctl: Any) -> None:
    bad, good = policy(tmp_path, "bad", "( + 1\n"), policy(tmp_path, "good", UGLY)
    for mode in ([], ["--check"], ["--write"]):
        done = momctl("policy", "format", *mode, bad)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"error: {bad}:1:1: ")
        assert done.err.endswith("( + 1\n^\n")
    assert bad.read_text() == "( + 1\n"
    assert momctl("policy", "format", "--write", bad, good).status == 1
    assert good.read_text() == PRETTY


def test_format_reads_standard_input(momctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(UGLY.encode())))
    assert momctl("policy", "format", "-") == Done(0, PRETTY, "")
    assert momctl("policy", "format", "--write", "-").status == 2


# --- anything --------------------------------------------------------------------------------------------------------------------------


VERBS = ("check", "check --editor", "test", "format", "eval --snapshot SNAPSHOT", f"eval {SEED} --snapshot", "replay SNAPSHOT")


def test_no_input_makes_a_traceback(tmp_path: Path, snapshot: Path, momctl: Any) -> None:
    rng = random.Random(3)
    texts = [
        SEED.read_text(),
        snapshot.read_text(),
        json.dumps({"cases": [{"name": "n", "policy": "1", "guests": [{}]}]}),
        "\0",
        "[" * TEXT_BYTES,
    ]
    for number in range(60):
        file = tmp_path / f"f{number}.policy"
        text = rng.choice(texts)
        at = rng.randrange(len(text))
        file.write_bytes(
            text[:at].encode() + rng.choice([b"", b"\xff", b"(", b"}", b'"', b"\0", b"{}"]) + text[at + rng.randrange(9) :].encode()
        )
        verb = rng.choice(VERBS)
        arguments = [snapshot if word == "SNAPSHOT" else word for word in verb.split()]
        done = momctl("policy", *arguments, file)
        assert done.status in (0, 1)
        assert "internal error" not in done.err
        assert done.err.count("\n") <= 1 or "format" in verb
