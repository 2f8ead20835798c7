# SPDX-License-Identifier: GPL-2.0-or-later
"""The throw-away host itself: what gets in and out of it, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import bus, daemons, knobs
from lab.anyhost import AnyHost
from lab.common import LabError, locked
from lab.host import Host
from lab.hosts import HOSTS
from lab.stranger import BUS, Stranger, call_of

ROOT = Path(__file__).parent.parent.parent
PLAIN = ["--guests", "0", "--no-ksm", "--no-service"]
KNOB = "/sys/kernel/mm/ksm/pages_to_scan"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(guests=0, libvirt=False, service=False, ksm=False) as running:
        yield running


def dev(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "dev", *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)


def until(condition: Callable[[], object], timeout_s: float = 90) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_command_keeps_its_output_its_input_its_folder_and_its_exit_status() -> None:
    done = dev("lab", *PLAIN, "--", "sh", "-c", "cat; pwd; echo oops >&2; exit 7", stdin="from outside\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"from outside\n{ROOT}\n", "oops\n")


def test_options_after_the_command_are_the_commands_own() -> None:
    assert dev("lab", *PLAIN, "sh", "-c", 'echo "$@"', "sh", "--guests", "--help").stdout == "--guests --help\n"


def test_a_command_finds_the_bus_and_libvirt_by_its_environment() -> None:
    done = dev("lab", *PLAIN, "--", "sh", "-c", "busctl --address=$DBUS_SYSTEM_BUS_ADDRESS list --acquired && virsh -r uri")
    assert done.returncode == 0
    assert "org.freedesktop.PolicyKit1" in done.stdout
    assert "qemu:///system" in done.stdout


def test_a_command_that_does_not_exist_fails_as_in_a_shell() -> None:
    assert dev("lab", *PLAIN, "--", "no-such-program").returncode == 127


def test_the_lab_without_ksm_cannot_write_the_knobs(host: Host) -> None:
    result = host.run(["sh", "-c", f"echo 100 > {KNOB}"])
    assert "Read-only file system" in result.stderr


def test_what_is_written_to_the_system_stays_in_the_lab(host: Host) -> None:
    host.check(["sh", "-c", "echo here > /etc/mom-lab-test; echo here > /usr/bin/mom-lab-test; echo here > /var/lib/mom-lab-test"])
    assert host.path("/etc/mom-lab-test").read_text() == "here\n"
    assert not [folder for folder in ("/etc", "/usr/bin", "/var/lib") if Path(folder, "mom-lab-test").exists()]


def test_the_users_exist_in_the_lab_only(host: Host) -> None:
    for user in ("mom", "mom-guests", "alice"):
        assert host.check(["id", "-un"], user=user) == f"{user}\n"
    assert subprocess.run(["id", "mom-guests"], capture_output=True, check=False).returncode != 0


def test_an_ordinary_user_in_the_lab_is_in_no_group_of_weight(host: Host) -> None:
    assert host.check(["id", "-Gn"], user="mom").split() == ["mom"]
    assert host.check(["id", "-Gn"], user="mom-guests").split() == ["mom-guests"]


def test_the_programs_are_installed_with_the_tree_as_it_is(host: Host) -> None:
    assert host.check(["momservice", "--version"]) == "momservice 0.1.0\n"
    assert host.run(["momctl", "--help"]).returncode == 0
    for helper in ("momhelper", "momhelper-guests"):
        assert host.path(f"/usr/libexec/{helper}").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", HOSTS.values(), ids=list(HOSTS))
def test_a_daemon_that_fails_is_named_with_its_last_words(kind: type[AnyHost]) -> None:
    host = kind(guests=0, libvirt=False, ksm=False, drop_in="[no-such-section]\nx: 1\n")
    with pytest.raises(LabError, match=r"momservice doesn't stay up: .*no-such-section"), host:
        pass


# Before the other tests with the service, which starts helpers.
@pytest.mark.parametrize("program", ["momhelper", "momhelper-guests", "momservice"])
def test_a_stop_is_heeded_as_soon_as_the_name_is_owned(host: Host, program: str) -> None:
    watcher = Stranger(host.bus_address)
    if program == "momservice":
        name = bus.NAME
        host.start(daemons.SERVICE)
    else:
        name = {"momhelper": "org.ovirt.MomHelper1", "momhelper-guests": "org.ovirt.MomGuestHelper1"}[program]
        watcher.send(call_of(*BUS, "StartServiceByName", "su", name, 0, quiet=True))
    # A look every 50 ms would come too late for what this is about.
    end = time.monotonic() + 90
    while not watcher.call(call_of(*BUS, "NameHasOwner", "s", name)).body[0]:
        assert time.monotonic() < end
    if program == "momservice":
        assert host.stop_service() == 0
    else:
        host.check(["kill", str(watcher.call(call_of(*BUS, "GetConnectionUnixProcessID", "s", name)).body[0])])
        until(lambda: host.ended_helper(program) is not None)
        assert host.ended_helper(program) == 0


def test_a_killed_service_is_started_again_and_a_stopped_one_is_not(host: Host) -> None:
    host.start_service()
    host.kill_service()
    host.wait_for(lambda: host.daemon("momservice")["starts"] == 2 and host.owned(bus.NAME), "the second momservice")
    assert os.WIFSIGNALED(host.daemon("momservice")["status"])
    assert host.stop_service() == 0
    time.sleep(1.5)
    assert host.daemon("momservice")["pid"] is None
    assert not host.owned(bus.NAME)


def members(namespace: str) -> list[int]:
    """The processes in a process namespace, named as /proc does."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((path / "ns/pid").readlink()) == namespace:
                found.append(int(path.name))
    return found


