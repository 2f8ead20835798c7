# SPDX-License-Identifier: GPL-2.0-or-later
"""A VDSM of old over real guests: it sees them by name, and what it pushes moves their balloons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from old_vdsm import OldVdsm

from lab.daemons import Recipe
from lab.host import Host

pytestmark = pytest.mark.xdist_group("lab")
ROOT = Path(__file__).parents[2]
PLACE = "/run/mom-vdsm.sock"
# Root may all that polkit guards: who may what is tested elsewhere.
BRIDGE = Recipe("mom-rpc-bridge", ["/usr/libexec/mom-rpc-bridge", "--socket", PLACE])


def test_the_old_vdsm_sees_guests_by_name_and_its_parameters_move_their_balloons() -> None:
    with Host(guests=2, settle=True, ksm=False, policy=ROOT / "tests/data/fragments") as host:
        host.start(BRIDGE)
        host.wait_for(host.path(PLACE).is_socket, "the bridge", log="mom-rpc-bridge")
        # Real machines that are busy answer slower than VDSM waits.
        vdsm = OldVdsm(str(host.path(PLACE)), 60)
        names = [guest.name for guest in host.guests]
        statistics: Any = vdsm.mom.getStatistics()
        active: Any = vdsm.mom.getActiveGuests()
        assert (sorted(statistics["guests"]), sorted(active)) == (names, names)
        before = host.balloons()
        assert {name: fields["balloon_cur"] * 1024 for name, fields in statistics["guests"].items()} == before
        # The example for dbus-python shows them too, and tells that these policies have no such parameter.
        example = host.run([str(ROOT / "doc/examples/dbus_python.py")])
        assert all(f"{name}: balloon at {before[name] // 1024} KiB\n" in example.stdout for name in names)
        assert example.stderr.startswith("org.ovirt.Mom1.Error.UnknownParameter: ")
        # A host that is always short of memory.
        vdsm.set_parameters({"balloonEnabled": True, "ksmEnabled": False})
        vdsm.set_parameters({"host_free_wanted": 0.99})
        host.wait_for(lambda: all(host.balloons()[name] < before[name] for name in names), "the balloons to move", log="momservice")
