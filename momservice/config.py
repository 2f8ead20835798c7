# SPDX-License-Identifier: GPL-2.0-or-later
"""momd.conf: one table of settings, the fields of `Config`, from which parser, `--help`, man page and checks derive.

Read in this order, later ones win: the file, `<file>.d/*.conf` in name order, the command line.
"""

from __future__ import annotations

import argparse
import configparser
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from momservice import unit_files

DEFAULT_FILE = Path("/etc/momd.conf")
MAX_FILE_BYTES = 1 << 20
# What an empty URI means, and the only one that momhelper-guests knows.
HELPER_URI = "qemu:///system"
BRIDGE_UNIT = "mom-rpc-bridge.socket"
VERBOSITIES = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR, "critical": logging.CRITICAL}
VERBOSITY_NUMBERS = dict(zip("54321", VERBOSITIES, strict=True))


class ConfigError(Exception):
    """The configuration can't be used. `problems`: one line each, with file and line where there is one."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `parse` turns text into the value or raises ValueError with what is allowed."""

    section: str
    key: str
    default: str
    parse: Callable[[str], Any]
    doc: str

    @property
    def option(self) -> str:
        """The command-line option: the key, with the section before it where the key alone says too little."""
        return self.key if self.section in ("main", "logging") else f"{self.section.split()[-1]}-{self.key}".lower().replace("_", "-")


def seconds(text: str) -> int:
    """An interval."""
    return _whole(text, 1, 86400, "a whole number of seconds")


def count(text: str) -> int:
    """A number of things kept."""
    return _whole(text, 1, 1000, "a whole number")


def size(text: str) -> int:
    """A file size in bytes."""
    return _whole(text, 1024, 1 << 40, "a number of bytes")


def _whole(text: str, low: int, high: int, what: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"must be {what} from {low} to {high}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names; which names there are is checked by those who know them."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch("[A-Za-z0-9]{1,40}", name) for name in found) or len(found) != len(set(found)):
        raise ValueError("must be a comma-separated list of different names")
    return found


def path(text: str) -> Path | None:
    """An absolute path, or nothing."""
    if text and not text.startswith("/"):
        raise ValueError("must be an absolute path or empty")
    return Path(text) if text else None


# Far more than any URI here.
MAX_LINE = 1000


def line(text: str) -> str:
    """Any short text."""
    if len(text) > MAX_LINE or not text.isprintable():
        raise ValueError("must be a line of text")
    return text


def interface(text: str) -> str:
    """libvirt; VDSM's names of oVirt MOM mean the same."""
    if text not in ("libvirt", "vdsm", "vdsmrpc", "vdsmjsonrpc", "vdsmjsonrpcbulk", "vdsmxmlrpc"):
        raise ValueError("must be libvirt")
    return text


def rpc_port(text: str) -> Path | None:
    """-1 or the path of a Unix socket."""
    if text == "-1":
        return None
    if not text.startswith("/"):
        raise ValueError("must be -1 or the path of a Unix socket: a TCP port can't be authenticated")
    return Path(text)


def on_stop(text: str) -> str:
    """What happens to balloons at the end."""
    if text not in ("keep", "deflate"):
        raise ValueError("must be keep or deflate")
    return text


def log_target(text: str) -> Path | None:
    """None for stdio."""
    return None if text == "stdio" else path(text)


def verbosity(text: str) -> int:
    """A level of the logging module."""
    name = VERBOSITY_NUMBERS.get(text, text)
    if name not in VERBOSITIES:
        raise ValueError("must be one of 5/debug 4/info 3/warn 2/error 1/critical")
    return VERBOSITIES[name]


def anything(text: str) -> str:
    """A setting of old that has no effect."""
    return line(text)


