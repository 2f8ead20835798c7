# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole service on the real stack, when parts of it are missing, break or come back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.anyhost import AnyHost
from lab.guests import Guest
from lab.host import Host
from lab.hosts import HOSTS

pytestmark = pytest.mark.xdist_group("lab")
CALL = ["busctl", "--json=short", "call", "org.ovirt.Mom1", "/org/ovirt/Mom1"]
GET = ["busctl", "--json=short", "get-property", "org.ovirt.Mom1", "/org/ovirt/Mom1"]
# The host has plenty of memory; these make it look short.
SHORT = {"pressure_threshold": 0.99, "ksm_free_percent": 0.99}


def set_parameters(host: AnyHost, values: dict[str, float]) -> None:
    pairs = [word for name, value in values.items() for word in (name, "d", str(value))]
    host.check([*CALL, "org.ovirt.Mom1.Policy", "SetParameters", "a{sv}", str(len(values)), *pairs])


def reasons(host: AnyHost) -> list[str]:
    found: list[str] = json.loads(host.check([*GET, "org.ovirt.Mom1.Manager", "StatusReasons"]))["data"]
    return found


def knobs(host: AnyHost) -> dict[str, str]:
    folder = host.path("/sys/kernel/mm/ksm")
    return {name: Path(folder, name).read_text().strip() for name in ("run", "pages_to_scan", "sleep_millisecs")}


def found_knobs(host: AnyHost) -> dict[str, str]:
    return {name: host.knobs_before[name].strip() for name in ("run", "pages_to_scan", "sleep_millisecs")}


def squeezed(host: AnyHost) -> None:
    """KSM runs with other knobs than were found."""
    set_parameters(host, SHORT)
    host.wait_for(lambda: all(knobs(host)[name] != value for name, value in found_knobs(host).items()), "KSM to run", log="momservice")


@pytest.fixture(params=list(HOSTS))
def kind(request: pytest.FixtureRequest) -> type[AnyHost]:
    """With either bus."""
    return HOSTS[request.param]


@pytest.fixture
def host(kind: type[AnyHost]) -> Iterator[AnyHost]:
    with kind(guests=1, settle=True) as running:
        yield running


def test_a_killed_service_that_comes_back_starts_from_the_knobs_that_were_found(host: AnyHost) -> None:
    squeezed(host)
    # Else the policy would, with its parameters kept, do at once what it did before.
    host.check([*CALL, "org.ovirt.Mom1.Policy", "RemoveNamedPolicy", "s", "10_ksm"])
    assert knobs(host) != found_knobs(host)
    starts = host.daemon("momservice")["starts"]
    host.kill_service()
    host.wait_for(lambda: host.daemon("momservice")["starts"] > starts and host.status() == "active", "the service to be back")
    # Without the service's word it would be the lease's end that puts them back, a minute later.
    host.wait_for(lambda: knobs(host) == found_knobs(host), "the knobs to be back", 40)


def test_a_killed_service_that_stays_away_has_its_knobs_put_back(host: AnyHost) -> None:
    squeezed(host)
    host.path("/usr/bin/momservice").rename(host.path("/usr/bin/momservice.away"))
    host.kill_service()
    host.wait_for(lambda: not host.owned("org.ovirt.Mom1"), "the service to be gone")
    # Before the lease's end.
    host.wait_for(lambda: knobs(host) == found_knobs(host), "the knobs to be back", 40)


def test_a_killed_helper_has_its_knobs_put_back_and_is_started_again_later(host: AnyHost) -> None:
    squeezed(host)
    host.check(["pkill", "--signal", "KILL", "--full", "/usr/libexec/momhelper$"])
    # The next helper would do it as well, half a minute later.
    host.wait_for(lambda: knobs(host) == found_knobs(host), "the knobs to be back", 10)
    host.wait_for(lambda: any(line.startswith("KSM is unavailable: ") for line in reasons(host)), "KSM to be missed", 10)
    assert knobs(host) == found_knobs(host)
    host.wait_for(lambda: knobs(host)["run"] == "1" and host.status() == "active", "KSM to be back", log="momservice")


def test_a_helper_killed_before_its_answer_is_read_is_missed_too(host: AnyHost) -> None:
    set_parameters(host, SHORT)
    host.wait_for(lambda: host.run(["pgrep", "--full", "/usr/libexec/momhelper$"]).stdout, "the helper to be started")
    host.signal("momservice", signal.SIGSTOP)
    try:
        host.wait_for(lambda: all(knobs(host)[name] != value for name, value in found_knobs(host).items()), "KSM to run")
        host.check(["pkill", "--signal", "KILL", "--full", "/usr/libexec/momhelper$"])
        host.wait_for(lambda: knobs(host) == found_knobs(host), "the knobs to be back")
    finally:
        host.signal("momservice", signal.SIGCONT)
    host.wait_for(lambda: any(line.startswith("KSM is unavailable: momhelper has ended") for line in reasons(host)), "KSM to be missed")
    assert knobs(host) == found_knobs(host)


def test_a_stopped_service_puts_the_knobs_back_at_once(host: AnyHost) -> None:
    squeezed(host)
    assert host.stop_service() == 0
    # It waits less than a second for the helper, which is on its own half a minute later.
    host.wait_for(lambda: knobs(host) == found_knobs(host), "the knobs to be back", 20)


