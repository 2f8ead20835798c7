# SPDX-License-Identifier: GPL-2.0-or-later
"""XML-RPC read and written against the standard library's client side, and against documents that mean harm."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momservice.xml_rpc import INVALID_CALL, MAX_DEPTH, NOT_WELL_FORMED, Refused, read_call, write_answer

LAUGHS = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<methodCall><methodName>ping</methodName><params><param><value><string>&c;</string></value></param></params></methodCall>"""


def call(method: str, *arguments: Any) -> bytes:
    return xmlrpc.client.dumps(arguments, method, allow_none=True).encode()


def read_back(outcome: Any) -> Any:
    (value,), _ = xmlrpc.client.loads(write_answer(outcome))
    return value


@pytest.mark.parametrize("arguments", [(), ("a < b & c\n",), ("01-parameters", None), ("5",), (5,), ("\N{GRINNING FACE}",), (["a", 1],)])
def test_a_call_is_read_as_the_standard_library_writes_it(arguments: tuple[Any, ...]) -> None:
    assert read_call(call("setNamedPolicy", *arguments)) == ("setNamedPolicy", arguments)


@pytest.mark.parametrize(
    "value",
    [True, "text < & >", "", 0, -(2**31), 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 0.1, 1e300, None, ["a", []],
     {"host": {"a": 1, "b": None}, "guests": {"vm & <1>": {"c": 2**40}}}],
)  # fmt: skip
def test_an_answer_is_read_back_by_the_standard_library(value: Any) -> None:
    read = read_back(value)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(("value", "tag"), [(2**31 - 1, "<int>"), (2**31, "<i8>"), (-(2**31), "<int>"), (-(2**31) - 1, "<i8>")])
def test_integers_beyond_32_bits_are_i8(value: int, tag: str) -> None:
    assert tag in write_answer(value).decode()


def test_what_xml_cannot_carry_is_replaced() -> None:
    assert read_back({"vm\x01": "a\x00b\ud800\uffff\t"}) == {"vm\ufffd": "a\ufffdb\ufffd\ufffd\t"}


def test_a_fault_comes_as_one() -> None:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        read_back(xmlrpc.client.Fault(1, "a:1:2: what & why"))
    assert (raised.value.faultCode, raised.value.faultString) == (1, "a:1:2: what & why")


def fault(body: bytes) -> xmlrpc.client.Fault:
    with pytest.raises(xmlrpc.client.Fault) as raised:
        read_call(body)
    return raised.value


@pytest.mark.parametrize("body", [LAUGHS.encode(), LAUGHS.encode("utf-16"), b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a>&b;</a>"])
def test_a_document_that_may_define_entities_is_refused(body: bytes) -> None:
    found = fault(body)
    assert found.faultCode == NOT_WELL_FORMED
    assert "document type" in found.faultString


def test_a_document_that_nests_without_end_is_refused() -> None:
    found = fault(b"<a>" * 100_000)
    assert (found.faultCode, found.faultString) == (NOT_WELL_FORMED, f"the call nests deeper than {MAX_DEPTH} elements")


@pytest.mark.parametrize("body", [b"", b"garbage", b"\0" * 100, b"<methodCall>", b"<methodCall>&undefined;</methodCall>", b"\xff\xfe\xfd"])
def test_what_is_no_xml_is_a_fault(body: bytes) -> None:
    assert fault(body).faultCode == NOT_WELL_FORMED


@pytest.mark.parametrize(
    "body",
    [b"<a/>", b"<methodCall/>", call("x", 5).replace(b">5<", b">five<"), call("x", 5).replace(b">5<", b">" + b"9" * 100_000 + b"<"),
     b"<methodResponse><params><param><value><int>1</int></value></param></params></methodResponse>",
     xmlrpc.client.dumps(xmlrpc.client.Fault(1, "forged\nline"), methodresponse=True).encode()],
    ids=["another", "empty", "no number", "a long number", "an answer", "a fault"],
)  # fmt: skip
def test_what_is_no_call_is_a_fault(body: bytes) -> None:
    found = fault(body)
    assert found.faultCode == INVALID_CALL
    assert "forged" not in found.faultString


TAGS = ["methodCall", "methodName", "params", "param", "value", "struct", "member", "name", "array", "data", "int", "i8", "double",
        "boolean", "string", "base64", "nil", "fault"]  # fmt: skip
PIECES = [tag for name in TAGS for tag in (f"<{name}>".encode(), f"</{name}>".encode())]
PIECES += [b"ping", b"5", b"&amp;", b"<![CDATA[", b"]]>", b"<!--", b"<?xml version='1.0' encoding='utf-16'?>", b"\xff"]


@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)))
def test_whatever_comes_is_a_call_or_a_fault_of_ours(body: bytes) -> None:
    try:
        method, arguments = read_call(body)
    except Refused:
        return
    assert (type(method), type(arguments)) == (str, tuple)
