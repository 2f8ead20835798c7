# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy and the configuration of 2011, unmodified, move real balloons and real knobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lab.host import Host

DATA = Path(__file__).parent.parent / "data"
MANAGER = ["busctl", "call", "org.ovirt.Mom1", "/org/ovirt/Mom1"]
SQUEEZE = ["a{sv}", "2", "pressure_threshold", "d", "0.99", "ksm_free_percent", "d", "0.99"]
RELAX = ["a{sv}", "2", "pressure_threshold", "d", "0.01", "ksm_free_percent", "d", "0.01"]


def set_parameters(host: Host, values: list[str]) -> None:
    host.check([*MANAGER, "org.ovirt.Mom1.Policy", "SetParameters", *values])


def knob(host: Host, name: str) -> int:
    return int(host.path(f"/sys/kernel/mm/ksm/{name}").read_text())


@pytest.mark.xdist_group("lab")
def test_policy_and_configuration_of_2011_run_unmodified() -> None:
    # The lab's own drop-in gives shorter intervals; the places are those that the files name.
    with Host(guests=2, service=False) as host:
        shutil.copyfile(DATA / "momd.conf", host.path("/etc/momd.conf"))
        host.path("/etc/vdsm").mkdir()
        shutil.copyfile(DATA / "mom.policy", host.path("/etc/vdsm/mom.policy"))
        host.start_service()
        host.settle()
        text = host.check([*MANAGER, "org.ovirt.Mom1.Policy", "GetPolicy"])
        assert "ksm_pressure_threshold" in text
        before = host.balloons()
        set_parameters(host, SQUEEZE)
        host.wait_for(lambda: all(host.balloons()[name] < size for name, size in before.items()), "balloons to shrink")
        host.wait_for(lambda: (knob(host, "run"), knob(host, "sleep_millisecs")) == (1, 10), "KSM to run")
        host.wait_for(lambda: knob(host, "pages_to_scan") > 300, "KSM to scan more")
        set_parameters(host, RELAX)
        # The old policy makes no step of less than 0.25 %, so a guest may stay as much below its maximum.
        host.wait_for(lambda: all(host.balloons()[name] > 0.997 * size for name, size in before.items()), "growth", 180, "momservice")
        host.wait_for(lambda: knob(host, "run") == 0, "KSM to stop")
        assert host.status() == "active"
