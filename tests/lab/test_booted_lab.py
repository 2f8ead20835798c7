# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes a booted host long: a shutdown and boot while MOM is at work, and helpers that nobody needs."""

from __future__ import annotations

import pytest

from lab import bus, knobs
from lab.booted import BootedHost

pytestmark = pytest.mark.xdist_group("lab")


def works(host: BootedHost) -> bool:
    return knobs.read()["pages_to_scan"] != host.knobs_before["pages_to_scan"]


def test_a_shutdown_puts_the_knobs_back_and_after_the_boot_all_goes_on_as_it_was() -> None:
    with BootedHost(guests=0, libvirt=False) as host:
        host.check(["systemctl", "preset", "momservice"])
        bus.set_parameters(host, {"ksm_free_percent": 1.0})
        host.wait_for(lambda: works(host), "the policy to move KSM", log="momservice")
        host.power_off()
        assert knobs.read() == host.knobs_before
        host.boot()
        # Nobody starts it, nobody sets its parameters.
        host.wait_for(lambda: works(host), "the policy to move KSM again", log="momservice")
        parameter = bus.call(host, "Policy", "GetParameters")[0]["ksm_free_percent"]
        assert (parameter["value"], parameter["origin"], parameter["uid"]) == (1.0, "client", 0)
        assert host.daemon("momservice")["starts"] == 1


# Of no group with others: it only waits.
@pytest.mark.xdist_group("waiting")
def test_helpers_that_strangers_have_started_go_again() -> None:
    units = {"momhelper": "MomHelper1", "momhelper-guests": "MomGuestHelper1"}
    with BootedHost(guests=0, libvirt=False, ksm=False, service=False) as host:
        for name in units.values():
            ping = ["busctl", "call", f"org.ovirt.{name}", f"/org/ovirt/{name}", "org.freedesktop.DBus.Peer", "Ping"]
            assert "denied" in host.run(ping, user="alice").stderr
        host.wait_for(lambda: all(host.owned(f"org.ovirt.{name}") for name in units.values()), "the helpers to be started")
        host.wait_for(lambda: all(host.properties(unit, "ActiveState") == ["inactive"] for unit in units), "the helpers to go", 240)
        assert [host.properties(unit, "Result") for unit in units] == [["success"]] * len(units)
