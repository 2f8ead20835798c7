# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev as a command line: what it says when it can't do what it is asked, and its tables."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import packages
from lab.common import LabError
from lab.guests import fresh, statistics
from lab.packages import ensure_packages, require_root, wanted
from lab.record import CONTROL, Record, Sample
from lab.run import phases
from lab.table import full, short

ROOT = Path(__file__).parent.parent.parent


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "dev", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ["run", "lab", "exec", "test", "lint", "bench"])
def test_every_verb_has_help(verb: str) -> None:
    done = dev(verb, "--help")
    assert done.returncode == 0
    assert f"usage: ./dev {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lab"], "lab: which command?"),
        (["lab", "--"], "lab: which command?"),
        (["exec"], "exec: which command?"),
        (["exec", "no-such-program"], "exec: no-such-program: No such file"),
        (["run", "--policy", "/no/such"], "run: /no/such: no such file or directory"),
        (["run", "--guests", "0"], "run: at least one guest"),
        (["run", "--seconds", "0"], "run: --seconds must be above 0"),
        (["bench", "no-such"], "bench: no bench no-such"),
    ],
)
def test_a_wrong_command_gets_one_line(arguments: list[str], says: str) -> None:
    done = dev(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dev: {says}")
    assert done.stderr.count("\n") == 1


def test_exec_finds_the_programs_of_the_tree_before_installed_ones() -> None:
    done = dev("exec", "sh", "-c", "command -v momctl; command -v momservice; momservice --version; exit 5")
    assert done.stdout.splitlines() == [f"{ROOT}/lab/bin/momctl", f"{ROOT}/lab/bin/momservice", "momservice 0.1.0"]
    assert done.returncode == 5


def test_every_package_has_a_reason() -> None:
    listed = wanted(packages.LIST.read_text())
    assert "libvirt-daemon" in listed
    with pytest.raises(LabError, match="meson has no reason"):
        wanted("cpio  # packs\nmeson\n")


def test_without_apt_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(LabError, match="needs Debian 12 or later"):
        ensure_packages()


def test_without_root_the_command_to_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(packages, "missing", lambda _names: ["meson", "cpio"])
    with pytest.raises(LabError, match="run as root: apt-get install --no-install-recommends meson cpio"):
        ensure_packages()
    with pytest.raises(LabError, match="the lab needs root"):
        require_root()


def test_a_package_that_is_not_installed_is_missing() -> None:
    assert packages.missing(["dbus", "no-such-package-mom"]) == ["no-such-package-mom"]


@pytest.mark.parametrize("seconds", [20.0, 45.0, 120.0, 300.0])
def test_the_phases_fill_the_time_and_end_relaxed(seconds: float) -> None:
    plan = list(phases(seconds))
    ends = [end for _, end in plan]
    assert ends == sorted(ends)
    assert plan[-1][1] == pytest.approx(seconds)
    assert [name for name, _ in plan] == ["baseline", *["squeezed", "relaxed"] * (len(plan) // 2)]


def test_a_log_line_of_the_service_tells_target_and_reason() -> None:
    line = "INFO momservice.engine: vm1: balloon_target 124518 (wanted 124518.4) by 20_balloon:40:9: clamped: above the maximum"
    assert CONTROL.findall(line) == [("vm1", "balloon_target", "124518", "124518.4", "20_balloon:40:9", "clamped: above the maximum")]


SAMPLE = Sample(
    balloons={"vm1": 96 * 1024 * 1024},
    knobs={"run": 1, "pages_to_scan": 400, "sleep_millisecs": 10},
    manager={"Status": "active", "LastEvaluation": 1, "EvaluationDuration": 500, "LastError": "", "StatusReasons": []},
    host={"mem_free": 1048576, "mem_available": 2097152, "ksm_pages_sharing": 7},
    guests={"vm1": {"balloon_cur": 98304, "mem_unused": 32768}},
    controls={("vm1", "balloon_target"): ("94208", "20_balloon:40:9 applied")},
)


def test_the_table_shows_each_guest_with_target_and_reason() -> None:
    lines = full(SAMPLE, "squeezed", 12.3)
    assert lines[-1].split() == ["vm1", "64.0", "96.0", "92.0", "20_balloon:40:9", "applied"]
    assert "free 1.0 of 2.0 GiB   memory pressure ? %" in lines[2]
    line = short(SAMPLE, "squeezed", 12.3)
    assert " ".join(line.split()) == "12 s squeezed active run 1 pages_to_scan 400 sleep_millisecs 10 vm1 96.0 MiB"


def record(monkeypatch: pytest.MonkeyPatch, after: dict[str, str], *balloons: int) -> Record:
    """A record of one guest's balloon, and of knobs that were moved."""
    monkeypatch.setattr("lab.record.versions", lambda _host: {"mom": "0"})
    monkeypatch.setattr("lab.record.knobs.read", lambda: after)
    host: Any = SimpleNamespace(knobs_before={"run": "0", "pages_to_scan": "100"})
    made = Record(host)
    for number, size in enumerate(balloons, 1):
        made.add(Sample({"vm1": size}, {"run": 1, "pages_to_scan": 400}, {**SAMPLE.manager, "LastEvaluation": number}))
    made.close()
    return made


RESTORED = {"run": "0", "pages_to_scan": "100"}


def test_the_verdict_wants_balloons_down_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(monkeypatch, RESTORED, 100, 70, 100).failures() == []
    assert record(monkeypatch, RESTORED, 100, 100).failures() == ["vm1: the balloon did not go down"]
    assert record(monkeypatch, RESTORED, 100, 70, 90).failures() == ["vm1: the balloon did not come back"]
    assert record(monkeypatch, RESTORED).failures()[0] == "no guest was seen"


def test_the_verdict_wants_knobs_changed_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    left = record(monkeypatch, {"run": "1", "pages_to_scan": "100"}, 100, 70, 100)
    assert left.failures() == ["KSM knob run was not restored"]
    assert left.document()["ksm"]["run"] == {"before": 0, "during": [1], "after": 1}
    assert left.document()["evaluation_us"] == [500, 500, 500]
    still = Record.failures(record(monkeypatch, RESTORED))
    assert "KSM knob run did not change" in still


def test_a_guest_without_statistics_of_late_is_not_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.guests.time.time", lambda: 1000)
    assert fresh({"balloon.usable": 1, "balloon.last-update": 995})
    assert not fresh({"balloon.usable": 1, "balloon.last-update": 900})
    assert not fresh({"balloon.last-update": 995})


def test_virsh_is_understood() -> None:
    text = "Domain: 'vm1'\n  balloon.current=131072\n  balloon.maximum=131072\n\nDomain: 'vm2'\n  state.state=1\n\n"
    told = statistics(lambda *_arguments, **_options: subprocess.CompletedProcess([], 0, text, ""))
    assert told == {"vm1": {"balloon.current": 131072, "balloon.maximum": 131072}, "vm2": {"state.state": 1}}
