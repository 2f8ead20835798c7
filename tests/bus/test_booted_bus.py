# SPDX-License-Identifier: GPL-2.0-or-later
"""What our units, users and folders are to a real systemd, with each of the buses."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from old_vdsm import OldVdsm

from lab import bus
from lab.booted import BootedDaemonHost, BootedHost
from lab.buses import BROKER

# A unit each: the exposure that it has at most, as systemd-analyze reckons (10: unconfined), times ten.
EXPOSURE = {"momservice": 4, "momhelper": 5, "momhelper-guests": 4, "mom-rpc-bridge": 4}
# The helpers' names by their units, their users, and a call that changes nothing.
HELPERS = {
    "momhelper": ("MomHelper1", "root", ["Read"]),
    "momhelper-guests": ("MomGuestHelper1", "mom-guests", ["SetMemory", "@a(st) []"]),
}
SOCKET = "/run/vdsm/mom-vdsm.sock"
CONFIGURATION = "/etc/momd.conf.d/90-bad.conf"


@pytest.fixture(scope="module", params=[BootedHost, BootedDaemonHost], ids=lambda kind: kind.bus)
def host(request: pytest.FixtureRequest) -> Iterator[BootedHost]:
    with request.param(guests=0, libvirt=False, ksm=False) as running:
        running.check(["useradd", "--system", "--user-group", "vdsm"])
        running.check(["install", "--directory", "--owner=vdsm", "--group=vdsm", "/run/vdsm"])
        yield running


@pytest.fixture(autouse=True)
def running(host: BootedHost) -> None:
    """The service runs at the begin of each test, however the one before left it."""
    host.check(["systemctl", "reset-failed"])
    host.start_service()


def called(host: BootedHost, unit: str, user: str) -> str:
    """What a user's call to a helper gets, which starts it if need be."""
    name, _, (member, *arguments) = HELPERS[unit]
    call = ["gdbus", "call", "--system", "--dest", f"org.ovirt.{name}", "--object-path", f"/org/ovirt/{name}"]
    return host.run([*call, "--method", f"org.ovirt.{name}.{member}", *arguments], user=user).stderr.strip()


# Files


def test_the_units_are_clean(host: BootedHost) -> None:
    units = [f"/usr/lib/systemd/system/{name}" for name in (*(f"{name}.service" for name in EXPOSURE), "mom-rpc-bridge.socket")]
    done = host.run(["systemd-analyze", "verify", "--man=no", *units])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_bus_has_nothing_to_say_of_our_files(host: BootedHost) -> None:
    def said() -> list[str]:
        bus_unit = "dbus-broker" if host.bus == BROKER else "dbus"
        lines = host.events(bus_unit).splitlines()
        # Of calls that are denied, and of helpers that are activated, it tells whenever that happens.
        return [line for line in lines if "mom" in line.lower() and "denied" not in line and "ctivat" not in line]

    # Without our users it complains: so there is something to see.
    before = len(said())
    host.check(["mv", "/etc/passwd", "/etc/passwd.away"])
    try:
        host.check(["sh", "-ec", "grep -v ^mom /etc/passwd.away >/etc/passwd; systemctl reload dbus"])
        host.wait_for(lambda: len(said()) > before, "the bus to miss our users")
    finally:
        host.check(["mv", "/etc/passwd.away", "/etc/passwd"])
    before = len(said())
    host.check(["systemctl", "reload", "dbus"])
    assert said()[before:] == []


@pytest.mark.parametrize("unit", EXPOSURE)
def test_the_units_are_confined_as_far_as_they_can_be(host: BootedHost, unit: str) -> None:
    done = host.run(["systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE[unit]}", f"{unit}.service"])
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_presets_run_the_service_and_leave_the_bridge_to_the_administrator(host: BootedHost) -> None:
    for unit, expected in (("momservice.service", "enabled"), ("mom-rpc-bridge.socket", "disabled"), ("momhelper.service", "static")):
        host.run(["systemctl", "preset", unit])
        assert host.run(["systemctl", "is-enabled", unit]).stdout.strip() == expected


def test_the_users_can_do_nothing_but_be(host: BootedHost) -> None:
    for user in ("mom", "mom-guests"):
        _, _, uid, _, _, home, shell = host.check(["getent", "passwd", user]).strip().split(":")
        assert (int(uid) < 1000, home, shell) == (True, "/", "/usr/sbin/nologin")
        assert host.check(["passwd", "--status", user]).split()[1] == "L"


