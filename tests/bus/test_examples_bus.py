# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of using the bus from other languages and libraries, run as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.anyhost import AnyHost
from lab.hosts import host_with

EXAMPLES = Path(__file__).parents[2] / "doc/examples"
# What each prints besides what it begins with.
EXPECTED = {
    "busctl_json.sh": ("free: ", '"10_ksm"', '{"type":"s","data":"'),
    "dbus_python.py": ("host: ", "KiB free", "pressure_threshold: 0.3"),
    "gdbus.sh": ("({'", "'ksm_run': <int64 ", "'severity': <'error'>", "'Status': <'"),
}


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus) as running:
        ready = ["momctl", "stats", "--json"]
        running.wait_for(lambda: "mem_free" in running.run(ready).stdout, "the first figures")
        yield running


def test_every_example_is_run() -> None:
    assert {file.name for file in EXAMPLES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_works(host: AnyHost, name: str) -> None:
    host.check(["momctl", "params", "replace"])
    done = host.run([str(EXAMPLES / name)])
    assert (done.returncode, done.stderr) == (0, "")
    begin, *parts = EXPECTED[name]
    assert done.stdout.startswith(begin)
    for part in parts:
        assert part in done.stdout
    assert "0.3" in host.check(["momctl", "params", "get", "pressure_threshold"])


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_tells_a_refusal(host: AnyHost, name: str) -> None:
    done = host.run([str(EXAMPLES / name)], user="alice")
    assert done.returncode != 0
    assert "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" in done.stderr or "Access denied" in done.stderr
