# SPDX-License-Identifier: GPL-2.0-or-later
"""A booted host that is shut down and booted again while MOM is at work."""

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