def test_a_missing_helper_costs_ksm_and_nothing_else(host: AnyHost) -> None:
    program = host.path("/usr/libexec/momhelper")
    text = program.read_text()
    program.write_text("#!/bin/false\n")
    size = host.balloons()["vm1"]
    set_parameters(host, SHORT)
    host.wait_for(lambda: any(line.startswith("KSM is unavailable: ") for line in reasons(host)), "KSM to be missed")
    host.wait_for(lambda: host.balloons()["vm1"] < 0.92 * size, "two steps of the balloon")
    program.write_text(text)
    host.wait_for(lambda: host.status() == "active" and knobs(host)["run"] == "1", "KSM to be back", log="momservice")


def test_libvirt_may_come_later_and_go_again(kind: type[AnyHost]) -> None:
    with kind(guests=0, libvirt=False, ksm=False) as host:
        host.wait_for(lambda: host.status() == "degraded", "the service to say what is missing")
        assert [line for line in reasons(host) if line.startswith("libvirt is unavailable: ")]
        host.start_libvirt()
        host.wait_for(lambda: host.status() == "active", "the service to find libvirt", log="momservice")
        host.stop("libvirt")
        host.wait_for(lambda: host.status() == "degraded", "the service to miss libvirt")
        host.start_libvirt()
        host.wait_for(lambda: host.status() == "active", "the service to find libvirt again", log="momservice")
        assert host.daemon("momservice")["starts"] == 1


def test_a_bad_policy_file_costs_only_itself() -> None:
    with Host(guests=0, libvirt=False, service=False, ksm=False) as host:
        host.path("/usr/share/mom/policy.d/30_bad.policy").write_text("(defvar x 1)\n(nonsense x)\n")
        host.start_service()
        host.wait_for(lambda: host.status() == "degraded", "the service to say what is wrong")
        assert [line for line in reasons(host) if line.startswith("policy 30_bad is left out: 30_bad:2:2: ")]
        names = json.loads(host.check([*CALL, "org.ovirt.Mom1.Policy", "GetNamedPolicies"]))["data"][0]
        assert sorted(names) == ["10_ksm", "20_balloon"]
        assert "Traceback" not in host.log("momservice")


def test_a_guest_without_driver_and_one_that_ends_stop_nobody() -> None:
    guests = [Guest(1), Guest(2, arguments="noballoon"), Guest(3)]
    with Host(guests=guests, ksm=False) as host:
        host.wait_for(lambda: host.status() == "active", "the service")
        host.wait_for(lambda: "mem_unused" in host.check(["momctl", "--json", "stats", "vm1"]), "statistics of vm1")
        set_parameters(host, {"pressure_threshold": 0.99})
        before = host.balloons()
        host.check(["virsh", "destroy", "vm3"])
        host.wait_for(lambda: host.balloons()["vm1"] < before["vm1"], "the first guest to shrink", log="momservice")
        assert host.balloons()["vm2"] == before["vm2"]
        host.wait_for(lambda: "vm3" not in host.check(["momctl", "stats"]), "the guest to be forgotten")
        assert host.status() == "active"
        assert "Traceback" not in host.log("momservice")


def test_anybody_sees_guests_as_objects_and_hears_of_their_balloons(kind: type[AnyHost]) -> None:
    with kind(guests=2, settle=True, ksm=False) as host:
        listed = host.check(["busctl", "--list", "tree", "org.ovirt.Mom1"], user="alice").split()
        objects = [f"/org/ovirt/Mom1/guest/00000000_0000_4000_8000_00000000000{number}" for number in (1, 2)]
        assert [path for path in listed if path.startswith("/org/ovirt/Mom1/guest/")] == objects
        property_of = ["busctl", "get-property", "org.ovirt.Mom1", objects[0], "org.ovirt.Mom1.Guest"]
        host.wait_for(lambda: host.check([*property_of, "State"], user="alice") == 's "managed"\n', "the guest to be managed")
        log = host.state / "signals"
        with log.open("w") as file:
            monitor = host.popen(["gdbus", "monitor", "--system", "--dest", "org.ovirt.Mom1"], user="alice", stdout=file)
        try:
            host.wait_for(lambda: "owned by" in log.read_text(), "the monitor")
            set_parameters(host, {"pressure_threshold": 0.99})
            host.wait_for(lambda: "BalloonTargetsChanged" in log.read_text(), "a balloon to get a target", log="momservice")
            host.wait_for(lambda: f"{objects[0]}: " in (told := log.read_text()) and "'BalloonTarget': <" in told, "the object to tell")
            host.check(["virsh", "destroy", "vm2"])
            host.wait_for(lambda: "InterfacesRemoved" in log.read_text(), "the end of a guest to be told", log="momservice")
        finally:
            monitor.kill()
            monitor.wait()
        lines = log.read_text().splitlines()
        of_objects = [line for line in lines if ".ObjectManager.Interfaces" in line]
        assert [line.split(" ", 1)[0] for line in of_objects] == ["/org/ovirt/Mom1:"]
        assert objects[1] in of_objects[0]
        assert any("ParametersChanged ({'pressure_threshold': <0.98999999999999999>},)" in line for line in lines)
        assert any(line.startswith(f"{objects[0]}: ") and "'BalloonTarget': <uint64 " in line for line in lines)
        assert not [line for line in lines if "org.ovirt.Mom1.Manager." in line and "vm" in line]
        assert int(host.check([*property_of, "BalloonTarget"]).split()[1]) < 128 << 20
        assert "Traceback" not in host.log("momservice")
