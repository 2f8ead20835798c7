# SPDX-License-Identifier: GPL-2.0-or-later
"""Host and KSM as properties: of the types that the XML says, whatever the kernel tells."""

from __future__ import annotations

import pytest

from momservice.bus.connection import Export, load_interfaces
from momservice.bus.host import HOST_FIELDS, KSM_FIELDS, PAGE_BYTES, HostObject
from momservice.bus.names import HOST, KSM, XML
from momservice.collectors.host_ksm import HostKSM
from momservice.collectors.host_memory import HostMemory
from momservice.collectors.host_pressure import HostPressure
from momservice.controllers import World
from momservice.pressure import Pressure
from momservice.snapshot import Sample

INTERFACES = load_interfaces(XML)
FIELDS = {field.name: field for part in (HostMemory, HostKSM, HostPressure) for field in part.FIELDS}


async def free(_call: object) -> None:
    return None


def exports(sample: Sample) -> tuple[Export, Export]:
    host = HostObject(Pressure())
    host.sampled(World(sample, {}, 0, 0, 5))
    return Export(INTERFACES[HOST], {}, free, host.host_properties), Export(INTERFACES[KSM], {}, free, host.ksm_properties)


@pytest.mark.parametrize("number", [None, 0, 1, 2**63 - 1])
def test_every_property_has_its_type_whatever_its_field_tells(number: int | None) -> None:
    sample: dict[str, int | float | None] = {name: float(number) if number and f.type == "float" else number for name, f in FIELDS.items()}
    sample["ksm_advisor_mode"] = min(number, 1) if number is not None else None
    for export in exports(sample):
        variants = export.variants()
        assert set(variants) == {prop.name for prop in export.interface.properties}
        # The library checks a value when it marshals; the bus would end the connection for what it doesn't check.
        for prop in export.interface.properties:
            value = variants[prop.name].value
            match prop.signature:
                case "t" | "u":
                    assert 0 <= value < 2 ** (64 if prop.signature == "t" else 32)
                case "d":
                    assert isinstance(value, int | float)
                case "b":
                    assert isinstance(value, bool)


def test_fields_are_those_that_collectors_declare() -> None:
    assert {field for field, _, _ in [*HOST_FIELDS.values(), *KSM_FIELDS.values()]} <= FIELDS.keys()


def test_sizes_are_bytes() -> None:
    host, ksm = exports({"mem_available": 4, "ksm_pages_sharing": 3, "ksm_pages_shared": 2, "ksm_shareable": 5, "ksm_general_profit": -7})
    assert host.variants()["MemoryTotal"].value == 4096
    values = {name: variant.value for name, variant in ksm.variants().items()}
    assert [values[name] for name in ("SharingBytes", "SharedBytes", "ShareableBytes", "ProfitBytes")] == [
        3 * PAGE_BYTES,
        2 * PAGE_BYTES,
        5120,
        -7,
    ]


def test_what_is_not_known_is_named() -> None:
    host, ksm = exports({"mem_available": 0, "ksm_run": 0, "ksm_advisor_mode": 1})
    assert "MemoryTotal" not in host.variants()["Unknown"].value
    assert {"MemoryFree", "PressureSomeAvg10"} <= set(host.variants()["Unknown"].value)
    assert ksm.variants()["AdvisorMode"].value == "scan-time"
    assert set(ksm.variants()["Unknown"].value) == KSM_FIELDS.keys() - {"Run", "AdvisorMode"}
