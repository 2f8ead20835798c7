# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tests may run side by side; and buses of our own for what needs no host around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from base_policy import BASE
from hypothesis import HealthCheck, settings
from ksm_folder import Kernel, furnish, opened

from lab.anyhost import AnyHost
from lab.buses import PrivateBus, private_bus
from lab.hosts import HOSTS, host_with
from momservice.bus import connection, serving
from momservice.client import BlockingClient

HERE = Path(__file__).parent
# Else an example that takes 200 ms, as any may on a busy machine, is a failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# First: xdist takes the groups over into its own names when its turn comes.
@pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator] # pytest 7.2 carries no types for it
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together on one worker what shares a host: a module of `bus`; all of `lab`, since hosts that write KSM's knobs wait for another.

    `lab` takes longest of all that can't be shared out, so it comes first.
    """
    items.sort(key=lambda item: level(item) != "lab")
    for item in items:
        if level(item) in ("lab", "bus") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("lab" if level(item) == "lab" else item.path.stem))


def level(item: pytest.Item) -> str:
    """The folder it is in."""
    return item.path.relative_to(HERE).parts[0]


@pytest.fixture(autouse=True)
def level_of_the_log() -> Iterator[None]:
    """As it was: a service that reads its configuration sets it for all that runs in the process."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture(scope="module", params=list(HOSTS))
def hosts_bus(request: pytest.FixtureRequest) -> str:
    """Which bus a module's host has, one after the other."""
    bus: str = request.param
    return bus


@pytest.fixture(scope="module")
def host(hosts_bus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyHost]:
    """A host with the service, which has BASE and the first figures, and without libvirt; for modules that want no other one."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "10_base.policy").write_text(BASE, encoding="utf-8")
    with host_with(hosts_bus, policy=folder) as running, BlockingClient(running.bus_address) as client:
        running.wait_for(client.host_statistics, "the first figures")
        yield running


@pytest.fixture
def client(host: AnyHost) -> Iterator[BlockingClient]:
    """The service as root sees it, as it was at its start."""
    with BlockingClient(host.bus_address) as connected:
        connected.reset_policies()
        connected.replace_parameters({})
        connected.resume()
        yield connected


@pytest.fixture(params=list(HOSTS))
def bus(request: pytest.FixtureRequest) -> Iterator[PrivateBus]:
    """A bus that any user may connect to."""
    with private_bus(request.param) as running:
        yield running


@pytest.fixture
def address(bus: PrivateBus) -> str:
    """Where it is."""
    return bus.address


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have logged counts for nothing."""
    for module in (serving, connection):
        (seldom,) = module.log.filters
        monkeypatch.setattr(seldom, "_count", 0)


@pytest.fixture
def kernel_root(tmp_path: Path) -> Path:
    """A folder with what of the kernel momhelper reads and writes."""
    return furnish(tmp_path)


@pytest.fixture
def kernel(kernel_root: Path) -> Iterator[Kernel]:
    """momhelper's knobs in it."""
    with opened(kernel_root) as knobs:
        yield knobs