def setting(section: str, key: str, default: str, parse: Callable[[str], Any], doc: str) -> Any:
    """One row: a dataclass field whose default is the parsed default text."""
    return field(default=parse(default), metadata={"setting": Setting(section, key, default, parse, doc)})


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, typed. `warnings`: one line each on what was accepted but has no effect."""

    main_loop_interval_s: int = setting("main", "main-loop-interval", "5", seconds, "how often the service looks after itself, s")
    host_monitor_interval_s: int = setting("main", "host-monitor-interval", "5", seconds, "how often host fields are sampled, s")
    guest_monitor_interval_s: int = setting("main", "guest-monitor-interval", "5", seconds, "how often guest fields are sampled, s")
    guest_manager_interval_s: int = setting(
        "main", "guest-manager-interval", "5", seconds, "accepted for old files: guests are found when they are sampled"
    )
    policy_engine_interval_s: int = setting("main", "policy-engine-interval", "10", seconds, "how often the policy runs, s")
    hypervisor_interface: str = setting("main", "hypervisor-interface", "libvirt", interface, "always libvirt")
    libvirt_uri: str = setting("main", "libvirt-hypervisor-uri", "", line, "libvirt connection URI; empty: libvirt's default")
    controllers: tuple[str, ...] = setting("main", "controllers", "Balloon, KSM", names, "which controls take effect")
    history_length: int = setting("main", "sample-history-length", "10", count, "samples kept for StatAvg")
    plot_dir: Path | None = setting("main", "plot-dir", "", path, "not built yet: accepted with a warning")
    rpc_socket: Path | None = setting("main", "rpc-port", "-1", rpc_port, "-1, or the socket of mom-rpc-bridge(8), which systemd opens")
    on_stop: str = setting("main", "on-stop", "keep", on_stop, "keep balloons as they are; deflate is not built yet: warning")
    metrics_file: Path | None = setting(
        "main", "metrics-file", "", path, "a file NAME.prom of metrics for node_exporter, renewed with each policy run; see mom-metrics(7)"
    )
    policy: Path | None = setting("main", "policy", "", path, "a policy file; its fragment is named 50_main_")
    policy_dir: Path | None = setting("main", "policy-dir", "", path, "a directory of *.policy; a fragment is named as its file")
    multi_thread: str = setting("main", "guest-manager-multi-thread", "", anything, "accepted for old files, no effect")
    log: Path | None = setting("logging", "log", "stdio", log_target, "stdio (the journal under systemd) or a file")
    verbosity: int = setting("logging", "verbosity", "info", verbosity, "5/debug 4/info 3/warn 2/error 1/critical")
    max_bytes: int = setting("logging", "max-bytes", "2097152", size, "a log file is rotated at this size")
    backup_count: int = setting("logging", "backup-count", "5", count, "rotated log files kept")
    host_collectors: tuple[str, ...] = setting(
        "host", "collectors", "HostMemory, HostKSM, HostPressure, HostCpu", names, "which host fields policies see"
    )
    guest_collectors: tuple[str, ...] = setting(
        "guest", "collectors", "GuestLibvirt, GuestQemuProc, GuestState", names, "which guest fields policies see"
    )
    agent_socket_dir: Path | None = setting(
        "Collector: GuestQemuAgent", "socket_path", "/var/lib/libvirt/qemu", path, "where the guest agents' sockets are"
    )
    warnings: tuple[str, ...] = ()


def settings() -> Iterator[tuple[str, Setting]]:
    """The table: attribute of `Config` and its row."""
    for attribute in cast("Sequence[Field[Any]]", fields(Config)):
        if row := attribute.metadata.get("setting"):
            yield attribute.name, row


TABLE: Mapping[tuple[str, str], tuple[str, Setting]] = {(row.section, row.key): (name, row) for name, row in settings()}
SECTIONS = {section for section, _ in TABLE}


def load(file: Path, options: Mapping[str, str] | None = None) -> Config:
    """Read the file, its drop-ins and command-line options (attribute -> text). Raises ConfigError with every problem found."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for part in [file, *_drop_ins(file, problems)]:
        values |= _read(part, problems)
    rows = dict(settings())
    for attribute, text in (options or {}).items():
        _take(rows[attribute], text, attribute, values, problems, f"--{rows[attribute].option}")
    config = replace(Config(), **values)
    if config.policy and config.policy_dir:
        problems.append(f"{file}: give either policy or policy-dir in [main], not both")
    if problems:
        raise ConfigError(problems)
    return replace(config, warnings=tuple(_warnings(config)))


def _drop_ins(file: Path, problems: list[str]) -> list[Path]:
    try:
        return sorted(part for part in file.with_name(file.name + ".d").iterdir() if part.name.endswith(".conf"))
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
        return []


def _read(file: Path, problems: list[str]) -> dict[str, Any]:
    parser = configparser.ConfigParser(delimiters=("=", ":"), comment_prefixes=("#", ";"), interpolation=None, default_section="")
    try:
        text = read_text(file, MAX_FILE_BYTES)
        parser.read_string(text, source=str(file))
    except (OSError, ValueError) as error:
        problems.append(f"{file}: {getattr(error, 'strerror', None) or error}")
        return {}
    except configparser.Error as error:
        problems.append(_parse_problem(file, error))
        return {}
    values: dict[str, Any] = {}
    for section in parser.sections():
        _read_section(file, text, section, parser[section], values, problems)
    return values


