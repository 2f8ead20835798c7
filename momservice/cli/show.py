# SPDX-License-Identifier: GPL-2.0-or-later
"""momctl status, stats, guests."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from momservice.cli.output import DASH, local_time, mib, pages_mib, say, say_fields, say_json, say_pairs, say_table
from momservice.cli.service import connected, guest_uuid
from momservice.cli.verbs import Verbs, add_verb
from momservice.client import BlockingClient, GuestState, ServiceStatus
from momservice.fields import EntityKind
from momservice.hypervisor.guests_state import SHORT
from momservice.snapshot import EMPTY, Sample

if TYPE_CHECKING:
    # At run time it would bring along all that a service needs.
    from momservice.parts import HasFields

# libvirt's names of its domain states.
STATES = ("no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended")
# A guest whose balloon can't be used, where the reason isn't known.
UNMANAGED = "unmanaged"
GUEST_HEADER = ("GUEST", "BALLOON", "MIN", "MAX", "TOTAL", "FREE", "RSS", "STATE")
GUEST_FIELDS = ("balloon_cur", "balloon_min", "balloon_max", "mem_available", "mem_free")


def add(verbs: Verbs, json_option: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    add_verb(verbs, "status", "how the service is, and why", show_status, parents=[json_option])
    stats = add_verb(verbs, "stats", "the newest figures of host and guests", show_stats, parents=[json_option])
    stats.add_argument("guest", nargs="?", metavar="GUEST", help="only this guest (name or UUID), with all its fields")
    add_verb(verbs, "guests", "the guests that are monitored, with their UUIDs", show_guests, parents=[json_option])


def show_status(options: argparse.Namespace) -> int:
    """`momctl status`."""
    with connected() as client:
        status = client.status()
    if options.json:
        say_json(asdict(status))
    else:
        say_pairs(_status_pairs(status))
    return 0


def _status_pairs(status: ServiceStatus) -> list[tuple[str, str]]:
    reasons = [("" if number else "reasons", reason) for number, reason in enumerate(status.status_reasons)]
    ago = max(0, int(time.time() - status.last_evaluation_us / 1e6))
    run = f"{local_time(status.last_evaluation_us)}, {ago} s ago, took {status.evaluation_duration_us / 1000:.1f} ms"
    return [
        ("status", status.status),
        *reasons,
        ("guests", str(status.guest_count)),
        ("generation", str(status.generation)),
        ("interval", f"{status.interval_ms / 1000:g} s"),
        ("last run", run if status.last_evaluation_us else "none yet"),
        ("last error", status.last_error or "none"),
        ("libvirt", "connected" if status.hypervisor_connected else "not connected"),
        ("helpers", "available" if status.helper_available else "not available"),
        ("polkit", "available" if status.polkit_available else "not available"),
        ("version", f"{status.version} (API {status.api_version})"),
    ]


def show_stats(options: argparse.Namespace) -> int:
    """`momctl stats`."""
    with connected() as client:
        if options.guest is None:
            _show_all(client, as_json=options.json)
        else:
            sample = client.guest_statistics(guest_uuid(client, options.guest))
            if options.json:
                say_json(sample)
            else:
                say_fields(sample, _units("guest"))
    return 0


def _units(kind: EntityKind) -> dict[str, str]:
    """The unit of each field."""
    from momservice.collectors import registry  # noqa: PLC0415 - only those who print figures should wait for all collectors

    collectors: Iterable[HasFields] = registry.HOST.values() if kind == "host" else registry.GUEST.values()
    return {field.name: field.unit for collector in collectors for field in collector.FIELDS}


def _show_all(client: BlockingClient, *, as_json: bool) -> None:
    statistics, names = client.statistics(), dict(client.active_guests())
    if as_json:
        guests = {uuid: {"name": names.get(uuid, ""), "statistics": sample} for uuid, sample in statistics.guests.items()}
        say_json({"host": statistics.host, "guests": guests})
        return
    say_fields(statistics.host, _units("host")) if statistics.host else say("no figures of the host yet")
    say("\nno guests" if not statistics.guests else "\nMiB")
    if statistics.guests:
        states = client.guest_states() if needs_reasons(statistics.guests.values()) else {}
        rows = [_guest_row(names.get(uuid, uuid), sample, states.get(uuid)) for uuid, sample in statistics.guests.items()]
        say_table(GUEST_HEADER, sorted(rows), frozenset(range(1, len(GUEST_FIELDS) + 2)))


def show_guests(options: argparse.Namespace) -> int:
    """`momctl guests`."""
    with connected() as client:
        statistics, guests = client.statistics().guests, client.active_guests()
        states = client.guest_states() if needs_reasons(statistics.values()) else {}
    samples = {uuid: statistics.get(uuid, EMPTY) for uuid, _ in guests}
    if options.json:
        known = ("libvirt_state", "held", "balloon_works", "mergeable")
        say_json([{"uuid": uuid, "name": name, **{field: samples[uuid].get(field) for field in known}} for uuid, name in guests])
    elif guests:
        say_table(("GUEST", "UUID", "STATE"), [(name, uuid, state_of(samples[uuid], states.get(uuid))) for uuid, name in guests])
    else:
        say("no guests")
    return 0


def _guest_row(name: str, sample: Sample, told: GuestState | None) -> list[str]:
    return [name, *(mib(sample.get(field)) for field in GUEST_FIELDS), pages_mib(sample.get("rss")), state_of(sample, told)]


def needs_reasons(samples: Iterable[Sample]) -> bool:
    """Whether a sample alone doesn't say why its guest's balloon can't be used."""
    return any(sample.get("balloon_works") is False for sample in samples)


def state_of(sample: Sample, told: GuestState | None = None) -> str:
    """A guest's state in words. `told`: what the service says of it."""
    number = sample.get("libvirt_state")
    state = STATES[number] if isinstance(number, int) and 0 <= number < len(STATES) else DASH
    notes = ["held"] if sample.get("held") is True else []
    if sample.get("balloon_works") is False:
        notes.append(_why_unmanaged(told.capabilities if told else {}))
    return ", ".join([state, *notes])


def _why_unmanaged(able: Mapping[str, str]) -> str:
    # The guest may have changed between two answers of the service, and a newer service may know other reasons.
    return next((SHORT[able[name]] for name in ("balloon", "statistics") if able.get(name) in SHORT), UNMANAGED)
