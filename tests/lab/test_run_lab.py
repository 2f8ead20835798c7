# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev run: real guests' balloons and the real knobs move by policy, as seen apart from the service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from lab import knobs
from lab.common import locked

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "dev", "run", *arguments], capture_output=True, text=True, check=False, timeout=900)


def test_balloons_go_down_and_come_back_and_knobs_change_and_are_restored() -> None:
    with locked(knobs.LOCK):
        before = knobs.read()
    done = run("--seconds", "45", "--json")
    seen = json.loads(done.stdout)
    assert (done.returncode, seen["errors"]) == (0, [])
    assert set(seen) == {"guests", "ksm", "cycles", "evaluation_us", "errors", "versions"}
    assert sorted(seen["guests"]) == ["vm1", "vm2", "vm3"]
    for balloon in seen["guests"].values():
        assert balloon["first"] == 128 * MIB
        assert balloon["lowest"] < 115 * MIB
        assert balloon["last"] > 127 * MIB
    assert {name: str(knob["before"]) for name, knob in seen["ksm"].items()} == before
    assert all(knob["after"] == knob["before"] for knob in seen["ksm"].values())
    assert 1 in seen["ksm"]["run"]["during"]
    assert max(seen["ksm"]["pages_to_scan"]["during"]) == 1250
    assert seen["cycles"] == len(seen["evaluation_us"]) > 15
    assert all(seen["versions"].values())
    with locked(knobs.LOCK):
        assert knobs.read() == before


def test_a_policy_that_moves_nothing_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "still.policy").write_text("(+ 1 2)\n")
    done = run("--seconds", "6", "--guests", "1", "--policy", str(tmp_path))
    assert done.returncode == 1
    assert "6 s" not in done.stdout.splitlines()[0]
    assert "dev: vm1: the balloon did not go down" in done.stderr
    assert "dev: KSM knob run did not change" in done.stderr