def _parse_problem(file: Path, error: configparser.Error) -> str:
    number = getattr(error, "lineno", None) or next((n for n, _ in getattr(error, "errors", [])), 0)
    match error:
        case configparser.DuplicateOptionError():
            what = f"{error.option} is given twice in [{error.section}]"
        case configparser.DuplicateSectionError():
            what = f"section [{error.section}] is given twice"
        case configparser.MissingSectionHeaderError():
            what = "a setting before the first [section]"
        case _:
            what = "neither a [section] nor a setting (key: value)"
    return f"{file}:{number}: {what}"


def _read_section(
    file: Path, text: str, section: str, found: Mapping[str, str], values: dict[str, Any], problems: list[str]
) -> None:  # fmt: skip
    if section not in SECTIONS:
        problems.append(f"{file}:{_line_of(text, section)}: unknown section [{section}]; there are {_listed(SECTIONS)}")
        return
    for key, value in found.items():
        place = f"{file}:{_line_of(text, section, key)}"
        if (section, key) not in TABLE:
            problems.append(f"{place}: unknown setting {key} in [{section}]; there are {_listed(k for s, k in TABLE if s == section)}")
            continue
        attribute, row = TABLE[section, key]
        _take(row, value, attribute, values, problems, f"{place}: {key}")


def _listed(names: Iterator[str] | set[str]) -> str:
    return ", ".join(sorted(names))


def _take(row: Setting, text: str, attribute: str, values: dict[str, Any], problems: list[str], place: str) -> None:
    try:
        # As the old parser: an empty value means the default.
        values[attribute] = row.parse(text.strip() or row.default)
    except ValueError as error:
        problems.append(f"{place} {error}")


def _line_of(text: str, section: str, key: str = "") -> int:
    """The line of a section's header, or of a key in it; configparser doesn't tell."""
    here = False
    for number, content in enumerate(text.splitlines(), 1):
        if match := re.match(r"\[(.+)\]", content):
            here = match[1] == section
            if here and not key:
                return number
        elif here and key and re.match(rf"{re.escape(key)}\s*[:=]", content.strip(), re.IGNORECASE):
            return number
    return 0


def _warnings(config: Config) -> Iterator[str]:
    if config.hypervisor_interface != "libvirt":
        yield f"hypervisor-interface: {config.hypervisor_interface} means libvirt here"
    if config.plot_dir:
        yield "plot-dir has no effect yet"
    yield from _bridge_warnings(config.rpc_socket)
    yield from _doubts_of_metrics(config.metrics_file)
    if config.libvirt_uri not in ("", HELPER_URI):
        yield f"libvirt-hypervisor-uri: guests are read there, but momhelper-guests moves balloons at {HELPER_URI} only"
    if config.on_stop == "deflate":
        yield "on-stop: deflate has no effect yet: balloons are kept as they are"


def _bridge_warnings(rpc_socket: Path | None) -> Iterator[str]:
    """The service itself opens no such socket: what counts is where systemd listens."""
    if rpc_socket is None:
        return
    places = unit_files.listens_on(BRIDGE_UNIT)
    if places is None:
        yield f"rpc-port: {rpc_socket} has no effect: {BRIDGE_UNIT} is not installed"
    elif rpc_socket.resolve() not in {Path(place).resolve() for place in places}:
        yield f"rpc-port: {rpc_socket} has no effect: {BRIDGE_UNIT} listens on {', '.join(places) or 'nothing'}"
def _doubts_of_metrics(file: Path | None) -> Iterator[str]:
    """What keeps metrics from being written or found; both can be put right while the service runs."""
    if file and not file.parent.is_dir():
        yield f"metrics-file: {file.parent} is not a folder: nothing is written until it is one"
    if file and file.suffix != ".prom":
        yield f"metrics-file: node_exporter reads only files whose name ends in .prom, not {file.name}"


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys of settings that differ and are read only at the start of the service."""
    rows = dict(settings())
    return [rows[name].key for name in ("libvirt_uri", "log", "max_bytes", "backup_count") if getattr(old, name) != getattr(new, name)]


def read_text(file: Path, limit_bytes: int) -> str:
    """The text of a regular file of at most so many bytes. Raises OSError, or ValueError with the reason."""
    if not file.is_file():
        # Opening a FIFO would wait for ever; opening a device may do anything.
        file.stat()
        raise ValueError("is not a regular file")
    with file.open("rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"is larger than {limit_bytes} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option per setting, from the table."""
    for section in dict.fromkeys(row.section for _, row in settings()):
        group = parser.add_argument_group(f"settings of [{section}]")
        for attribute, row in settings():
            if row.section == section:
                text = f"{row.doc} (default: {row.default or 'empty'})".replace("%", "%%")
                group.add_argument(f"--{row.option}", dest=attribute, metavar="VALUE", help=text)
