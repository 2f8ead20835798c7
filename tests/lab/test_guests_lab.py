# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests, read over libvirt's read-only socket and ballooned through momhelper-guests; the engine is left out."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.common import PYTHON
from lab.guests import Guest
from lab.host import Host

# One host for the whole file, so one worker.
pytestmark = pytest.mark.xdist_group("guests")

HELPER = "org.ovirt.MomGuestHelper1"
WELL, OTHER = Guest(1, stats_period_s=1), Guest(2, stats_period_s=1)
NO_DRIVER, NO_BALLOON = Guest(3, arguments="noballoon"), Guest(4, balloon=False)
# No period: nothing makes its driver report, unless we do.
SILENT = Guest(5)
LOW_KIB, FULL_KIB = 98304, 131072


class Probe:
    """tests/lab/guests_probe.py, running in the lab."""

    def __init__(self, host: Host, user: str, *options: str) -> None:
        program = host.state / "guests_probe.py"
        shutil.copyfile(Path(__file__).with_name("guests_probe.py"), program)
        pipe = subprocess.PIPE
        self._process = host.popen([PYTHON, "-I", str(program), *options], user, stdin=pipe, stdout=pipe, text=True)
        assert self._read() == {"ready": True}

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """The answer; a helper that has had too many calls is given the time it wants."""
        while "too many calls" in str((answer := self._exchange(do, **what)).get("text", answer.get("helper"))):
            time.sleep(0.5)
        return answer

    def _exchange(self, do: str, **what: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def guests(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.ask("guests")["guests"]
        return found

    def apply(self, targets: Mapping[Guest, float]) -> dict[str, list[Any]]:
        """Outcome [status, applied, reason] by guest name."""
        names = {guest.uuid: guest.name for guest in targets}
        answer = self.ask("apply", targets={guest.uuid: value for guest, value in targets.items()})
        return {names[uuid]: outcome for uuid, outcome in answer["outcomes"].items()}

    def call(self, member: str, signature: str, *args: Any) -> Any:
        return self.ask("call", member=member, signature=signature, args=args)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host([WELL, OTHER, NO_DRIVER, NO_BALLOON, SILENT], service=False, ksm=False) as host:
        yield host


@pytest.fixture(scope="module")
def probe(host: Host) -> Iterator[Probe]:
    probe = Probe(host, "mom")
    host.wait_for(lambda: all("mem_free" in probe.guests()[guest.name] for guest in (WELL, OTHER)), "guests' statistics", 180)
    yield probe
    probe.close()


@pytest.fixture(autouse=True)
def all_full(host: Host, probe: Probe) -> Iterator[None]:
    """Each test leaves running guests with all their memory, and nothing learned of their balloons."""
    yield
    for guest in (WELL, OTHER):
        host.check(["virsh", "setmem", guest.name, f"{FULL_KIB}KiB", "--live"])
    host.wait_for(lambda: {host.balloons()[guest.name] for guest in (WELL, OTHER)} == {FULL_KIB * 1024}, "full balloons")
    for guest in (WELL, OTHER):
        probe.ask("forget", uuid=guest.uuid)


def balloon_kib(host: Host, guest: Guest) -> int:
    return host.balloons()[guest.name] // 1024


@contextmanager
def stopped(host: Host, pid: int) -> Iterator[None]:
    """A QEMU that hangs for a while."""
    host.check(["kill", "-STOP", str(pid)])
    try:
        yield
    finally:
        host.check(["kill", "-CONT", str(pid)])


def test_an_unprivileged_user_reads_all_guests(probe: Probe) -> None:
    guests = probe.guests()
    assert list(guests) == ["vm1", "vm2", "vm3", "vm4", "vm5"]
    well = guests["vm1"]
    assert well["uuid"] == WELL.uuid
    assert 0 < well["mem_unused"] <= well["mem_free"] <= well["mem_available"] < FULL_KIB
    assert (well["balloon_cur"], well["balloon_max"], well["balloon_min"]) == (FULL_KIB, FULL_KIB, 0)
    assert (well["held"], well["balloon_works"], well["mergeable"]) == (False, True, True)
    assert well["pid"] > 0
    assert well["rss"] > 1000


def test_guests_without_driver_or_device_are_told_apart_from_the_others(probe: Probe) -> None:
    guests = probe.guests()
    for guest in (NO_DRIVER, NO_BALLOON):
        told = guests[guest.name]
        assert told["balloon_works"] is False
        assert "mem_free" not in told
        assert told["balloon_cur"] == FULL_KIB
    outcomes = probe.apply({NO_DRIVER: LOW_KIB, NO_BALLOON: LOW_KIB})
    assert outcomes["vm3"][::2] == ["refused", "not shrunk: the guest gives no memory statistics"]
    assert outcomes["vm4"][::2] == ["refused", "the guest has no balloon device"]


def test_balloons_go_down_and_up_through_the_helper(host: Host, probe: Probe) -> None:
    down = probe.apply({WELL: LOW_KIB + 0.5, OTHER: LOW_KIB})
    assert down == {"vm1": ["applied", LOW_KIB, ""], "vm2": ["applied", LOW_KIB, ""]}
    host.wait_for(lambda: balloon_kib(host, WELL) == balloon_kib(host, OTHER) == LOW_KIB, "balloons to go down")
    assert probe.apply({WELL: LOW_KIB})["vm1"][0] == "unchanged"
    up = probe.apply({WELL: FULL_KIB * 9})
    assert up["vm1"][:2] == ["clamped", FULL_KIB]
    host.wait_for(lambda: balloon_kib(host, WELL) == FULL_KIB, "the balloon to go up")
    assert balloon_kib(host, OTHER) == LOW_KIB


def test_the_helper_checks_for_itself(host: Host, probe: Probe) -> None:
    absent = "00000000-0000-4000-8000-0000000000ff"
    targets = [[absent, 1 << 27], [WELL.uuid, 1 << 40], [OTHER.uuid, 0], [NO_BALLOON.uuid, 100 << 20], [NO_DRIVER.uuid, 100 << 20]]
    outcomes = [outcome[:2] for outcome in probe.call("SetMemory", "a(st)", targets)["answer"]]
    assert outcomes == [
        [absent, "unknown-guest"],
        [WELL.uuid, "out-of-range"],
        [OTHER.uuid, "out-of-range"],
        [NO_BALLOON.uuid, "failed"],
        # libvirt takes it and nothing happens: only a look at the balloon tells.
        [NO_DRIVER.uuid, "ok"],
    ]
    assert balloon_kib(host, OTHER) == FULL_KIB


@pytest.mark.parametrize(
    ("member", "signature", "args", "error"),
    [
        ("SetMemory", "a(st)", [[["../../etc/passwd", 1]]], "InvalidArgs"),
        ("SetMemory", "a(st)", [[["0" * 32, 1]]], "InvalidArgs"),
        ("SetMemory", "a(st)", [[[WELL.uuid, 1 << 27], [WELL.uuid, 1 << 26]]], "InvalidArgs"),
        ("SetMemory", "a(st)", [[["x" * 1_000_000, 1]]], "InvalidArgs"),
        ("SetMemory", "a(st)", [[["", 0]] * 10_001], "LimitsExceeded"),
        ("SetMemory", "as", [["x"]], "InvalidArgs"),
        ("SetStatsPeriod", "asu", [[WELL.uuid], 0], "InvalidArgs"),
        ("SetStatsPeriod", "asu", [[WELL.uuid], 3601], "InvalidArgs"),
        ("SetEverything", "", [], "UnknownMethod"),
    ],
)
def test_nonsense_gets_a_named_error_of_one_short_line(probe: Probe, member: str, signature: str, args: list[Any], error: str) -> None:
    answer = probe.call(member, signature, *args)
    assert answer["error"] == f"org.freedesktop.DBus.Error.{error}"
    assert "\n" not in answer["text"]
    assert len(answer["text"]) < 200


def test_statistics_begin_when_the_service_finds_a_guest(host: Host, probe: Probe) -> None:
    # Its driver has reported once, when it was loaded.
    host.wait_for(lambda: not probe.guests()["vm5"]["balloon_works"], "the only statistics to grow old")
    probe.ask("ensure")
    host.wait_for(lambda: probe.guests()["vm5"].get("balloon_works"), "statistics of a guest that had no period")


def test_a_paused_guest_is_held_and_the_others_are_not(host: Host, probe: Probe) -> None:
    host.check(["virsh", "suspend", "vm1"])
    try:
        assert probe.guests()["vm1"]["held"] is True
        outcomes = probe.apply({WELL: LOW_KIB, OTHER: LOW_KIB})
        assert outcomes["vm1"] == ["held", None, "the guest is paused"]
        assert outcomes["vm2"][0] == "applied"
    finally:
        host.check(["virsh", "resume", "vm1"])
    assert probe.guests()["vm1"]["held"] is False
    assert balloon_kib(host, WELL) == FULL_KIB


def test_a_guest_with_a_job_is_held_and_the_helper_finds_it_busy(host: Host, probe: Probe) -> None:
    # A dump to a pipe that nobody empties: a job for as long as we like.
    host.check(["mkfifo", "/run/dump"])
    reader = host.popen(["sh", "-c", "exec 3</run/dump; exec sleep 600"])
    dump = host.popen(["virsh", "--quiet", "dump", "--live", "vm1", "/run/dump"], stderr=subprocess.DEVNULL)
    try:
        host.wait_for(lambda: probe.guests()["vm1"]["job"] > 0, "the job")
        assert probe.apply({WELL: LOW_KIB})["vm1"][0] == "held"
        answer = probe.call("SetMemory", "a(st)", [[WELL.uuid, LOW_KIB * 1024]])["answer"]
        assert answer == [[WELL.uuid, "busy", "a job is running in the guest"]]
    finally:
        reader.kill()
        reader.wait()
        dump.wait(60)
    host.wait_for(lambda: not probe.guests()["vm1"]["held"], "the end of the job")


def test_a_hung_qemu_is_set_aside_and_comes_back(host: Host, probe: Probe) -> None:
    pid = probe.guests()["vm1"]["pid"]
    with stopped(host, pid):
        first = probe.ask("guests")
        assert first["guests"]["vm1"]["held"] is True
        assert "mem_free" not in first["guests"]["vm1"]
        assert (first["guests"]["vm2"]["held"], first["guests"]["vm2"]["balloon_works"]) == (False, True)
        # Only the first pass finds out by waiting.
        assert probe.ask("guests")["seconds"] < first["seconds"]
        outcomes = probe.apply({WELL: LOW_KIB, OTHER: LOW_KIB})
        assert (outcomes["vm1"][0], outcomes["vm2"][0]) == ("held", "applied")
    host.wait_for(lambda: probe.guests()["vm1"].get("balloon_works") and not probe.guests()["vm1"]["held"], "the guest to come back")


def test_a_hung_qemu_costs_the_helper_its_deadline_once_and_no_other_guest(host: Host, probe: Probe) -> None:
    pid = probe.guests()["vm1"]["pid"]
    targets = [[WELL.uuid, LOW_KIB * 1024], [OTHER.uuid, LOW_KIB * 1024]]
    with stopped(host, pid):
        first = probe.call("SetMemory", "a(st)", targets)
        assert [outcome[1] for outcome in first["answer"]] == ["timeout", "ok"]
        second = probe.call("SetMemory", "a(st)", targets)
        assert [outcome[1] for outcome in second["answer"]] == ["unavailable", "ok"]
        assert second["seconds"] < first["seconds"]

    def obeys() -> bool:
        return bool(probe.call("SetMemory", "a(st)", targets[:1]).get("answer", [["", ""]])[0][1] == "ok")

    host.wait_for(obeys, "the helper to reach the guest again")


def test_libvirtd_may_die_and_come_back(host: Host, probe: Probe) -> None:
    host.signal("libvirt", signal.SIGKILL)
    host.wait_for(lambda: host.daemon("libvirt")["pid"] is None, "the end of libvirt")
    answer = probe.ask("guests")
    assert answer["connected"] is False
    assert "\n" not in answer["unavailable"]
    assert probe.call("SetMemory", "a(st)", [[WELL.uuid, LOW_KIB * 1024]])["answer"][0][1] == "unavailable"
    host.start_libvirt()
    # It answers before it has found all of them again.
    host.wait_for(lambda: [guest["held"] for guest in probe.ask("guests").get("guests", {}).values()] == [False] * 5, "the guests")
    assert probe.call("SetMemory", "a(st)", [[WELL.uuid, LOW_KIB * 1024]])["answer"][0][1] == "ok"
    host.wait_for(lambda: balloon_kib(host, WELL) == LOW_KIB, "the balloon")


def test_the_service_itself_may_not_write(probe: Probe) -> None:
    assert probe.ask("write", uuid=WELL.uuid)["refused"] == [libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_AUTH_UNAVAILABLE]


def test_the_shipped_rule_is_what_lets_the_helper_write(host: Host) -> None:
    write = ["virsh", "-c", "qemu:///system", "setmem", "vm2", f"{LOW_KIB}KiB", "--live"]
    assert host.run(write, user="alice").returncode != 0
    assert host.run(write, user="mom-guests").returncode == 0
    rule = host.path("/usr/share/polkit-1/rules.d/mom-guests.rules")
    text = rule.read_text(encoding="utf-8")
    rule.unlink()
    try:
        host.wait_for(lambda: host.run(write, user="mom-guests").returncode != 0, "polkit to forget the rule")
    finally:
        rule.write_text(text, encoding="utf-8")
    host.wait_for(lambda: host.run(write, user="mom-guests").returncode == 0, "polkit to know the rule")


@pytest.mark.parametrize("user", ["root", "alice", "mom-guests"])
def test_the_bus_lets_nobody_but_the_service_call(host: Host, probe: Probe, user: str) -> None:
    assert probe.guests()
    result = host.run(["busctl", "call", HELPER, "/org/ovirt/MomGuestHelper1", HELPER, "SetMemory", "a(st)", "0"], user=user)
    assert result.returncode != 0
    assert "denied" in result.stderr.lower()


def test_the_user_of_the_service_without_its_name_is_refused(host: Host, probe: Probe) -> None:
    stranger = Probe(host, "mom", "--nameless")
    try:
        answer = stranger.call("SetMemory", "a(st)", [[WELL.uuid, LOW_KIB * 1024]])
        assert answer["error"] == "org.freedesktop.DBus.Error.AccessDenied"
        assert "refused SetMemory" in host.log("momhelper-guests")
    finally:
        stranger.close()
    assert balloon_kib(host, WELL) == FULL_KIB


def test_the_helper_runs_as_its_own_user_and_prints_nothing_of_libvirts(host: Host, probe: Probe) -> None:
    probe.call("SetMemory", "a(st)", [])
    pid = host.check(["pgrep", "--uid", "mom-guests", "--full", "momhelper-guests"]).split()
    assert len(pid) == 1
    assert "libvirt: " not in host.log("momhelper-guests")
    assert "Traceback" not in host.log("momhelper-guests")


def test_the_helper_stops_although_libvirtd_hangs(host: Host, probe: Probe) -> None:
    targets = [[WELL.uuid, LOW_KIB * 1024]]
    assert probe.call("SetMemory", "a(st)", targets)["answer"][0][1] == "ok"
    host.signal("libvirt", signal.SIGSTOP)
    try:
        assert probe.call("SetMemory", "a(st)", targets)["answer"][0][1] == "unavailable"
        host.check(["pkill", "--uid", "mom-guests", "--full", "momhelper-guests"])
        host.wait_for(lambda: not host.owned(HELPER), "the helper to leave the bus")
        host.wait_for(lambda: host.run(["pgrep", "--uid", "mom-guests"]).returncode == 1, "the end of the helper")
    finally:
        host.signal("libvirt", signal.SIGCONT)
    assert probe.call("SetMemory", "a(st)", targets)["answer"][0][1] == "ok"
    assert "Traceback" not in host.log("momhelper-guests")


@pytest.mark.parametrize("hung", [False, True])
def test_a_qemu_that_is_killed_is_gone_and_its_next_start_is_another(host: Host, probe: Probe, hung: bool) -> None:
    pid = probe.guests()["vm5"]["pid"]
    if hung:
        host.check(["kill", "-STOP", str(pid)])
        assert probe.guests()["vm5"]["held"] is True
    host.check(["kill", "-KILL", str(pid)])
    host.wait_for(lambda: "vm5" not in probe.guests(), "the guest to be gone")
    assert probe.guests()["vm1"]["held"] is False
    assert probe.apply({SILENT: LOW_KIB, OTHER: LOW_KIB})["vm2"][0] == "applied"
    host.check(["virsh", "--quiet", "create", str(host.state / "vm5.xml")], timeout=120)
    again = probe.guests()["vm5"]
    assert (again["uuid"], again["balloon_cur"]) == (SILENT.uuid, FULL_KIB)
    assert again["pid"] not in (None, pid)


def test_the_maximum_of_a_running_guest_stays(host: Host, probe: Probe) -> None:
    """What balloons may grow to can't be lowered under us."""
    refused = host.run(["virsh", "setmaxmem", "vm1", f"{LOW_KIB}KiB", "--live"])
    assert "cannot resize the maximum memory on an active domain" in refused.stderr
    assert probe.guests()["vm1"]["balloon_max"] == FULL_KIB


def test_a_guest_that_ends_is_gone_from_the_next_answer(host: Host, probe: Probe) -> None:
    host.check(["virsh", "destroy", "vm5"])
    assert list(probe.guests()) == ["vm1", "vm2", "vm3", "vm4"]
    assert probe.call("SetMemory", "a(st)", [[SILENT.uuid, LOW_KIB * 1024]])["answer"][0][1] == "unknown-guest"
    assert probe.apply({SILENT: LOW_KIB})["vm5"] == ["refused", None, "the guest is gone"]
