# SPDX-License-Identifier: GPL-2.0-or-later
"""A service that is killed over and over, on a real bus, loses nothing that it acknowledged, and never has half of a load."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from momservice.bus.connection import CallError
from momservice.bus.names import NAME
from momservice.client import BlockingClient, ServiceUnavailable
from momservice.errors import NotStored

ROOT = Path(__file__).parents[2]
LOADS, KILLS = 1000, 30
PATIENCE_S = 60
MEMORY = Path("/dev/shm")


class Machine:
    """A configuration and a folder for the state; the service is started and killed in it."""

    def __init__(self, folder: Path, state: Path, address: str) -> None:
        self.folder, self.state, self.address = folder, state, address
        self.state.mkdir()
        (folder / "momd.conf").write_text("[main]\npolicy-dir:\npolicy-engine-interval: 1\nhost-monitor-interval: 1\n")
        self.service: subprocess.Popen[bytes] | None = None

    def start(self) -> BlockingClient:
        """Start the service and wait for it."""
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address, "STATE_DIRECTORY": str(self.state)}
        argv = [sys.executable, "-m", "momservice", "--config", str(self.folder / "momd.conf")]
        with (self.folder / "log").open("ab") as log:
            self.service = subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=log)
        client = BlockingClient(self.address)
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.ping()
            except (ServiceUnavailable, CallError):
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.01)
            else:
                return client

    def end(self, number: int = signal.SIGKILL) -> int:
        """End the service; its exit status."""
        assert self.service is not None
        self.service.send_signal(number)
        return self.service.wait(PATIENCE_S)

    def close(self) -> None:
        """End the service."""
        if self.service and self.service.poll() is None:
            self.end()


@pytest.fixture
def machine(tmp_path: Path, address: str) -> Iterator[Machine]:
    # In memory, where there is such a folder: a stop waits for less than a second for the disk, and a busy one may take longer.
    with tempfile.TemporaryDirectory(prefix="mom-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        made = Machine(tmp_path, Path(folder) / "state", address)
        yield made
        made.close()


def texts(number: int) -> dict[str, str]:
    return {"a": f"(defvar number {number}) (defvar given 0)", "b": f"(defvar other {number})"}


class Loader:
    """Loads numbers, one by one: two policies, then a parameter. Knows what was acknowledged last and what was asked for last."""

    def __init__(self) -> None:
        self.loaded = self.loading = self.set = self.setting = self.generation = 0
        self.loads = 0
        # Whether a load has been acknowledged since the last look.
        self.acknowledged = False

    def load(self, client: BlockingClient) -> None:
        self.loading = max(self.loading, self.loaded) + 1
        self._count(client.set_policies(texts(self.loading)))
        self.loaded = self.loading
        self.setting = self.loading
        self._count(client.set_parameters({"given": self.setting}))
        self.set = self.setting

    def _count(self, generation: int) -> None:
        assert generation > self.generation
        self.generation, self.acknowledged = generation, True
        self.loads += 1

    def check(self, client: BlockingClient) -> None:
        """What is in force is whole, and not older than what was acknowledged."""
        found, parameters = client.policies(), client.parameters()
        if not found and not self.loaded:
            return
        number = parameters["number"].value
        assert isinstance(number, int)
        assert self.loaded <= number <= self.loading
        assert (found, parameters["other"].value) == (texts(number), number)
        given = parameters["given"].value
        assert isinstance(given, int)
        assert self.set <= given <= self.setting
        status = client.status()
        # A start is another generation. One that is killed before it can store that, and so before a load, leaves it to the next start.
        assert status.generation > self.generation - (not self.acknowledged)
        assert not [reason for reason in status.status_reasons if "state" in reason or "left out" in reason]
        self.loaded, self.set, self.generation, self.acknowledged = number, given, status.generation, False


def test_a_thousand_loads_and_thirty_kills_lose_nothing_and_mix_nothing(machine: Machine) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    loader, kills = Loader(), 0
    took_s = 0.01
    while kills < KILLS or loader.loads < LOADS:
        client = machine.start()
        loader.check(client)
        quiet = chance.randrange(LOADS // KILLS)
        killer: threading.Timer | None = None
        try:
            for turn in range(quiet + 100):
                begin = time.monotonic()
                if turn == quiet:
                    # Somewhere in this load or the next: nothing is told of it beforehand.
                    killer = threading.Timer(chance.uniform(0, 2 * took_s), machine.end)
                    killer.start()
                loader.load(client)
                took_s = time.monotonic() - begin
            raise AssertionError("the service can't be killed")
        except (ServiceUnavailable, CallError) as error:
            # That it is gone, and nothing else.
            assert isinstance(error, ServiceUnavailable), error
        assert killer is not None, (machine.folder / "log").read_text()
        killer.join()
        kills += 1
        client.close()
    client = machine.start()
    loader.check(client)
    client.close()
    log = (machine.folder / "log").read_text()
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if "damaged" in line]
    assert {file.name for file in machine.state.iterdir()} <= {
        f"{name}{end}" for name in ("policies", "variables") for end in ("-1.json", "-2.json", ".new")
    }


def test_a_stop_stores_what_policies_keep_and_a_start_goes_on_with_it(machine: Machine) -> None:
    with machine.start() as client:
        client.set_policies({"count": '(Host.SetVar "n" (+ 1 (or (Host.GetVar "n") 0)))'})
        run_after(client, client.status().last_evaluation_us)
    assert machine.end(signal.SIGTERM) == 0
    (file,) = machine.state.glob("variables-?.json")
    before = file.read_text()
    assert '"content":{"host":{"n":' in before
    with machine.start() as client:
        run_after(client, 0)
    assert machine.end(signal.SIGTERM) == 0
    counts = sorted(int(each.read_text().partition('"n":')[2].rstrip("}\n")) for each in machine.state.glob("variables-?.json"))
    assert counts[-1] > counts[0] > 0


def run_after(client: BlockingClient, then_us: int) -> None:
    """Wait for a policy run that began after that one."""
    end = time.monotonic() + PATIENCE_S
    while client.status().last_evaluation_us <= then_us:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_a_state_folder_the_service_runs_says_so_and_refuses_loads(machine: Machine) -> None:
    machine.state.rmdir()
    with machine.start() as client:
        with pytest.raises(NotStored, match=r"^nothing is changed, for it can't be stored: No such file or directory$"):
            client.set_policy("1")
        assert client.policies() == {}
        reasons = client.status().status_reasons
        assert "the state folder can't be used until the next start: No such file or directory" in reasons
        assert not [reason for reason in reasons if str(machine.state) in reason]


def test_a_second_service_and_a_check_of_the_configuration_leave_the_state_alone(machine: Machine) -> None:
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": machine.address, "STATE_DIRECTORY": str(machine.state)}
    argv = [sys.executable, "-m", "momservice", "--config", str(machine.folder / "momd.conf")]
    with machine.start() as client:
        client.set_policies(texts(1))
        before = {file: file.read_text() for file in machine.state.iterdir()}
        second = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (second.returncode, NAME in second.stderr) == (1, True)
    assert machine.end() == -signal.SIGKILL
    (machine.state / "policies-1.json").write_text("{")
    before[machine.state / "policies-1.json"] = "{"
    checked = subprocess.run([*argv, "--check-config"], cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE_S, check=False)
    assert checked.returncode == 0
    assert {file: file.read_text() for file in machine.state.iterdir()} == before
