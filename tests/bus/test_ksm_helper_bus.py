# SPDX-License-Identifier: GPL-2.0-or-later
"""momhelper on a real bus: whom it obeys, how often, and when it puts the knobs back by itself."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.anyhost import AnyHost
from lab.common import PYTHON
from lab.hosts import host_with

NAME, PATH = "org.ovirt.MomHelper1", "/org/ovirt/MomHelper1"
HERE = Path(__file__).parent
FOUND = {"run": 0, "pages_to_scan": 100, "sleep_millisecs": 20}
NOBODY_ELSE = {"error": "AccessDenied", "text": "only momservice may call this helper"}
# A bus whose policy keeps nobody from anything: what is left is the helper's own check.
LAX_BUS = """<busconfig><type>system</type><listen>unix:path={0}</listen><policy context="default">
<allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow user="*"/></policy></busconfig>"""


class Stage:
    """A host with what runs in it for one test."""

    def __init__(self, host: AnyHost, folder: Path) -> None:
        self.host, self.folder, self.environment = host, folder, dict[str, str]()
        self.exit = ExitStack()
        (folder / "ksm").mkdir(parents=True)
        for knob, value in FOUND.items():
            (folder / "ksm" / knob).write_text(f"{value}\n")

    def start(self, program: str, *arguments: str, user: str = "root") -> subprocess.Popen[str]:
        """Start one of the programs beside this file."""
        copy = self.host.state / program
        shutil.copyfile(HERE / program, copy)
        pipe = subprocess.PIPE
        command = [PYTHON, "-I", str(copy), *arguments]
        process = self.host.popen(command, user, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.exit.callback(end, process)
        return process

    def start_helper(self, gone: float = 60, lease: float = 60, idle: float = 60) -> subprocess.Popen[str]:
        """A helper on files, and wait until it has its name."""
        process = self.start("ksm_helper_on_files.py", str(self.folder), str(gone), str(lease), str(idle))
        self.wait_for(lambda: self.owned() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process

    def owned(self) -> bool:
        call = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", NAME]
        return self.host.run(["busctl", "call", *call], env=self.environment).stdout.strip() == "b true"

    def probe(self, *options: str, user: str = "mom") -> "Probe":
        return Probe(self.start("ksm_probe.py", *options, user=user))

    def knobs(self) -> dict[str, int]:
        # A file, unlike a knob, can be seen empty while it is written.
        return {knob: int((self.folder / "ksm" / knob).read_text() or -1) for knob in FOUND}

    def wait_for(self, condition: Callable[[], object], timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def use_lax_bus(self) -> subprocess.Popen[bytes]:
        """From now on everything is on a second bus."""
        socket, configuration = self.host.state / f"{self.folder.name}.bus", self.host.state / f"{self.folder.name}.conf"
        configuration.write_text(LAX_BUS.format(socket))
        process = self.host.popen(["dbus-daemon", f"--config-file={configuration}", "--nofork"], stderr=subprocess.DEVNULL)
        self.exit.callback(end, process)
        self.wait_for(socket.is_socket)
        self.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={socket}"
        return process


class Probe:
    """tests/bus/ksm_probe.py, running in the lab."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]

    def call(self, member: str, signature: str = "", *args: Any) -> Any:
        """What it answers: the only out-argument or None, or a dictionary with the error's name and text."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([member, signature, *args]) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        return reply if "error" in reply else next(iter(reply["answer"]), None)

    def apply(self, **knobs: int) -> Any:
        return self.call("Apply", "a{su}", knobs)


def end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus, service=False) as host:
        yield host


@pytest.fixture
def stage(host: AnyHost, tmp_path: Path) -> Iterator[Stage]:
    folder = host.state / tmp_path.name
    stage = Stage(host, folder)
    with stage.exit:
        yield stage
    # The next test's helper has the name for itself. Whoever calls as one goes has the bus start the installed one.
    stage.environment.clear()
    host.run(["pkill", "-f", "/momhelper$"])
    stage.wait_for(lambda: not stage.owned())


@pytest.mark.parametrize("user", ["root", "alice", "mom-guests"])
@pytest.mark.parametrize(
    "call",
    [
        [NAME, "Read"],
        [NAME, "Apply", "a{su}", "1", "run", "1"],
        ["org.freedesktop.DBus.Introspectable", "Introspect"],
        ["org.freedesktop.DBus.Peer", "Ping"],
        ["org.freedesktop.DBus.Properties", "GetAll", "s", NAME],
    ],
)
def test_the_bus_lets_nobody_but_mom_send_anything(stage: Stage, user: str, call: list[str]) -> None:
    stage.start_helper()
    result = stage.host.run(["busctl", "call", NAME, PATH, *call], user=user)
    assert (result.returncode, result.stdout) == (1, "")
    assert "denied" in result.stderr.lower()
    assert stage.knobs() == FOUND


def test_mom_may_not_be_the_helper(stage: Stage) -> None:
    result = stage.start("ksm_helper_on_files.py", str(stage.folder), "1", "1", "1", user="mom")
    assert result.wait(60) == 1
    assert "refuses the name" in result.communicate()[1]


def test_mom_without_the_services_name_is_refused(stage: Stage) -> None:
    stage.start_helper()
    stranger = stage.probe()
    assert stranger.call("Read") == NOBODY_ELSE
    service = stage.probe("--own")
    assert service.call("Read")["run"] == 0
    assert stranger.apply(run=1) == NOBODY_ELSE
    assert stage.knobs() == FOUND


@pytest.mark.parametrize("user", ["root", "alice"])
def test_the_services_name_without_its_user_is_refused(stage: Stage, user: str) -> None:
    stage.use_lax_bus()
    stage.start_helper()
    impostor = stage.probe("--own", user=user)
    for call in (["Read"], ["Restore"], ["Renew", "u", 60], ["Apply", "a{su}", {"run": 1}]):
        assert impostor.call(*call) == NOBODY_ELSE
    assert stage.knobs() == FOUND


def test_the_former_owner_of_the_name_is_refused(stage: Stage) -> None:
    stage.start_helper()
    stage.probe("--own").process.kill()
    stage.wait_for(lambda: not stage.host.owned("org.ovirt.Mom1"))
    assert stage.probe().call("Read") == NOBODY_ELSE


def test_what_the_service_gets(stage: Stage) -> None:
    stage.start_helper()
    service = stage.probe("--own")
    assert service.call("Read") == {**FOUND, "pages_shared": 0, "pages_sharing": 0}
    assert service.apply(run=1, sleep_millisecs=0) == {"run": 1, "sleep_millisecs": 10}
    assert stage.knobs() == {**FOUND, "run": 1, "sleep_millisecs": 10}
    assert service.apply(run=7)["error"] == "OutOfRange"
    assert service.apply(nonsense=1) == {"error": "InvalidArgs", "text": "nonsense: this kernel has no such knob"}
    assert service.call("Apply", "a{ss}", {"run": "1"})["error"] == "InvalidArgs"
    assert service.call("Renew", "u", 120) is None
    assert [service.call("Renew", "u", seconds)["error"] for seconds in (0, 121)] == ["OutOfRange"] * 2
    assert service.call("Restore") is None
    assert stage.knobs() == FOUND


def test_a_burst_of_calls_is_cut_off(stage: Stage) -> None:
    stage.start_helper()
    service = stage.probe("--own")
    assert all("error" not in service.call("Read") for _ in range(20))
    # As many as go beyond one a second, which is given back meanwhile.
    stage.wait_for(lambda: service.call("Read").get("error") == "LimitsExceeded")
    stage.wait_for(lambda: "error" not in service.call("Read"))


def test_refused_calls_use_up_nothing(stage: Stage) -> None:
    stage.start_helper()
    stranger, service = stage.probe(), stage.probe("--own")
    for _ in range(30):
        assert stranger.call("Read") == NOBODY_ELSE
    assert "error" not in service.call("Read")


def test_the_service_gone_too_long(stage: Stage) -> None:
    stage.start_helper(gone=3)
    time.sleep(1.5)
    service = stage.probe("--own")
    # Between two looks of the helper, perhaps.
    there = time.monotonic()
    assert service.apply(run=1) == {"run": 1}
    service.process.kill()
    # Long before the lease ends.
    stage.wait_for(lambda: stage.knobs() == FOUND, 20)
    assert time.monotonic() - there > 2.9


def test_a_service_that_comes_back_in_time_keeps_its_knobs(stage: Stage) -> None:
    stage.start_helper(gone=8)
    # Both are there already: a busy machine takes seconds to start one.
    service, again = stage.probe("--own"), stage.probe()
    service.apply(run=1)
    service.process.kill()
    stage.wait_for(lambda: not stage.host.owned("org.ovirt.Mom1"))
    time.sleep(1)
    again.call("own")
    time.sleep(9)
    assert stage.knobs() == {**FOUND, "run": 1}
    again.call("Restore")


def test_the_lease_runs_out_and_can_be_renewed(stage: Stage) -> None:
    stage.start_helper(lease=5)
    service = stage.probe("--own")
    service.apply(run=1)
    for _ in range(4):
        service.call("Renew", "u", 5)
        time.sleep(1.5)
        assert stage.knobs()["run"] == 1
    stage.wait_for(lambda: stage.knobs() == FOUND)


@pytest.mark.parametrize("number", [15, 2])
def test_a_signal_restores(stage: Stage, number: int) -> None:
    helper = stage.start_helper()
    stage.probe("--own").apply(run=1, pages_to_scan=5)
    inner = stage.host.check(["pgrep", "-f", f"ksm_helper_on_files.py {stage.folder}"]).split()
    stage.host.check(["kill", f"-{number}", *inner])
    assert helper.wait(60) == 0
    assert stage.knobs() == FOUND


def test_the_next_one_restores_what_a_killed_one_left(stage: Stage) -> None:
    helper = stage.start_helper()
    stage.probe("--own").apply(run=1, pages_to_scan=5)
    end(helper)
    assert stage.knobs() == {**FOUND, "run": 1, "pages_to_scan": 5}
    stage.wait_for(lambda: not stage.owned())
    stage.start_helper()
    stage.wait_for(lambda: stage.knobs() == FOUND)


def test_a_lost_bus_restores_and_fails(stage: Stage) -> None:
    bus = stage.use_lax_bus()
    helper = stage.start_helper()
    assert stage.probe("--own", user="mom").apply(run=1) == {"run": 1}
    end(bus)
    assert helper.wait(60) == 1
    assert stage.knobs() == FOUND


def test_it_goes_when_idle_and_nothing_is_changed(stage: Stage) -> None:
    # First: to start it may take as long.
    stranger = stage.probe()
    helper = stage.start_helper(idle=2)
    end_s = time.monotonic() + 60
    # Strangers don't keep it up.
    while helper.poll() is None and time.monotonic() < end_s:
        assert stranger.call("Read")["error"] in ("AccessDenied", "NoReply", "ServiceUnknown")
        time.sleep(0.2)
    assert helper.poll() == 0
    # The last call may have come when it had gone: then the bus has started the installed one.
    stage.host.run(["pkill", "-f", "/momhelper$"])


def test_it_stays_as_long_as_something_is_changed(stage: Stage) -> None:
    service = stage.probe("--own")
    helper = stage.start_helper(idle=3)
    assert service.apply(run=1) == {"run": 1}
    time.sleep(5)
    assert helper.poll() is None
    service.call("Restore")
    assert helper.wait(60) == 0


def test_the_installed_helper_is_started_by_the_bus_and_refuses(stage: Stage) -> None:
    assert stage.probe().call("Read") == NOBODY_ELSE
    service = stage.probe("--own")
    found = service.call("Read")
    assert found["run"] in (0, 1, 2)
    # This host's knobs are read-only: all or nothing, and one line.
    refused = service.apply(sleep_millisecs=found["sleep_millisecs"] + 1)
    assert refused == {"error": "IOError", "text": "sleep_millisecs: Read-only file system"}
    stage.host.check(["pkill", "-f", "/momhelper$"])
