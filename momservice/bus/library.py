# SPDX-License-Identifier: GPL-2.0-or-later
"""What is used of the bus library: dbus-next or, where that isn't there or MOM_BUS_LIBRARY=dbus-fast says so, dbus-fast.

Part of the code that runs as root. Messages are made and marshalled by the library; the connection, and the decoding of what others send,
are our own (wire, decoder).
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from struct import unpack_from
from typing import Any

if os.environ.get("MOM_BUS_LIBRARY") == "dbus-fast" or not find_spec("dbus_next"):
    from dbus_fast import Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant
    from dbus_fast import introspection as intr
    from dbus_fast.signature import SignatureTree
    from dbus_fast.validators import is_interface_name_valid
else:
    from dbus_next import Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant
    from dbus_next import introspection as intr
    from dbus_next.signature import SignatureTree
    from dbus_next.validators import is_interface_name_valid

__all__ = [
    "Message",
    "MessageFlag",
    "MessageType",
    "NameFlag",
    "RequestNameReply",
    "Variant",
    "intr",
    "is_interface_name_valid",
    "marshal",
    "marshal_body",
    "signature_tree",
    "variant",
]

# Longer signatures are none of ours, and a tree takes some 200 bytes for each character.
CACHED_CHARACTERS = 32

# The library's own cache may be a plain dict, which any caller could make grow for ever.
_cached_tree = lru_cache(maxsize=512)(SignatureTree)


def signature_tree(signature: str) -> SignatureTree:
    """The types of a signature. Raises what the library raises for what isn't one."""
    return _cached_tree(signature) if len(signature) <= CACHED_CHARACTERS else SignatureTree(signature)


def marshal(message: Message) -> bytearray:
    """The message's bytes. Raises what the library raises for a body that doesn't fit its signature."""
    data: bytearray = message._marshall(False)
    return data


def marshal_body(signature: str, body: list[Any]) -> bytes:
    """The bytes of values, little-endian. Raises what the library raises for values that don't fit the signature."""
    message = Message(message_type=MessageType.METHOD_RETURN, destination=":1.1", reply_serial=1, serial=1, signature=signature, body=body)
    data = marshal(message)
    (size,) = unpack_from("<I", data, 4)
    return bytes(data[len(data) - size :])


def variant(kind: Any, value: Any) -> Variant:
    """A variant of a type of a signature tree; the value has just been read as one of this type, so that it isn't checked again."""
    made = Variant.__new__(Variant)
    made.type, made.signature, made.value = kind, kind.signature, value
    return made
