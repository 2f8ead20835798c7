# SPDX-License-Identifier: GPL-2.0-or-later
"""oVirt's VDSM beside the real service: one that imports our class, and one of old that calls mom-rpc-bridge as it called MOM."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from old_vdsm import VDSM_S, OldVdsm

from lab.anyhost import AnyHost
from lab.buses import BROKER
from lab.daemons import Recipe
from lab.hosts import host_with
from momservice.client import VdsmMomClient
from momservice.errors import InvalidPolicy, UnknownParameter

ROOT = Path(__file__).parents[2]
FRAGMENTS = ROOT / "tests/data/fragments"
KSM = Path("/sys/kernel/mm/ksm")
PLACE = "/run/vdsm/mom-vdsm.sock"
AS_VDSM = ["setpriv", "--reuid=vdsm", "--regid=vdsm", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
BRIDGE = Recipe("mom-rpc-bridge", [*AS_VDSM, "/usr/libexec/mom-rpc-bridge", "--socket", PLACE])
# A caller inside the lab, as somebody else: prints what it gets.
CALL = """
import http.client, socket, sys, xmlrpc.client
class Transport(xmlrpc.client.Transport):
    def make_connection(self, host):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(sys.argv[1])
        return connection
try:
    print(xmlrpc.client.ServerProxy("http://localhost", Transport()).ping())
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def host(hosts_bus: str) -> Iterator[AnyHost]:
    with host_with(hosts_bus, policy=FRAGMENTS) as running:
        running.check(["useradd", "--system", "--user-group", "vdsm"])
        running.check(["install", "--directory", "--owner=vdsm", "--group=vdsm", "--mode=0755", "/run/vdsm"])
        rule = (ROOT / "polkit/examples/50-mom-vdsm.rules").read_text(encoding="utf-8")
        running.path("/etc/polkit-1/rules.d/50-mom-vdsm.rules").write_text(rule, encoding="utf-8")
        reload = ["busctl", "call", "org.ovirt.Mom1", "/org/ovirt/Mom1", "org.ovirt.Mom1.Manager", "Reload"]
        running.wait_for(lambda: running.run(reload, user="vdsm").returncode == 0, "polkit to read the rule")
        if hosts_bus == BROKER:
            running.check(["systemctl", "enable", "--now", "mom-rpc-bridge.socket"])
        else:
            running.start(BRIDGE)
        running.wait_for(running.path(PLACE).is_socket, "the bridge", log="mom-rpc-bridge")
        yield running


@pytest.fixture
def path(host: AnyHost) -> str:
    return str(host.path(PLACE))


@pytest.fixture
def old(host: AnyHost, path: str) -> OldVdsm:
    """The VDSM of old, with the policies as they were at the start. More patient: a busy machine may answer later than it waits."""
    vdsm = OldVdsm(path, 60)
    host.wait_for(lambda: vdsm.status() == "active", "the service to answer the bridge")
    assert vdsm.mom.resetPolicies() is True
    host.wait_for(lambda: vdsm.ksm_stats().get("ksmCpu", vdsm) is not vdsm, "the first figures")
    return vdsm


@pytest.fixture
def new(host: AnyHost) -> Iterator[VdsmMomClient]:
    client = VdsmMomClient(host.bus_address)
    host.wait_for(lambda: client.getStatus() == "active", "an answer in time")
    yield client
    client.close()


