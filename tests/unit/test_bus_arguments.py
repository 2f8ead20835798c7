# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments are bounded and checked before anything is done with them."""

from __future__ import annotations

import hashlib
import logging

import pytest

from momservice.bus.arguments import (
    checked_parameters,
    checked_policies,
    checked_reason,
    checked_uuid,
    checked_verbosity,
    policy_details,
)
from momservice.bus.checks import checked_name
from momservice.bus.connection import Variant
from momservice.bus.names import MAX_PARAMETERS, MAX_POLICIES, MAX_TEXT_BYTES
from momservice.errors import InvalidArgs, LimitsExceeded

UUID = "0b4a1f6e-11aa-4b7c-9d2e-0123456789ab"


def test_uuids_are_taken_in_either_case_and_made_canonical() -> None:
    assert checked_uuid(UUID.upper()) == UUID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vm1",
        UUID[:-1],
        UUID + "0",
        UUID.replace("-", ""),
        "{" + UUID + "}",
        UUID.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}"),
        UUID + "\n",
    ],
)
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgs):
        checked_uuid(text)


def test_verbosities_are_those_of_the_configuration() -> None:
    assert [checked_verbosity(text) for text in ("debug", "5", "warn", "1")] == [
        logging.DEBUG,
        logging.DEBUG,
        logging.WARNING,
        logging.CRITICAL,
    ]
    for text in ("", "loud", "6", "DEBUG", "x" * 1000):
        with pytest.raises(InvalidArgs, match="5/debug 4/info 3/warn 2/error 1/critical") as refused:
            checked_verbosity(text)
        assert len(str(refused.value)) < 150


@pytest.mark.parametrize("name", ["50_main_", "a", "_", "9.x-y", "a" * 64])
def test_names_of_policies(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "../x", "a b", "a\n", "ä", "a" * 65])
def test_what_cannot_name_a_policy(name: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        checked_policies({name: ""})
    assert len(str(refused.value)) < 250


def test_what_a_refusal_quotes_is_printable() -> None:
    with pytest.raises(InvalidArgs, match=r"^'x\?\[2J' can't name a policy"):
        checked_name("x\x1b[2J")


def test_texts_are_bounded_in_all_and_in_bytes() -> None:
    half = MAX_TEXT_BYTES // 2
    assert checked_policies({"a": "x" * half, "b": "x" * half})
    with pytest.raises(LimitsExceeded):
        checked_policies({"a": "x" * half, "b": "x" * (half + 1)})
    with pytest.raises(LimitsExceeded):
        checked_policies({"a": "ü" * (half + 1)})


def test_the_number_of_policies_is_bounded() -> None:
    with pytest.raises(LimitsExceeded):
        checked_policies({f"p{number}": "" for number in range(MAX_POLICIES + 1)})


def test_a_reason_is_one_short_line() -> None:
    assert checked_reason("a\n b\t") == "a b"
    assert checked_reason("a\x1b[2Jb\u2028ERROR forged") == "a?[2Jb ERROR forged"
    assert checked_reason("x" * 256) == "x" * 256
    with pytest.raises(LimitsExceeded):
        checked_reason("x" * 257)


def test_parameters_are_bounded() -> None:
    assert checked_parameters({"a": Variant("u", 1), "b": Variant("s", "x")}) == {"a": 1, "b": "x"}
    with pytest.raises(LimitsExceeded):
        checked_parameters({f"p{number}": Variant("u", 1) for number in range(MAX_PARAMETERS + 1)})
    with pytest.raises(LimitsExceeded, match="parameter a"):
        checked_parameters({"a": Variant("s", "x" * 65536)})
    with pytest.raises(LimitsExceeded):
        checked_parameters({f"p{number}": Variant("s", "x" * 60000) for number in range(5)})


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\n", "x" * 257])
def test_what_cannot_name_a_parameter(name: str) -> None:
    with pytest.raises(InvalidArgs):
        checked_parameters({name: Variant("u", 1)})


def test_details_of_one_policy_are_those_of_its_bytes() -> None:
    details = policy_details("SetPolicy", {"a": "ü"})
    assert details["mom.policy.names"] == "a"
    assert details["mom.policy.size"] == "2"
    assert details["mom.policy.sha256"] == hashlib.sha256("ü".encode()).hexdigest()
    assert details["mom.request"].startswith("SetPolicy a, 2 bytes, SHA-256 ")


def test_details_of_several_policies_depend_on_every_text_and_name() -> None:
    def digest(texts: dict[str, str]) -> str:
        return policy_details("SetPolicies", texts)["mom.policy.sha256"]

    listing = "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in (("a", b"1"), ("b", b"2")))
    assert digest({"b": "2", "a": "1"}) == hashlib.sha256(listing.encode()).hexdigest()
    assert len({digest(texts) for texts in ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "c": "2"}, {"a": "12", "b": ""})}) == 4


def test_details_stay_short_whatever_the_number_of_names() -> None:
    details = policy_details("SetPolicies", {f"{number:064d}": "" for number in range(256)})
    assert len(details["mom.request"]) < 1000
    assert "256 in all" in details["mom.policy.names"]
