# SPDX-License-Identifier: GPL-2.0-or-later
"""The README's examples for administrators and programs, run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.anyhost import AnyHost
from lab.hosts import host_with
from momservice.snapshot import Snapshot
from momservice.snapshot_text import write_snapshot

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
# Those that need guests, a terminal or an end are run by other tests.
EXAMPLES = [line for block in BLOCKS for line in block.splitlines() if re.match("momctl (?!top|monitor|explain)|busctl|gdbus", line)]


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus) as running:
        (running.state / "my.policy").write_text("(defvar mine 1)\n")
        (running.state / "world.json").write_text(write_snapshot(Snapshot()))
        (running.state / "cases.json").write_text('{"cases": [{"name": "mine", "policy": "(defvar mine 1)", "expect": {"results": [1]}}]}')
        (running.state / "world.mom").write_text(write_snapshot(Snapshot()))
        running.wait_for(lambda: "mem_free" in running.check(["momctl", "--json", "stats"]), "the first figures")
        yield running


def test_there_are_examples_of_each_kind() -> None:
    assert {line.split()[0] for line in EXAMPLES} == {"momctl", "busctl", "gdbus"}


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_works(host: AnyHost, line: str) -> None:
    done = host.run(["sh", "-c", line], cwd=str(host.state))
    assert done.returncode == 0, done.stdout + done.stderr
