# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's domain XML -> what it says about balloon and KSM. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from momservice.hypervisor import Facts

OVIRT = "{http://ovirt.org/vm/1.0}"
# libvirt itself takes no longer XML over its wire than 4 MiB of text.
MAX_XML_CHARACTERS = 4 * 1024 * 1024
# 8 PiB: what no guest has.
MAX_KIB = 1 << 43
MAX_DIGITS = 16

# What is assumed of a guest whose XML can't be read: nothing that would have us touch it.
UNREADABLE = Facts(balloon=False, unmergeable="its definition can't be read")


def parse_facts(text: str) -> Facts:
    """The facts in a domain XML as libvirt gives it (sizes in KiB). What is no such XML gives UNREADABLE."""
    # libvirt writes no document type, so whoever has one brings entities that expand.
    if len(text) > MAX_XML_CHARACTERS or "<!DOCTYPE" in text:
        return UNREADABLE
    try:
        domain = ET.fromstring(text)  # noqa: S314 - bounded above, without document type, written by libvirt
    except (ET.ParseError, ValueError):
        return UNREADABLE
    balloon = domain.find("devices/memballoon")
    return Facts(
        balloon=balloon is not None and balloon.get("model") != "none",
        min_guarantee_kib=_min_guarantee_kib(domain),
        unmergeable=_unmergeable(domain),
    )


def _min_guarantee_kib(domain: ET.Element) -> int:
    megabytes = _number(domain.findtext(f"metadata/{OVIRT}vm/{OVIRT}minGuaranteedMemoryMb"))
    if megabytes is not None and megabytes * 1024 <= MAX_KIB:
        return megabytes * 1024
    kib = _number(domain.findtext("memtune/min_guarantee"))
    return kib if kib is not None and kib <= MAX_KIB else 0


def _number(text: str | None) -> int | None:
    """A plain decimal number; None for anything else: metadata can hold any text."""
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS else None


def _unmergeable(domain: ET.Element) -> str:
    if domain.find("launchSecurity") is not None:
        return "encrypted"
    if domain.find("memoryBacking/nosharepages") is not None:
        return "nosharepages"
    if domain.find("memoryBacking/hugepages") is not None:
        return "hugepages"
    shares = [access.get("mode") for access in domain.findall("memoryBacking/access")]
    shares += [cell.get("memAccess") for cell in domain.findall("cpu/numa/cell")]
    return "shared memory" if "shared" in shares else ""
