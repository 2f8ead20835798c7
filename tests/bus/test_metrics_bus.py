# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's file of metrics, as the service writes it under its own user."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from lab.anyhost import AnyHost
from lab.buses import BROKER
from lab.hosts import host_with

FILE = "/var/lib/prometheus/node-exporter/mom.prom"
PAGE = Path(__file__).parents[2] / "doc/mom-metrics.md"


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus, drop_in=f"[main]\nmetrics-file: {FILE}\n") as running:
        yield running


def read(text: str) -> dict[str, float]:
    """The samples by name and first label, as both parsers read them."""
    parsers: tuple[Callable[[str], Any], ...] = (openmetrics.text_string_to_metric_families, parser.text_string_to_metric_families)
    strict, old = ({(s.name, *s.labels.values()): float(s.value) for family in parse(text) for s in family.samples} for parse in parsers)
    assert strict == old
    return {" ".join(key): value for key, value in strict.items()}


def test_the_file_is_written_told_and_removed(hosts_bus: str, host: AnyHost) -> None:
    file: Path = host.path(FILE)
    checked = host.run(["momservice", "--check-config"])
    assert (checked.returncode, checked.stderr.count("\n")) == (0, 1)
    assert f"{Path(FILE).parent} is not a folder" in checked.stderr
    reason = "the metrics file can't be written: No such file or directory"
    host.wait_for(lambda: reason in host.check(["momctl", "status"]), "the reason")
    *manual, restart = PAGE.read_text(encoding="utf-8").split("```")[1].strip().splitlines()
    assert restart.startswith("systemctl ")
    host.check(["sh", "-ec", "\n".join(manual)])
    if hosts_bus == BROKER:
        # The folder alone isn't enough: the unit keeps the service from writing there.
        confined = "the metrics file can't be written: Read-only file system"
        host.wait_for(lambda: confined in host.check(["momctl", "status"]), "the next try")
        host.check(["sh", "-ec", restart])
    host.wait_for(file.exists, "the file")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    host.wait_for(lambda: reason not in host.check(["momctl", "status"]), "the reason to go")
    # A service that has begun just now may have written it before policies ran.
    host.wait_for(lambda: read(file.read_text())["mom_policy_runs_total"] > 0, "a run")

    of_file, of_bus = read(file.read_text()), read(host.check(["momctl", "metrics"]))
    assert of_file.keys() - of_bus.keys() >= {"mom_policy_runs_total", "mom_policy_failures_total"}
    assert of_bus.keys() <= of_file.keys()
    assert of_file["mom_polkit_up"] == of_bus["mom_polkit_up"] == 1
    assert of_file["mom_host_memory_size_bytes"] == of_bus["mom_host_memory_size_bytes"] > 1 << 20

    before = of_file["mom_policy_runs_total"]
    host.wait_for(lambda: read(file.read_text())["mom_policy_runs_total"] > before, "another run")
    host.check(["momctl", "pause"])
    host.wait_for(lambda: read(file.read_text())["mom_status paused"] == 1, "the pause to be in the file")
    host.check(["momctl", "resume"])
    assert host.stop_service() == 0
    assert list(file.parent.iterdir()) == []
