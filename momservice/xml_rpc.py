# SPDX-License-Identifier: GPL-2.0-or-later
"""XML-RPC as the old MOM speaks it: calls in, answers out. Pure: bytes to values and back.

The standard library's reader and writer, kept from what a caller could do harm with: documents may define no entities, nest little, and
whatever can't be read is a fault. Beyond the standard: <nil/>, and <i8> for integers that 32 bits don't hold.
"""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from xml.parsers import expat
from xmlrpc.client import Fault

# A call with a string as its argument takes five levels, an array in an array four more.
MAX_DEPTH = 20
NOT_WELL_FORMED, INVALID_CALL, UNKNOWN_METHOD, INVALID_ARGUMENTS, REFUSED = -32700, -32600, -32601, -32602, 1
# What no XML document may contain, whoever named a guest so.
ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Refused(Fault):
    """A fault of ours: the library raises the plain one for a document that has a fault in it, with whatever text its author likes."""


def read_call(body: bytes) -> tuple[str, Sequence[Any]]:
    """The name of the method and the arguments. Raises Refused for what isn't a call."""
    values = xmlrpc.client.Unmarshaller()
    # Texts come decoded; the library's own parser says so in the same way.
    values.xml(None, None)  # type: ignore[arg-type]
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def begin(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise Refused(NOT_WELL_FORMED, f"the call nests deeper than {MAX_DEPTH} elements")
        values.start(tag, dict(attributes))

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        values.end(tag)

    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, values.data
    try:
        parser.Parse(body, True)
        arguments = values.close()
    except Refused:
        raise
    except expat.ExpatError as error:
        raise Refused(NOT_WELL_FORMED, f"the call is not well-formed XML: {error}") from None
    except Exception:
        # The reader raises whatever it stumbles over.
        raise Refused(INVALID_CALL, "the call is not XML-RPC") from None
    method = values.getmethodname()
    if not isinstance(method, str):
        raise Refused(INVALID_CALL, "the call names no method")
    return method, arguments


def _refuse_doctype(*_: object) -> None:
    raise Refused(NOT_WELL_FORMED, "the call has a document type: it may define entities, so none is taken")


def write_answer(outcome: Any) -> bytes:
    """The answer to a call: a value, or a Fault."""
    values = _Writer(encoding="utf-8", allow_none=True).dumps(outcome if isinstance(outcome, Fault) else (outcome,))
    return f"<?xml version='1.0'?>\n<methodResponse>\n{values}</methodResponse>\n".encode()


Write = Callable[[str], object]


class _Writer(xmlrpc.client.Marshaller):
    def dump_integer(self, value: int, write: Write) -> None:
        tag = "int" if xmlrpc.client.MININT <= value <= xmlrpc.client.MAXINT else "i8"
        write(f"<value><{tag}>{value}</{tag}></value>\n")

    def dump_text(self, value: str, write: Write) -> None:
        self.dump_unicode(_legal(value), write)

    def dump_table(self, value: Mapping[str, Any], write: Write) -> None:
        self.dump_struct({_legal(name): member for name, member in value.items()}, write)

    # What writes a value, by its class.
    dispatch: ClassVar[Any] = {  # type: ignore[misc]  # the library's own belongs to the class as well, whatever its types say
        **xmlrpc.client.Marshaller.dispatch, int: dump_integer, str: dump_text, dict: dump_table,
    }  # fmt: skip


def _legal(text: str) -> str:
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