def within(work: Callable[[], Any]) -> Any:
    """The result of a call that takes no longer than VDSM may be held up; the rest is for a busy machine."""
    begun_s = time.monotonic()
    result = work()
    assert time.monotonic() - begun_s < VDSM_S + 7
    return result


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing hangs the deadline of our class is beside the point, and a busy machine may miss it."""
    monkeypatch.setattr("momservice.vdsm.DEADLINE_S", 60.0)


def knob(name: str) -> int:
    return int((KSM / name).read_text())


# A VDSM that imports our class


@pytest.mark.usefixtures("patient")
def test_the_new_vdsm_gets_the_kernels_figures(host: AnyHost, new: VdsmMomClient) -> None:
    def agree() -> bool:
        stats = new.getKsmStats()
        known = (stats.get("ksmState"), stats.get("ksmPages"), stats.get("ksmMergeAcrossNodes"), type(stats.get("memShared")))
        return known == (knob("run") == 1, knob("pages_to_scan"), bool(knob("merge_across_nodes")), int)

    # Figures are as old as a sample, and another lab may change the machine's knobs.
    host.wait_for(agree, "the kernel's figures")
    assert new.getStatus() == "active"


@pytest.mark.usefixtures("patient")
def test_the_new_vdsm_sets_policies_and_typed_parameters(host: AnyHost, new: VdsmMomClient) -> None:
    new.setPolicy("(defvar text 'a')\n(+ 1 2)")
    with pytest.raises(InvalidPolicy, match=r"^50_main_:1:2: "):
        new.setPolicy("(nowhere 1)")
    new.setPolicyParameters({"ksmEnabled": True, "balloon_step": 0.125})
    new.setPolicyParameters({"ksm_pages_up": 400, "text": "a 'b'"})
    with pytest.raises(UnknownParameter):
        new.setPolicyParameters({"nothing": 1})
    shown = host.check(["momctl", "params", "--json"])
    for expected in ('"ksmEnabled"', "0.125", "400", "a 'b'"):
        assert expected in shown
    assert '"(defvar text' not in shown


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_the_new_vdsm_is_neither_held_up_nor_broken(host: AnyHost, new: VdsmMomClient, how: int) -> None:
    stopped = {"SIGSTOP": lambda: host.signal("momservice", signal.SIGSTOP), "SIGKILL": host.stop_service}[signal.Signals(how).name]
    if how == signal.SIGKILL:
        host.signal("momservice", how)
    stopped()
    works: list[tuple[Callable[[], Any], Any]] = [
        (new.getStatus, "inactive"),
        (new.getKsmStats, {}),
        (lambda: new.setPolicy("(+ 3 4)"), None),
        (lambda: new.setPolicyParameters({"ksm_pages_up": 500}), None),
    ]
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            assert list(pool.map(lambda work: within(work[0]), works)) == [expected for _, expected in works]
    finally:
        if how == signal.SIGSTOP:
            host.signal("momservice", signal.SIGCONT)
        else:
            host.start_service()
    host.wait_for(lambda: new.getStatus() == "active" and new.getKsmStats(), "the service to be found again")
    show = ["momctl", "policy", "get", "50_main_"]
    host.wait_for(lambda: host.run(show).stdout == "(+ 3 4)\n", "the policy that was kept")
    host.wait_for(lambda: "500" in host.run(["momctl", "params", "get", "ksm_pages_up"]).stdout, "the parameters that were kept")


# A VDSM of old


def test_the_old_vdsm_gets_what_it_reads(host: AnyHost, old: OldVdsm) -> None:
    assert old.status() == "active"
    host.wait_for(lambda: old.ksm_stats()["ksmPages"] == knob("pages_to_scan"), "the kernel's figures")
    statistics: Any = old.mom.getStatistics()
    assert set(statistics) == {"host", "guests"}
    assert statistics["host"]["mem_available"] > 0
    assert statistics["guests"] == {}
    assert old.mom.getActiveGuests() == []


def test_the_old_vdsm_pushes_parameters_that_take_effect_and_add_up(host: AnyHost, old: OldVdsm) -> None:
    old.set_parameters({"ksmEnabled": True, "balloonEnabled": False, "balloon_step": 0.125})
    old.set_parameters({"ksm_pages_up": 400, "ksmEnabled": False})
    policies: Any = old.mom.getNamedPolicies()
    assert policies["01-parameters"] == (
        "(set ksmEnabled False)\n(set balloonEnabled False)\n(set balloon_step 0.125)\n(set ksm_pages_up 400)"
    )
    assert sorted(policies) == [file.stem for file in sorted(FRAGMENTS.glob("*.policy"))]
    assert host.run(["momctl", "policy", "get", "01-parameters"]).stdout.startswith("(set ksmEnabled False)\n")


def test_the_old_vdsm_sets_and_removes_policies(old: OldVdsm) -> None:
    assert old.mom.setPolicy("(+ 1 2)") is True
    assert old.mom.getPolicy() == "(+ 1 2)"
    assert old.mom.setNamedPolicy("60-mine", "(+ 3 4)") is True
    for _ in range(2):
        assert old.mom.setNamedPolicy("60-mine", None) is True
    assert old.mom.resetPolicies() is True
    assert old.mom.getPolicy() == ""


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda mom: mom.setPolicy("(nowhere 1)"), r"\"50_main_:1:2: "),
        (lambda mom: mom.setNamedPolicy("01-parameters", "(set nothing 1)"), r"\"01-parameters:1:6: "),
        (lambda mom: mom.setNamedPolicy("../etc", "1"), "can't name a policy"),
        (lambda mom: mom.setPolicy("#" * 300_000), "at most 262144 are allowed"),
        (lambda mom: mom.setVerbosity("loudly"), "."),
        (lambda mom: mom.setPolicy(), "setPolicy takes str"),
        (lambda mom: mom.shutdown(), "there is no such method"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_fault_and_changes_nothing(old: OldVdsm, call: Callable[[Any], Any], reason: str) -> None:
    before = old.mom.getNamedPolicies()
    with pytest.raises(xmlrpc.client.Fault, match=reason):
        call(old.mom)
    assert old.mom.getNamedPolicies() == before


def test_a_killed_service_is_inactive_to_the_old_vdsm_until_it_is_back(host: AnyHost, old: OldVdsm) -> None:
    host.kill_service()
    figures = within(old.ksm_stats)
    # Perhaps it is back already.
    assert not figures or "ksmCpu" in figures
    host.wait_for(lambda: within(old.status) == "active", "the service to be back")
    host.stop_service()
    assert within(old.status) == "inactive"
    assert within(old.ksm_stats) == {}
    host.start_service()
    assert within(old.status) == "active"


def test_a_hung_service_is_inactive_to_the_old_vdsm_after_its_own_deadline(host: AnyHost, old: OldVdsm, path: str) -> None:
    host.signal("momservice", signal.SIGSTOP)
    try:
        assert within(OldVdsm(path).status) == "inactive"
        assert within(OldVdsm(path).ksm_stats) == {}
    finally:
        host.signal("momservice", signal.SIGCONT)
    host.wait_for(lambda: old.status() == "active", "the service to answer again")


def test_only_root_and_vdsm_are_answered(hosts_bus: str, host: AnyHost, path: str) -> None:
    # One that hasn't logged yet: it says few such things a minute.
    host.stop("mom-rpc-bridge")
    if hosts_bus != BROKER:
        host.start(BRIDGE)
        host.wait_for(Path(path).is_socket, "the bridge", log="mom-rpc-bridge")
    found = Path(path).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, int(host.check(["id", "-u", "vdsm"])))
    ask = ["/usr/bin/python3", "-c", CALL, PLACE]
    said = [host.run(ask, user=user).stdout.strip() for user in ("vdsm", "root", "alice")]
    assert said == ["True", "True", "PermissionError"]
    # An administrator may have opened the socket itself; the users are checked all the same.
    host.check(["chmod", "0666", PLACE])
    try:
        assert host.run(ask, user="alice").stdout.strip() in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
        assert host.run(ask, user="vdsm").stdout.strip() == "True"
    finally:
        host.check(["chmod", "0600", PLACE])
    # Of other users the unit's PrivateUsers= shows no more than that they are others.
    uid = "65534" if hosts_bus == BROKER else host.check(["id", "-u", "alice"]).strip()
    assert f"refused a connection of uid {uid}\n" in host.log("mom-rpc-bridge")
    assert OldVdsm(path, 60).status() == "active"


def test_without_polkits_word_vdsm_is_refused_by_a_fault(host: AnyHost, old: OldVdsm) -> None:
    rule = host.path("/etc/polkit-1/rules.d/50-mom-vdsm.rules")
    text = rule.read_text(encoding="utf-8")
    rule.unlink()
    try:
        with pytest.raises(xmlrpc.client.Fault, match=r"org\.ovirt\.mom1\.load-policy|authentication"):
            while True:
                old.mom.setPolicy("(+ 1 2)")
        assert old.status() == "active"
        assert old.ksm_stats()
    finally:
        rule.write_text(text, encoding="utf-8")
        host.wait_for(lambda: may_load(old), "polkit to read the rule again")


def may_load(vdsm: OldVdsm) -> bool:
    try:
        return vdsm.mom.resetPolicies() is True
    except xmlrpc.client.Fault:
        return False


def connection(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(60)
    found.connect(path)
    return found


def hung_up(found: socket.socket) -> bool:
    try:
        return found.recv(1) == b""
    except ConnectionError:
        return True


def test_neither_the_idle_nor_the_slow_nor_garbage_keeps_vdsm_from_an_answer(old: OldVdsm, path: str) -> None:
    held = [connection(path) for _ in range(50)]
    for number, each in enumerate(held[-10:]):
        # Those that had to make room are gone already.
        try:
            each.sendall([b"POST /RPC2 HTTP/1.1\r\nContent-Le", b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n<"][number % 2])
        except ConnectionError:
            continue
    stop = threading.Event()

    def torment(data: bytes) -> None:
        while not stop.is_set():
            try:
                with connection(path) as mine:
                    mine.sendall(data)
                    hung_up(mine)
            except ConnectionError:
                continue

    with ThreadPoolExecutor(3) as pool:
        head = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        laughs = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'
        for data in (os.urandom(4096), head % (100 << 20) + b"x" * (1 << 20), head % len(laughs) + laughs):
            pool.submit(torment, data)
        try:
            for _ in range(20):
                assert within(OldVdsm(path, 60).status) == "active"
        finally:
            stop.set()
    assert hung_up(held[0])
    assert old.status() == "active"


def test_what_is_no_xml_is_a_fault(old: OldVdsm, path: str) -> None:
    for body in (b"garbage", b"<!DOCTYPE a><methodCall/>", b"<a>" * 10_000):
        with connection(path) as mine:
            mine.sendall(b"POST /any/path HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert b"<name>faultString</name>" in b"".join(iter(lambda: mine.recv(65536), b""))
    assert old.status() == "active"


def test_many_threads_of_vdsm_are_answered(path: str, host: AnyHost) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: OldVdsm(path, 60).status(), range(200))) == ["active"] * 200
    (pid,) = host.check(["pgrep", "-f", "^/usr/bin/python3 -I /usr/libexec/mom-rpc-bridge"]).split()
    threads = host.check(["cat", f"/proc/{pid}/status"]).partition("Threads:")[2].split()[0]
    assert threads == "1"


def test_systemd_hands_over_its_socket(host: AnyHost) -> None:
    place = "/run/vdsm/activated.sock"
    activator = host.popen(["systemd-socket-activate", f"--listen={place}", "/usr/libexec/mom-rpc-bridge"], user="vdsm")
    try:
        host.wait_for(host.path(place).is_socket, "the socket")
        assert OldVdsm(str(host.path(place)), 60).status() == "active"
    finally:
        activator.kill()
        activator.wait()


def test_it_stops_when_it_is_told(hosts_bus: str, host: AnyHost, old: OldVdsm, path: str) -> None:
    assert old.status() == "active"
    assert host.stop("mom-rpc-bridge") == 0
    if hosts_bus == BROKER:
        # systemd holds the socket: who calls starts it again.
        assert old.status() == "active"
        host.check(["systemctl", "stop", "mom-rpc-bridge.socket"])
        assert host.daemon("mom-rpc-bridge")["pid"] is None
    assert not Path(path).exists()
    assert OldVdsm.status(old) == "inactive"
    host.start(BRIDGE)
    host.wait_for(lambda: Path(path).exists() and OldVdsm(path, 60).status() == "active", "the bridge", log="mom-rpc-bridge")
