# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of calls, checked before anything is done with them. Raises InvalidArgs for a wrong form, LimitsExceeded for too much."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from momservice.bus.checks import checked_name, quoted
from momservice.bus.connection import Variant
from momservice.bus.names import (
    MAX_PARAMETER_BYTES,
    MAX_PARAMETERS,
    MAX_POLICIES,
    MAX_REASON_CHARACTERS,
    MAX_TEXT_BYTES,
    UUID,
)
from momservice.bus.variants import from_variant
from momservice.config import verbosity
from momservice.errors import InvalidArgs, LimitsExceeded
from momservice.snapshot import HOST
from momservice.text import shown

# What polkit's rules and dialogs get at most of the names.
MAX_NAMES_SHOWN = 500


def checked_uuid(text: str) -> str:
    """A guest's UUID in the canonical spelling."""
    uuid = text.lower()
    if not UUID.fullmatch(uuid):
        raise InvalidArgs(f"{quoted(text)} is not a UUID: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx is")
    return uuid


def checked_entity(text: str) -> str:
    """The host or a guest, as snapshots name them."""
    return HOST if text == HOST else checked_uuid(text)


def checked_reason(text: str) -> str:
    """A person's reason, as one line that can be logged."""
    if len(text) > MAX_REASON_CHARACTERS:
        raise LimitsExceeded(f"the reason has {len(text)} characters: at most {MAX_REASON_CHARACTERS} are allowed")
    return shown(" ".join(text.split()), MAX_REASON_CHARACTERS)


def checked_verbosity(text: str) -> int:
    """A level of the logging module."""
    try:
        return verbosity(text)
    except ValueError as error:
        raise InvalidArgs(f"{quoted(text)} is no verbosity: it {error}") from None


def checked_policies(texts: Mapping[str, str]) -> dict[str, str]:
    """Policies by name."""
    if len(texts) > MAX_POLICIES:
        raise LimitsExceeded(f"{len(texts)} policies: at most {MAX_POLICIES} are allowed")
    size = sum(len(text.encode()) for text in texts.values())
    if size > MAX_TEXT_BYTES:
        raise LimitsExceeded(f"the policies have {size} bytes: at most {MAX_TEXT_BYTES} are allowed over the bus")
    return {checked_name(name): text for name, text in texts.items()}


def checked_parameters(variants: Mapping[str, Variant]) -> dict[str, bool | int | float | str]:
    """Parameters by name, as plain values."""
    if len(variants) > MAX_PARAMETERS:
        raise LimitsExceeded(f"{len(variants)} parameters: at most {MAX_PARAMETERS} are allowed")
    values = {_checked_parameter_name(name): from_variant(name, variant) for name, variant in variants.items()}
    sizes = {name: len(name.encode()) + (len(value.encode()) if isinstance(value, str) else 8) for name, value in values.items()}
    for name, size in sizes.items():
        if size > MAX_PARAMETER_BYTES:
            raise LimitsExceeded(f"parameter {name}: at most {MAX_PARAMETER_BYTES} bytes are allowed")
    if sum(sizes.values()) > MAX_TEXT_BYTES:
        raise LimitsExceeded(f"the parameters have {sum(sizes.values())} bytes: at most {MAX_TEXT_BYTES} are allowed")
    return values


def _checked_parameter_name(name: str) -> str:
    """A parameter is a global of a policy: a symbol of the language. Which symbols are known is the store's to say."""
    if not name or not name.isascii() or not name.isprintable() or " " in name or len(name) > MAX_REASON_CHARACTERS:
        raise InvalidArgs(f"{quoted(name)} can't name a parameter")
    return name


def policy_details(request: str, texts: Mapping[str, str]) -> dict[str, str]:
    """What polkit's rules and dialogs are told of checked policies: what is asked for, names, SHA-256 and size.

    The digest of one text is that of its bytes; that of several is taken over the lines that `sha256sum` prints for them in name order.
    """
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}
    listing = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    digest = next(iter(digests.values())) if len(digests) == 1 else hashlib.sha256(listing.encode()).hexdigest()
    size = sum(len(text.encode()) for text in texts.values())
    names = ", ".join(digests)
    if len(names) > MAX_NAMES_SHOWN:
        names = f"{names[:MAX_NAMES_SHOWN]}... ({len(digests)} in all)"
    asked = f"{request} {names}, {size} bytes, SHA-256 {digest}"
    return {"mom.request": asked, "mom.policy.names": names, "mom.policy.sha256": digest, "mom.policy.size": str(size)}
