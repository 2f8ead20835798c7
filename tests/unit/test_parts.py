# SPDX-License-Identifier: GPL-2.0-or-later
"""From names in the configuration to collectors and controllers; the names that policies may use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from momservice.config import Config, ConfigError, load
from momservice.parts import schema

DATA = Path(__file__).parent.parent / "data"


def test_every_name_of_the_field_reference_is_known_and_no_other() -> None:
    known = schema(Config())
    for kind, names in ((known.host, "host"), (known.guest, "guest")):
        expected = json.loads((DATA / "names.json").read_text())[names]
        assert sorted(kind.known) == sorted(expected["fields"])
        assert sorted(kind.controls) == sorted(expected["controls"])
        assert sorted(kind.properties) == sorted(expected["properties"])


def test_only_fields_of_configured_collectors_are_declared() -> None:
    assert schema(replace(Config(), host_collectors=("HostCpu",))).host.declared == {"cpu_count"}


def test_the_configuration_of_2011_names_parts_that_there_are() -> None:
    assert "libvirt_curmem" in schema(load(DATA / "momd.conf")).guest.declared


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host_collectors": ("HostMemory", "GuestState")}, "[host] collectors: there is no GuestState"),
        ({"guest_collectors": ("GuestIoTune",)}, "[guest] collectors: GuestIoTune isn't built yet"),
        ({"controllers": ("KSM", "CpuTune")}, "[main] controllers: CpuTune isn't built yet"),
        ({"controllers": ("Ksm",)}, "[main] controllers: there is no Ksm"),
    ],
)
def test_a_part_that_there_is_not_is_an_error_that_says_which_there_are(settings: dict[str, tuple[str, ...]], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schema(replace(Config(), **settings))  # type: ignore[arg-type]  # the checker can't see which settings these are
    assert caught.value.problems[0].startswith(expected)