def test_folders_are_made_for_hosts_with_and_without_the_units(host: BootedHost) -> None:
    def kept() -> list[tuple[str, str, int]]:
        paths = [host.path("/var/lib") / name for name in ("mom", "momhelper")]
        look = ["stat", "--format=%U %G", "/var/lib/mom", "/var/lib/momhelper"]
        owners = host.check(look).splitlines()
        return [(path.name, owner, stat.S_IMODE(path.stat().st_mode)) for path, owner in zip(paths, owners, strict=True)]

    expected = [("mom", "mom mom", 0o750), ("momhelper", "root root", 0o700)]
    called(host, "momhelper", "mom")
    assert kept() == expected
    host.stop_service()
    host.stop("momhelper")
    host.check(["rm", "-r", "/var/lib/mom", "/var/lib/momhelper"])
    host.check(["systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/mom.conf"])
    assert kept() == expected


# Life


def test_a_killed_service_is_started_again_with_what_clients_have_set(host: BootedHost) -> None:
    bus.set_parameters(host, {"pressure_threshold": 0.25})
    generation = bus.properties(host)["Generation"]
    host.kill_service()
    host.wait_for(lambda: host.daemon("momservice")["starts"] == 2 and host.owned(bus.NAME), "the second momservice", log="momservice")
    parameters = bus.call(host, "Policy", "GetParameters")[0]
    assert (parameters["pressure_threshold"]["value"], parameters["pressure_threshold"]["origin"]) == (0.25, "client")
    assert bus.properties(host)["Generation"] > generation
    bus.call(host, "Policy", "ReplaceParameters", "a{sv}", "0")


def test_a_hung_service_is_ended_by_the_watchdog_and_started_again(host: BootedHost) -> None:
    drop_in = host.path("/run/systemd/system/momservice.service.d/watchdog.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=6\n", encoding="ascii")
    try:
        host.check(["systemctl", "daemon-reload"])
        host.stop_service()
        host.start_service()
        host.signal("momservice", signal.SIGSTOP)
        host.wait_for(lambda: host.daemon("momservice")["starts"] == 2 and host.owned(bus.NAME), "the second momservice", log="momservice")
        assert "Watchdog timeout (limit 6s)!" in host.events("momservice")
    finally:
        drop_in.unlink()
        host.check(["systemctl", "daemon-reload"])
        host.stop_service()


def test_a_bad_configuration_is_told_once_and_not_tried_again(host: BootedHost) -> None:
    host.stop_service()
    host.path(CONFIGURATION).write_text("[no-such-section]\nx: 1\n", encoding="ascii")
    try:
        assert host.run(["systemctl", "start", "momservice"]).returncode == 1
    finally:
        host.path(CONFIGURATION).unlink()
    assert host.properties("momservice", "ActiveState", "Result", "ExecMainStatus", "NRestarts") == ["failed", "exit-code", "2", "0"]
    assert "no-such-section" in host.log("momservice")


def test_a_reload_takes_over_changed_policies(host: BootedHost) -> None:
    pid = host.daemon("momservice")["pid"]
    file = host.path("/usr/share/mom/policy.d/90_more.policy")
    file.write_text("(defvar more 1)\n", encoding="ascii")
    try:
        host.check(["systemctl", "reload", "momservice"])
        host.wait_for(lambda: "90_more" in bus.call(host, "Policy", "GetNamedPolicies")[0], "the policy", log="momservice")
    finally:
        file.unlink()
    assert host.daemon("momservice")["pid"] == pid


def test_the_service_stops_cleanly_and_in_time(host: BootedHost) -> None:
    assert host.stop_service() == 0
    assert host.properties("momservice", "ActiveState", "Result") == ["inactive", "success"]


def test_the_service_and_a_helper_outlive_a_restart_of_the_bus(host: BootedHost) -> None:
    called(host, "momhelper", "mom")
    host.check(["systemctl", "restart", "dbus"])
    host.wait_for(lambda: host.owned(bus.NAME), "the service on the new bus", log="momservice")
    # polkit needs no more than to be asked again.
    host.wait_for(lambda: bus.properties(host)["PolkitAvailable"], "polkit on the new bus")
    assert "only momservice may call" in called(host, "momhelper", "mom")


def test_a_polkit_that_systemd_does_not_start_is_said(host: BootedHost) -> None:
    host.check(["systemctl", "mask", "--runtime", "--now", "polkit"])
    try:
        done = host.run(["momctl", "resume"], user="vdsm")
        assert (done.returncode, "but polkit does not answer: only root" in done.stderr) == (4, True), done.stderr
        host.check(["momctl", "resume"])
        assert not bus.properties(host)["PolkitAvailable"]
    finally:
        host.check(["systemctl", "unmask", "--runtime", "polkit"])
    host.check(["systemctl", "start", "polkit"])
    host.wait_for(lambda: bus.properties(host)["PolkitAvailable"], "the service to see polkit")


