# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl on a real bus, against a service that says what the test wants: what goes on until it is ended, and asking for a password."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from lab.buses import PrivateBus
from momservice.bus.connection import ERROR, Call, CallError, Connection, Export, Variant, load_interfaces
from momservice.bus.names import MANAGER, NAME, PATH, POLICY, XML
from momservice.bus.variants import to_variants

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
ONE = "00000000-0000-4000-8000-000000000001"
# A guest's name that would clear the terminal.
HOSTILE = "vm\x1b[2J1"
HOST = {"mem_available": 16 << 20, "mem_free": 4 << 20, "ksm_run": 1, "ksm_pages_sharing": 7, "psi_mem_some_avg10": 0.5}
GUEST = {"balloon_cur": 1 << 19, "balloon_max": 1 << 20, "libvirt_state": 1, "held": False}
PROPERTIES: dict[str, Any] = {
    "Version": "0.1", "ApiVersion": 1, "Status": "active", "StatusReasons": [], "Generation": 3, "Interval": 500, "GuestCount": 1,
    "HypervisorConnected": True, "HelperAvailable": True, "PolkitAvailable": True, "LastEvaluation": 1_700_000_000_000_000,
    "EvaluationDuration": 1234, "LastError": "",
}  # fmt: skip


class Service:
    """A service of Manager and Policy in a thread of its own; owns its name between `begin` and `end`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.loop = asyncio.new_event_loop()
        self.connection: Connection | None = None
        # Calls of Pause: its arguments, and whether it allowed to ask.
        self.pauses: list[tuple[tuple[Any, ...], bool]] = []
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def begin(self) -> None:
        self._run(self._begin())

    def end(self) -> None:
        if self.connection:
            self.loop.call_soon_threadsafe(self.connection.close)
            self._run(self.connection.lost())
            self.connection = None

    def emit(self, interface: str, member: str, signature: str = "", *args: Any, path: str = PATH) -> None:
        assert self.connection
        self.loop.call_soon_threadsafe(self.connection.emit, path, interface, member, signature, *args)

    async def _begin(self) -> None:
        self.connection = await Connection.open(self._address)
        answers: Mapping[str, Sequence[Any]] = {
            "Ping": [True],
            "GetStatistics": [to_variants(HOST), {ONE: to_variants(GUEST)}],
            "GetHostStatistics": [to_variants(HOST)],
            "GetGuestStatistics": [to_variants(GUEST)],
            "GetActiveGuests": [[[ONE, HOSTILE]]],
        }

        async def answer(call: Call) -> Sequence[Any]:
            if call.member == "Pause":
                self.pauses.append((tuple(call.args), call.interactive))
                if not call.interactive:
                    raise CallError(ERROR + "InteractiveAuthorizationRequired", "Pause needs authentication")
                return []
            return answers[call.member]

        async def pass_all(_call: Call) -> None:
            return None

        exports = [
            Export(interface, {method.name: answer for method in interface.methods}, pass_all, lambda: PROPERTIES)
            for name, interface in load_interfaces(XML).items()
            if name in (MANAGER, POLICY)
        ]
        self.connection.serve(PATH, *exports)
        await self.connection.own(NAME)


@pytest.fixture
def service(address: str) -> Iterator[Service]:
    running = Service(address)
    running.begin()
    yield running
    running.end()


class Momctl:
    """momctl at work, on a pipe or at a terminal of its own."""

    def __init__(self, address: str, *arguments: str, begin: Sequence[str] = (), terminal: bool = False, **environment: str) -> None:
        command = [*begin, sys.executable, "-m", "momservice.cli", *arguments]
        surroundings = {
            "DBUS_SYSTEM_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "TERM": "xterm",
        }  # fmt: skip
        self.said = b""
        if terminal:
            self._out, inner = pty.openpty()
            self.resize(80, 24)
            self.settings = termios.tcgetattr(inner)
        else:
            self._out, inner = os.pipe()
        self.inner = inner
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command] if terminal else command,
            cwd=ROOT, env={**surroundings, **environment}, stdin=inner if terminal else subprocess.DEVNULL, stdout=inner, stderr=inner,
            start_new_session=True,
        )  # fmt: skip
        if not terminal:
            os.close(inner)

    def __enter__(self) -> Momctl:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._out)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._out, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._out, keys)

    def until(self, condition: Callable[[bytes], object], since: int = 0) -> bytes:
        """What it has said since then, as soon as that meets a condition."""
        end = time.monotonic() + DEADLINE_S
        while not condition(self.said[since:]):
            assert time.monotonic() < end, self.said
            if select.select([self._out], [], [], 0.1)[0]:
                assert self._take(), self.said
        return self.said[since:]

    def saying(self, text: str, since: int = 0) -> bytes:
        return self.until(lambda said: text.encode() in said, since)

    def _take(self) -> bool:
        try:
            piece = os.read(self._out, 65536)
        except OSError:
            piece = b""
        self.said += piece
        return bool(piece)

    def ended(self) -> int:
        """Its exit status, when it has ended."""
        status = self.process.wait(DEADLINE_S)
        while select.select([self._out], [], [], 0)[0] and self._take():
            pass
        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def whole(self) -> tuple[int, str]:
        """Exit status and output of one that ends by itself."""
        while self._take():
            pass
        return self.ended(), self.said.decode()


# What ends by itself


def test_figures_are_shown(address: str, service: Service) -> None:
    def said(*arguments: str) -> str:
        with Momctl(address, *arguments) as momctl:
            status, text = momctl.whole()
            assert status == 0
            return text

    assert said("guests").splitlines()[1].split() == ["vm", "[2J1", ONE, "running"]
    assert json.loads(said("guests", "--json"))[0]["uuid"] == ONE
    assert said("ksm").splitlines()[0].split() == ["state", "runs"]
    assert json.loads(said("--json", "ksm"))["state"] == "runs"
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(said("metrics"))}  # type: ignore[no-untyped-call]
    assert families["mom_guest_balloon_size_bytes"].samples[0].value == 1 << 29
    assert {each["name"] for each in json.loads(said("metrics", "--json"))} >= {"mom_status", "mom_guest_balloon_size_bytes"}


# monitor


def test_monitor_tells_signals_and_when_the_service_goes_and_comes(address: str, service: Service) -> None:
    with Momctl(address, "monitor") as momctl:
        momctl.saying("the service is there")
        service.emit(MANAGER, "PressureChanged", "sdd", "full", 50.0, 6.0)
        service.emit(MANAGER, "BalloonTargetsChanged", "a(sttts)", [[ONE, 1 << 29, 1 << 28, 1, "rule"]])
        service.emit("org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", MANAGER, {}, ["LastEvaluation"])
        service.emit("x.y", "Odd", "v", Variant("s", "a\x1b[31m\nb"))
        said = momctl.saying("Odd: ").decode()
        assert "PressureChanged: full: some 50.00 %, full 6.00 %" in said
        assert "BalloonTargetsChanged: vm [2J1: 512.0 -> 256.0 MiB: rule" in said
        momctl.saying("x.y at /org/ovirt/Mom1: a [31m b\n")
        service.end()
        momctl.saying("the service is not there; start it with: systemctl start momservice")
        before = len(momctl.said)
        service.begin()
        momctl.saying("the service is there", before)
        service.emit(MANAGER, "EvaluationRecovered")
        momctl.saying("EvaluationRecovered: all is well again")
        momctl.signal(signal.SIGINT)
        assert momctl.ended() == 0
        assert b"LastEvaluation" not in momctl.said
        assert b"Traceback" not in momctl.said


def test_monitor_waits_for_a_service_and_tells_all_as_json(address: str) -> None:
    service = Service(address)
    with Momctl(address, "monitor", "--json", "--all") as momctl:
        momctl.saying('"gone"}\n')
        service.begin()
        momctl.saying('"there"}\n')
        service.emit("org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", MANAGER, {"Generation": Variant("t", 4)}, ["x"])
        momctl.saying('"PropertiesChanged"')
        momctl.until(lambda said: said.endswith(b"\n"))
        momctl.signal(signal.SIGTERM)
        assert momctl.ended() == 0
        gone, there, changed = map(json.loads, momctl.said.splitlines())
    assert (gone["service"], there["service"]) == ("gone", "there")
    assert gone["time_us"] <= there["time_us"] <= changed.pop("time_us")
    where = {"path": PATH, "interface": "org.freedesktop.DBus.Properties", "member": "PropertiesChanged"}
    assert changed == {**where, "args": [MANAGER, {"Generation": 4}, ["x"]]}
    service.end()


def test_monitor_whose_reader_goes_ends_without_a_word(address: str, service: Service) -> None:
    command = f"{sys.executable} -m momservice.cli monitor | head -n 1"
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"}
    with subprocess.Popen(["bash", "-c", command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"the service is there" in process.stdout.readline()
        end = time.monotonic() + DEADLINE_S
        while process.poll() is None:
            assert time.monotonic() < end
            service.emit(MANAGER, "EvaluationRecovered")
            time.sleep(0.1)
        assert process.communicate() == (b"", b"")


def test_monitor_outlives_its_terminal_under_nohup(address: str, service: Service) -> None:
    with Momctl(address, "monitor", begin=["nohup"]) as momctl:
        momctl.saying("the service is there")
        momctl.signal(signal.SIGHUP)
        service.emit(MANAGER, "EvaluationRecovered")
        momctl.saying("EvaluationRecovered")
        momctl.signal(signal.SIGTERM)
        assert momctl.ended() == 0


@pytest.mark.parametrize("verb", ["monitor", "top"])
def test_without_a_bus_they_say_so(tmp_path: Path, verb: str) -> None:
    with Momctl(f"unix:path={tmp_path}/none", verb) as momctl:
        status, said = momctl.whole()
    assert (status, said.count("\n")) == (3, 1)
    assert "cannot connect to the system bus" in said


@pytest.mark.parametrize(("verb", "sign"), [("monitor", "the service is there"), ("top", "running")])
@pytest.mark.usefixtures("service")
def test_when_the_bus_goes_they_say_so_and_end(address: str, bus: PrivateBus, verb: str, sign: str) -> None:
    with Momctl(address, verb, terminal=True) as momctl:
        momctl.saying(sign)
        bus.kill()
        assert momctl.ended() == 3
        assert momctl.said.splitlines()[-1].endswith(b"momctl: the connection to the system bus is gone")
        assert termios.tcgetattr(momctl.inner) == momctl.settings


def test_top_without_a_service_says_how_to_start_it(address: str) -> None:
    with Momctl(address, "top") as momctl:
        status, said = momctl.whole()
    assert (status, said.count("\n")) == (3, 1)
    assert "systemctl start momservice" in said


# top


def test_top_on_a_pipe_prints_frames_without_escape_codes(address: str, service: Service) -> None:
    with Momctl(address, "top") as momctl:
        momctl.until(lambda said: said.count(b"GUEST") >= 3)
        momctl.signal(signal.SIGINT)
        assert momctl.ended() == 0
        assert b"\x1b" not in momctl.said
        assert momctl.said.count(b"\n\n") >= 3
        assert b"vm [2J1" in momctl.said


@pytest.mark.parametrize("arguments", [["--once"], ["--once", "--json"]])
def test_top_once_ends_by_itself(address: str, service: Service, arguments: list[str]) -> None:
    with Momctl(address, "top", *arguments) as momctl:
        status, said = momctl.whole()
    assert status == 0
    assert "\x1b" not in said
    if "--json" in arguments:
        assert json.loads(said)["guests"][ONE]["name"] == HOSTILE
    else:
        assert said.count("GUEST") == 1
        assert not said.endswith("\n\n")


def test_top_with_an_encoding_that_lacks_blocks_uses_other_characters(address: str, service: Service) -> None:
    with Momctl(address, "top", "--once", PYTHONUTF8="0", PYTHONIOENCODING="ascii") as momctl:
        status, said = momctl.whole()
    assert status == 0
    assert said.isascii()
    assert "?" not in said
    assert "  +  " in said or "  =  " in said


def test_top_fills_a_terminal_follows_its_size_and_puts_it_back(address: str, service: Service) -> None:
    with Momctl(address, "top", terminal=True) as momctl:
        momctl.saying("running")
        assert momctl.said.startswith(b"\x1b[?1049h\x1b[?25l")
        assert b"\x1b[32mactive" in momctl.said
        assert b"\x1b[2J" not in momctl.said
        assert not termios.tcgetattr(momctl.inner)[3] & termios.ECHO
        before = len(momctl.said)
        momctl.resize(40, 3)
        momctl.saying("... and 4 more; --sort shows others firs", before)
        momctl.type(b"q")
        assert momctl.ended() == 0
        assert momctl.said.endswith(b"\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(momctl.inner) == momctl.settings


def test_ctrl_c_ends_top_and_puts_the_terminal_back(address: str, service: Service) -> None:
    with Momctl(address, "top", terminal=True) as momctl:
        momctl.saying("running")
        momctl.type(b"\x03")
        assert momctl.ended() == 0
        assert momctl.said.endswith(b"\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(momctl.inner) == momctl.settings


def test_ctrl_z_gives_the_terminal_back_for_as_long_as_top_is_stopped(address: str, service: Service) -> None:
    with Momctl(address, "top", terminal=True) as momctl:
        momctl.saying("running")
        momctl.type(b"\x1a")
        momctl.saying("\x1b[?25h\x1b[?1049l")
        pid = int(Path(f"/proc/{momctl.process.pid}/task/{momctl.process.pid}/children").read_text())
        momctl.until(lambda _: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        assert termios.tcgetattr(momctl.inner) == momctl.settings
        before = len(momctl.said)
        os.kill(pid, signal.SIGCONT)
        assert momctl.saying("running", before).startswith(b"\x1b[?1049h\x1b[?25l")
        momctl.type(b"q")
        assert momctl.ended() == 0


@pytest.mark.parametrize(("environment", "codes"), [({"NO_COLOR": "1"}, b"\x1b[32m"), ({"TERM": "dumb"}, b"\x1b")])
def test_top_uses_no_codes_that_are_not_wanted(address: str, service: Service, environment: dict[str, str], codes: bytes) -> None:
    with Momctl(address, "top", terminal=True, **environment) as momctl:
        momctl.until(lambda said: said.count(b"running") >= 2)
        momctl.type(b"\x03")
        assert momctl.ended() == 0
        assert codes not in momctl.said


def test_top_outlives_the_service(address: str, service: Service) -> None:
    with Momctl(address, "top", "--interval", "0.5") as momctl:
        momctl.saying("  active  ")
        service.end()
        momctl.saying("  away  ")
        before = len(momctl.said)
        service.begin()
        momctl.saying("  active  ", before)
        momctl.signal(signal.SIGTERM)
        assert momctl.ended() == 0


# Passwords

AGENT = """\
#!/bin/sh
while [ $# -gt 0 ]; do case "$1" in --notify-fd) fd=$2; shift ;; --fallback) touch "$0.fallback" ;; esac; shift; done
echo $$ > "$0.pid"
eval "exec $fd>&-"
exec sleep 600
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A polkit agent that asks nobody."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "pkttyagent"
    script.write_text(AGENT)
    script.chmod(0o755)
    return script


def test_at_a_terminal_a_refused_call_is_made_again_with_an_agent(address: str, service: Service, agent: Path) -> None:
    path = f"{agent.parent}:/usr/bin:/bin"
    with Momctl(address, "pause", "--for", "1h30m", "--reason", "why", terminal=True, PATH=path, XDG_SESSION_ID="1") as momctl:
        assert momctl.ended() == 0
    assert service.pauses == [(("why", 5400), False), (("why", 5400), True)]
    assert Path(f"{agent}.fallback").exists()
    assert not Path(f"/proc/{Path(f'{agent}.pid').read_text().strip()}").exists()


@pytest.mark.parametrize("options", [["--no-ask-password", "pause"], ["pause", "--no-ask-password"]], ids=" ".join)
def test_no_agent_is_started_where_that_is_forbidden(address: str, service: Service, agent: Path, options: list[str]) -> None:
    with Momctl(address, *options, terminal=True, PATH=f"{agent.parent}:/usr/bin:/bin") as momctl:
        assert momctl.ended() == 4
        assert b"run momctl as root, or at a terminal" in momctl.said
    assert [interactive for _, interactive in service.pauses] == [False]
    assert not Path(f"{agent}.pid").exists()


def test_no_agent_is_started_without_a_terminal_nor_where_none_is_needed(address: str, service: Service, agent: Path) -> None:
    with Momctl(address, "pause", PATH=f"{agent.parent}:/usr/bin:/bin") as momctl:
        assert momctl.whole()[0] == 4
    with Momctl(address, "guests", terminal=True, PATH=f"{agent.parent}:/usr/bin:/bin") as momctl:
        assert momctl.ended() == 0
    assert not Path(f"{agent}.pid").exists()


def test_without_the_agent_s_program_the_refusal_is_told(address: str, service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    # setsid comes first on the way, and is all that is found there.
    (folder / "setsid").symlink_to("/usr/bin/setsid")
    with Momctl(address, "pause", terminal=True, PATH=str(folder)) as momctl:
        assert momctl.ended() == 4
        assert b"needs authentication" in momctl.said


# What it loads

WITHOUT_COMPILER = """
import sys
sys.modules.update(dict.fromkeys(("momservice.policy", "momservice.engine", "pyparsing", "libvirt")))
from momservice.cli.command import main
sys.exit(main())
"""


@pytest.mark.parametrize("verb", ["status", "guests", "stats", f"stats {ONE}", "ksm", "metrics", "top --once"])
def test_answers_are_shown_without_the_policy_compiler(address: str, service: Service, verb: str) -> None:
    surroundings = {"DBUS_SYSTEM_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    program = [sys.executable, "-c", WITHOUT_COMPILER, *verb.split()]
    done = subprocess.run(program, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


# Output that nobody takes


@pytest.mark.parametrize("verb", ["status", "guests", "stats", "ksm", "metrics", "top --once", "top --json --once", "monitor"])
def test_a_full_disk_is_told_in_one_line(address: str, service: Service, verb: str) -> None:
    surroundings = {"DBUS_SYSTEM_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    program = [sys.executable, "-m", "momservice.cli", *verb.split()]
    with Path("/dev/full").open("wb") as full:
        momctl = subprocess.Popen(program, cwd=ROOT, env=surroundings, stdout=full, stderr=subprocess.PIPE, text=True)
        while momctl.poll() is None:
            # For monitor: something to be told.
            service.emit(MANAGER, "EvaluationRecovered")
            time.sleep(0.05)
    assert momctl.stderr
    assert (momctl.returncode, momctl.stderr.read()) == (1, "momctl: cannot write the output: No space left on device\n")
