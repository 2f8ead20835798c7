# SPDX-License-Identifier: GPL-2.0-or-later
"""The bridge's methods over a client that answers as it is told, and its sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest

from momservice import bridge
from momservice.bus.connection import CallError, Variant
from momservice.client import Client
from momservice.errors import InvalidPolicy, UnknownPolicy
from momservice.link import ServiceUnavailable
from momservice.xml_rpc import INVALID_ARGUMENTS, UNKNOWN_METHOD

UUIDS = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002")


class Answers:
    """A link: answers by member, each a list of out-arguments or an exception."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, _interface: str, member: str, _signature: str = "", *args: Any, **_more: Any) -> Any:
        self.calls.append((member, *args))
        answer = self.answers.get(member, [1])
        if isinstance(answer, Exception):
            raise answer
        return answer


def call(link: Answers, method: str, *arguments: Any) -> Any:
    """What a caller gets; None if it is hung up on."""
    methods = bridge.Methods(Client(link))  # type: ignore[arg-type]  # has all of Link that a client uses
    answer = asyncio.run(methods.answer(xmlrpc.client.dumps(arguments, method, allow_none=True).encode()))
    return None if answer is None else xmlrpc.client.loads(answer)[0][0]


@pytest.mark.parametrize(
    ("method", "arguments", "called"),
    [
        ("setPolicy", ("(+ 1 2)",), ("SetPolicy", "(+ 1 2)")),
        ("setNamedPolicy", ("01-parameters", "(set a 1)"), ("SetNamedPolicy", "01-parameters", "(set a 1)")),
        ("setNamedPolicy", ("01-parameters", ""), ("SetNamedPolicy", "01-parameters", "")),
        ("setNamedPolicy", ("01-parameters", None), ("RemoveNamedPolicy", "01-parameters")),
        ("resetPolicies", (), ("ResetPolicies",)),
        ("setVerbosity", ("debug",), ("SetVerbosity", "debug")),
        ("setVerbosity", (5,), ("SetVerbosity", "5")),
        ("ping", (), ("Ping",)),
    ],
)
def test_what_succeeds_is_true(method: str, arguments: tuple[Any, ...], called: tuple[Any, ...]) -> None:
    link = Answers(Ping=[True])
    assert call(link, method, *arguments) is True
    assert link.calls == [called]


def test_policies_are_given_as_they_are() -> None:
    assert call(Answers(GetPolicy=["(+ 1 2)"]), "getPolicy") == "(+ 1 2)"
    assert call(Answers(GetNamedPolicies=[{"a": "1"}]), "getNamedPolicies") == {"a": "1"}


def test_statistics_are_by_name_and_what_vdsm_reads_is_always_there() -> None:
    host = {"mem_free": Variant("x", 2**40), "ksm_run": Variant("x", 1)}
    guests = {UUIDS[0]: {"balloon_cur": Variant("x", 5)}, UUIDS[1]: {}}
    link = Answers(GetStatistics=[host, guests], GetActiveGuests=[[[UUIDS[0], "vm 1"], ["gone", "vm 3"]]])
    found = call(link, "getStatistics")
    assert found["guests"] == {"vm 1": {"balloon_cur": 5}}
    assert (found["host"]["mem_free"], found["host"]["ksm_run"], found["host"]["ksmd_cpu_usage"]) == (2**40, 1, None)
    assert call(link, "getActiveGuests") == ["vm 1", "vm 3"]


def test_a_refusal_is_a_fault_with_the_diagnostic() -> None:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        call(Answers(SetPolicy=InvalidPolicy("50_main_:1:2: no such name")), "setPolicy", "(x)")
    assert (raised.value.faultCode, raised.value.faultString) == (1, "50_main_:1:2: no such name")


def test_to_remove_what_is_not_there_succeeds() -> None:
    assert call(Answers(RemoveNamedPolicy=UnknownPolicy("no policy is named x")), "setNamedPolicy", "x", None) is True


@pytest.mark.parametrize("method", ["ping", "getStatistics", "getPolicy"])
@pytest.mark.parametrize(
    "error", [ServiceUnavailable("away"), CallError("org.freedesktop.DBus.Error.Timeout", "late")], ids=["away", "late"]
)
def test_without_the_service_there_is_no_answer(method: str, error: Exception) -> None:
    assert call(Answers(Ping=error, GetStatistics=error, GetActiveGuests=error, GetPolicy=error), method) is None


@pytest.mark.parametrize(
    ("method", "arguments", "code"),
    [
        ("system.listMethods", (), UNKNOWN_METHOD),
        ("__class__", (), UNKNOWN_METHOD),
        ("ping", (1,), INVALID_ARGUMENTS),
        ("setPolicy", (), INVALID_ARGUMENTS),
        ("setPolicy", (5,), INVALID_ARGUMENTS),
        ("setPolicy", (None,), INVALID_ARGUMENTS),
        ("setNamedPolicy", ("a",), INVALID_ARGUMENTS),
        ("setNamedPolicy", ("a", ["b"]), INVALID_ARGUMENTS),
        ("setVerbosity", ({},), INVALID_ARGUMENTS),
    ],
)
def test_a_wrong_call_is_a_fault_and_reaches_nobody(method: str, arguments: tuple[Any, ...], code: int) -> None:
    link = Answers()
    with pytest.raises(xmlrpc.client.Fault) as raised:
        call(link, method, *arguments)
    assert raised.value.faultCode == code
    assert not link.calls


def test_an_error_of_ours_is_a_fault_that_tells_nothing() -> None:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        call(Answers(GetPolicy=ValueError("secret")), "getPolicy")
    assert raised.value.faultString == "internal error: see the log of mom-rpc-bridge"


# Its sockets


def test_its_own_socket_is_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bridge.listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bridge.listen(path).close()
    with bridge.listen(path), pytest.raises(OSError, match="in use"):
        bridge.listen(path)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bridge.listen(path)
    assert path.read_text() == "precious"


def test_sockets_of_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert bridge.handed_over() == []


def test_without_a_socket_it_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert bridge.main([]) == 2
    assert bridge.main(["--socket", "/nonexistent/socket"]) == 1


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path) -> None:
    assert bridge.main(["--socket", str(tmp_path / ("x" * 200))]) == 1
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(str(tmp_path / ("x" * 200)))