# Confinement


def confinement(host: BootedHost, unit: str) -> dict[str, str]:
    """What the kernel says of the unit's main process."""
    text = host.check(["cat", f"/proc/{host.daemon(unit)['pid']}/status"])
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def writable(host: BootedHost, unit: str, user: str) -> set[str]:
    """The folders that the unit's user could write to as it sees them, without capabilities; /proc, which has none, left out."""
    pid = host.daemon(unit)["pid"]
    inside = ["nsenter", f"--target={pid}", "--mount", "--", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    mounts = {line.split()[1] for line in host.check(["cat", f"/proc/{pid}/mounts"]).splitlines() if not line.split()[3].startswith("ro")}
    folders = sorted(place for place in mounts if not place.startswith("/proc"))
    look = ["find", *folders, "-xdev", "-maxdepth", "4", "-type", "d", "-writable"]
    return set(host.run([*inside, "--bounding-set=-all", "--inh-caps=-all", "--", *look]).stdout.splitlines())


def assert_confined(host: BootedHost, unit: str, user: str, *places: str) -> None:
    """`places`: the folders that it may write."""
    found = confinement(host, unit)
    assert found["Uid"].split() == [host.check(["id", "-u", user]).strip()] * 4
    capabilities = {found[f"Cap{kind}"].strip("0") for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert (capabilities, found["NoNewPrivs"], found["Seccomp"]) == ({""}, "1", "2")
    # What is its own, gone with it, or nobody's to write.
    own = {"/tmp", "/var/tmp", "/dev/mqueue", *places}
    assert writable(host, unit, user) - ({"/dev/pts"} if user == "root" else set()) == own


def test_the_service_is_confined(host: BootedHost) -> None:
    assert_confined(host, "momservice", "mom", "/var/lib/mom")


@pytest.mark.parametrize("unit", HELPERS)
def test_a_helper_is_started_confined_and_refuses_mom_without_the_services_name(host: BootedHost, unit: str) -> None:
    # Which may have it started again at any time.
    host.stop_service()
    host.stop(unit)
    assert "only momservice may call this helper" in called(host, unit, "mom")
    assert_confined(host, unit, HELPERS[unit][1], *(["/var/lib/momhelper"] if unit == "momhelper" else []))
    assert host.stop(unit) == 0
    assert host.properties(unit, "Result") == ["success"]


@pytest.mark.parametrize("unit", HELPERS)
@pytest.mark.parametrize("user", ["root", "alice"])
def test_a_stranger_gets_no_answer_even_if_its_call_starts_a_helper(host: BootedHost, unit: str, user: str) -> None:
    # Which may start it at any time, since KSM is what others on this machine make of it.
    host.stop_service()
    host.stop(unit)
    starts = host.events(unit).count("Started ")
    assert "DBus.Error.AccessDenied: " in called(host, unit, user)
    # dbus-broker starts first and asks its policy then.
    if host.bus == BROKER:
        host.wait_for(lambda: host.events(unit).count("Started ") == starts + 1, "the helper")
    assert (host.daemon(unit)["pid"] is not None, host.properties(unit, "Result")) == (host.bus == BROKER, ["success"])


def test_the_services_users_cannot_be_each_other(host: BootedHost) -> None:
    ask = ["busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su"]
    owners = {bus.NAME: "mom", **{f"org.ovirt.{name}": user for name, user, _ in HELPERS.values()}}
    for name, owner in owners.items():
        for user in ("root", "mom", "mom-guests", "alice"):
            refused = "denied" in host.run([*ask, name, "4"], user=user).stderr
            assert refused == (user != owner), (name, user)


# The bridge


def test_the_bridge_is_started_by_its_first_caller(host: BootedHost) -> None:
    host.check(["systemctl", "enable", "--now", "mom-rpc-bridge.socket"])
    try:
        place = host.path(SOCKET)
        assert host.daemon("mom-rpc-bridge")["pid"] is None
        assert (stat.S_IMODE(place.stat().st_mode), host.check(["stat", "--format=%U %G", SOCKET])) == (0o600, "vdsm root\n")
        assert OldVdsm(str(place), 60).status() == "active"
        assert_confined(host, "mom-rpc-bridge", "vdsm")
        inside = ["nsenter", f"--target={host.daemon('mom-rpc-bridge')['pid']}", "--mount", "--"]
        # Neither libvirt nor VDSM's helpers; systemd's is a folder for mounts, and empty.
        assert host.check([*inside, "ls", "/run"]) == "dbus\nsystemd\n"
    finally:
        host.check(["systemctl", "disable", "--now", "mom-rpc-bridge.socket"])
    assert not Path(host.path(SOCKET)).exists()