def knobs_when_free() -> dict[str, str]:
    """The knobs while no lab uses them; a guardian keeps the lock until it has put them back."""
    with locked(knobs.LOCK):
        return knobs.read()


def control_groups() -> list[str]:
    """The top ones of the kind that systemd uses, whether or not the machine shows them."""
    look = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && ls /sys/fs/cgroup"
    return subprocess.run(["unshare", "--mount", "sh", "-ec", look], capture_output=True, text=True, check=True).stdout.split()


def settings() -> list[str]:
    """Settings of the kernel that a systemd changes where it boots a machine."""
    return [Path("/proc/sys", name).read_text() for name in ("fs/nr_open", "fs/file-max", "kernel/core_pattern")]


# Ctrl-C reaches all processes of the terminal, everything else dev alone.
ENDS = {"kill": (os.kill, signal.SIGKILL), "term": (os.kill, signal.SIGTERM), "ctrl-c": (os.killpg, signal.SIGINT)}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    ("options", "least"),
    [
        (["--guests", "1"], ["supervisor", "dbus-daemon", "polkitd", "libvirtd", "qemu", "sleep"]),
        (["--booted", "--guests", "1"], ["systemd", "journald", "logind", "launcher", "dbus-broker", "libvirtd", "qemu", "sleep"]),
    ],
    ids=["plain", "booted"],
)
def test_however_dev_ends_all_is_as_before(options: list[str], least: list[str], end: tuple[Callable[[int, int], None], int]) -> None:
    before, mounts, kernel = knobs_when_free(), Path("/proc/mounts").read_text(), settings()
    value = str(int(before["pages_to_scan"]) + 1)
    script = f"echo {value} > {KNOB}; echo $MOM_LAB; readlink /proc/self/ns/pid; exec sleep 1000"
    # Whoever runs the tests in the background has them ignore Ctrl-C.
    begin = ["env", "--default-signal=INT", str(ROOT / "dev")]
    arguments = [*begin, "lab", *options, "--no-service", "--", "sh", "-c", script]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        state, namespace = Path(process.stdout.readline().strip()), process.stdout.readline().strip()
        changed, inside, existed = knobs.read()["pages_to_scan"], members(namespace), state.is_dir()
        grouped = state.name in control_groups()
        end[0](process.pid, end[1])
    assert knobs_when_free() == before
    # Not before: a failure above would leave the lab behind.
    assert (changed, existed, grouped) == (value, True, "--booted" in options)
    assert len(inside) >= len(least)
    until(lambda: not members(namespace) and not state.exists())
    assert state.name not in control_groups()
    assert (Path("/proc/mounts").read_text(), settings()) == (mounts, kernel)


def test_a_lab_that_is_stuck_ends_all_the_same() -> None:
    script = f"echo $(( $(cat {KNOB}) + 1 )) > {KNOB}; readlink /proc/self/ns/pid; exec sleep 1000"
    before = knobs_when_free()
    arguments = [str(ROOT / "dev"), "lab", "--guests", "0", "--no-service", "--", "sh", "-c", script]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        namespace = process.stdout.readline().strip()
        os.kill(min(members(namespace)), signal.SIGSTOP)
        process.kill()
    assert knobs_when_free() == before
    until(lambda: not members(namespace))


def imitate(host: Host, script: str) -> None:
    """Run a script as an activated momhelper would be: an orphan of that name."""
    program = host.path("/run/momhelper")
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    host.check(["setsid", "--fork", "/run/momhelper"])
    host.wait_for(lambda: host.ended_helper("momhelper") is not None, "the end of the imitated helper")


@pytest.mark.parametrize(("script", "restored"), [("exit 3", False), ("kill -KILL $$", True)])
def test_a_helper_that_is_killed_has_its_knobs_put_back_and_one_that_exits_has_not(script: str, restored: bool) -> None:
    with Host(guests=0, libvirt=False, service=False) as host:
        found = host.knobs_before["pages_to_scan"]
        other = str(int(found) + 1)
        host.check(["sh", "-c", f"echo {other} > {KNOB}"])
        imitate(host, script)
        if restored:
            host.wait_for(lambda: knobs.read()["pages_to_scan"] == found, "the knob to be put back")
        else:
            time.sleep(1)
            assert knobs.read()["pages_to_scan"] == other
        # The rest is left running.
        assert host.owned("org.freedesktop.PolicyKit1")
    assert knobs_when_free()["pages_to_scan"] == found


def test_the_helper_killed_for_real_has_its_knobs_put_back() -> None:
    with Host(guests=0, libvirt=False) as host:
        host.wait_for(lambda: bus.properties(host)["LastEvaluation"], "the first policy run")
        bus.set_parameters(host, {"ksm_free_percent": 1.0})
        host.wait_for(lambda: knobs.read()["pages_to_scan"] != host.knobs_before["pages_to_scan"], "the policy to move KSM")
        # So that nobody activates another helper, which would put the knobs back itself.
        host.signal("momservice", signal.SIGSTOP)
        host.check(["pkill", "-KILL", "-x", "momhelper"])
        host.wait_for(lambda: knobs.read() == host.knobs_before, "the knobs to be put back")
        assert os.WTERMSIG(host.ended_helper("momhelper") or 0) == signal.SIGKILL
