# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that programs read and write, and the environment that they heed: from where the programs themselves know them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from blocks import Block, Entry, Text, section

from momservice import __main__ as service
from momservice import config, durable, keeping, layers, unit_files
from momservice.bus.address import SYSTEM_BUS, places
from momservice.bus.serving import MACHINE_IDS
from momservice.cli.asking import AGENT
from momservice.collectors import registry
from momservice.collectors.host_ksm import FOLDER as KSM_FOLDER
from momservice.hypervisor.processes import RUN_DIR
from momservice.parts import HasFields

_SOCKET_UNIT: Final = Path(__file__).parent.parent / "systemd" / config.BRIDGE_UNIT
_BUS: Final = Entry(", ".join(places(SYSTEM_BUS)), "The system bus.")
# Settings whose value is a place, by what they parse, but for those of which nothing is built yet.
_PLACES: Final = (config.path, config.log_target)
_UNBUILT: Final = ("plot-dir", "socket_path")
_KERNEL_FILE: Final = re.compile(r"/(?:proc|sys)/[A-Za-z0-9_/]+")

_LIBRARY: Final = Entry(
    "MOM_BUS_LIBRARY",
    "`dbus-fast`: messages are made with that library, also where dbus-next is there. With anything else, or unset, dbus-next is used "
    "where it is there, else dbus-fast. What is sent is the same. For a service, a drop-in of its unit sets it, by Environment=.",
)
_ADDRESS: Final = Entry("DBUS_SYSTEM_BUS_ADDRESS", f"Where the system bus is, in place of {SYSTEM_BUS}: a D-Bus address of Unix sockets.")
_ENVIRONMENT: Final[Mapping[str, Sequence[Entry]]] = {
    "momservice": (
        _LIBRARY,
        _ADDRESS,
        Entry("STATE_DIRECTORY", f"The folder of the state (default: {service.STATE}). systemd sets it, by StateDirectory= of the unit."),
        Entry("NOTIFY_SOCKET", "systemd's socket for READY=1, STOPPING=1 and WATCHDOG=1. Without it nothing is told."),
    ),
    "mom-rpc-bridge": (
        _LIBRARY,
        _ADDRESS,
        Entry("LISTEN_PID, LISTEN_FDS", "The process for which systemd opened sockets, and how many, from descriptor 3 on."),
    ),
    "momctl": (
        _LIBRARY,
        _ADDRESS,
        Entry("NO_COLOR", "If it isn't empty, top shows no colors."),
        Entry("TERM", "If it is `dumb`, or not set, top prints frames one below the other."),
        Entry("XDG_SESSION_ID", f"If it is set, the session's agent of polkit asks for passwords, if there is one; else {AGENT[0]}."),
    ),
}


def environment(program: str) -> Sequence[Block]:
    """A program's section ENVIRONMENT."""
    return section("Environment", *_ENVIRONMENT[program])


def _kernel_files() -> list[str]:
    """The files of the kernel that collectors read: as their fields say where they come from."""
    collectors: list[HasFields] = [*registry.HOST.values(), *registry.GUEST.values()]
    found = {Path(file) for part in collectors for field in part.FIELDS for file in _KERNEL_FILE.findall(field.doc)}
    # The folder of KSM has a file for each field.
    return sorted({f"{file.parent}/*" if file.parent == Path("/", KSM_FOLDER) else str(file) for file in found})


def _state() -> Iterator[Block]:
    documents = {layers.DOCUMENT: "policies and parameters of clients, and what they hid", keeping.DOCUMENT: "what SetVar has kept"}
    for name, what in documents.items():
        told = f"The state: {what}. Replaced in turn, by way of {name}{durable.NEW}; the one with the higher number holds."
        yield Entry(", ".join(f"{service.STATE}/{file}" for file in durable.files_of(name)), told)
    told = "Files of the state that can't be used: damaged, or of a later version. They are set aside and not read any more."
    yield Entry(f"{service.STATE}/*{durable.DAMAGED}, *{durable.NEWER}", told)


def _of_service() -> Iterator[Block]:
    yield Text("Read:")
    yield Entry(f"{config.DEFAULT_FILE}, {config.DEFAULT_FILE}.d/*.conf", "The configuration; --config names another file.")
    yield from (Entry(f"{row.key} in [{row.section}]", f"{_sentence(row.doc)}.") for row in _named() if row.key.startswith("policy"))
    yield Entry(", ".join(_kernel_files()), "The kernel's figures, where this kernel has them.")
    yield Entry(f"{RUN_DIR}/*.pid", "Which process is a guest's QEMU; /proc/stat tells whether such a file is older than the process.")
    yield Entry(", ".join(map(str, MACHINE_IDS)), "The machine's identity, for D-Bus' GetMachineId: the first of them that is there.")
    units = ", ".join(f"/{folder}" for folder in unit_files.FOLDERS)
    yield Entry(f"{config.BRIDGE_UNIT}", f"In {units}: where mom-rpc-bridge(8) listens, if rpc-port is a path.")
    yield Text("Written:")
    yield from _state()
    yield from (Entry(f"{row.key} in [{row.section}]", f"{_sentence(row.doc)}.") for row in _named() if not row.key.startswith("policy"))
    yield Text("Sockets it connects to:")
    yield _BUS
    yield Text("Also libvirt's read-only socket, wherever libvirt has that, and systemd's in NOTIFY_SOCKET. It listens on none.")


def _named() -> list[config.Setting]:
    return [row for _, row in config.settings() if row.parse in _PLACES and row.key not in _UNBUILT]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_bridge() -> Iterator[Block]:
    told = f"Where VDSM calls: for root and user vdsm alone, opened by {config.BRIDGE_UNIT}. --socket names another one."
    yield Entry(", ".join(unit_files.values(_SOCKET_UNIT, "ListenStream")), told)
    yield _BUS


def _of_momctl() -> Iterator[Block]:
    told = "What policies are checked against where no service is asked: the collectors and controllers that are in use."
    yield Entry(f"{config.DEFAULT_FILE}, {config.DEFAULT_FILE}.d/*.conf", told)
    yield _BUS


_FILES: Final[Mapping[str, Callable[[], Iterator[Block]]]] = {
    "momservice": _of_service,
    "mom-rpc-bridge": _of_bridge,
    "momctl": _of_momctl,
}


def files(program: str) -> Sequence[Block]:
    """A program's section FILES."""
    return section("Files", *_FILES[program]())
