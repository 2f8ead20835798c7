# SPDX-License-Identifier: GPL-2.0-or-later
"""What ./dev run sees: samples of the host as they come, and the verdict at the end."""

import platform
import re
from dataclasses import dataclass, field
from typing import Any

from lab import bus, knobs
from lab.common import LabError
from lab.guests import balloons
from lab.host import Host

# What the service logs of every control: NAME: CONTROL APPLIED (wanted VALUE) by PLACE: OUTCOME.
CONTROL = re.compile(r": (\S+): (\w+) (\S+) \(wanted (.*?)\) by (\S+): (.*)$", re.MULTILINE)
# The knobs that the default policies move; the third one may already be what they want.
MOVED = ("run", "pages_to_scan")


@dataclass
class Sample:
    """One look at the host. Balloons in bytes as libvirt tells them, everything else as the service does."""

    balloons: dict[str, int] = field(default_factory=dict)
    knobs: dict[str, int | str] = field(default_factory=dict)
    manager: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    guests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields by guest name."""
    controls: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """(guest name or "host", control) -> (value, why): the last of each."""


def look(host: Host) -> Sample:
    """Take a sample. Raises LabError when something doesn't answer."""
    sample = Sample(balloons(host.run), numbers(knobs.read()))
    sample.manager = bus.properties(host)
    sample.host, guests = bus.call(host, "Manager", "GetStatistics")
    names = dict(bus.call(host, "Manager", "GetActiveGuests")[0])
    sample.guests = {names[uuid]: fields for uuid, fields in guests.items() if uuid in names}
    for entity, control, applied, _wanted, place, outcome in CONTROL.findall(host.log("momservice")):
        sample.controls[entity, control] = applied, f"{place} {outcome}"
    return sample


def numbers(values: dict[str, str]) -> dict[str, int | str]:
    """Knobs as numbers where they are."""
    return {name: int(value) if value.isdigit() else value for name, value in values.items()}


class Record:
    """All samples, boiled down to what the JSON object tells."""

    def __init__(self, host: Host) -> None:
        """Begin with the knobs as they were found."""
        self._guests: dict[str, dict[str, int]] = {}
        self._before = numbers(host.knobs_before)
        self._during: dict[str, list[int | str]] = {name: [] for name in self._before}
        self._after: dict[str, int | str] = {}
        self._evaluations: dict[int, int] = {}
        self.errors: list[str] = []
        self._versions = versions(host)

    def add(self, sample: Sample) -> None:
        """Take a sample in."""
        for name, now in sample.balloons.items():
            guest = self._guests.setdefault(name, {"first": now, "lowest": now, "last": now})
            guest["lowest"], guest["last"] = min(guest["lowest"], now), now
        for name, seen in self._during.items():
            value = sample.knobs.get(name)
            if value is not None and [value] != seen[-1:]:
                seen.append(value)
        if begun := sample.manager["LastEvaluation"]:
            self._evaluations[begun] = sample.manager["EvaluationDuration"]
        for text in (sample.manager["LastError"], *sample.manager["StatusReasons"]):
            self.complain(text)

    def complain(self, text: str) -> None:
        """Remember an error, once."""
        if text and text not in self.errors:
            self.errors.append(text)

    def close(self) -> None:
        """Look at the knobs when the lab is gone."""
        self._after = numbers(knobs.read())

    def failures(self) -> list[str]:
        """What should have happened and did not; nothing if all went well."""
        lines = [] if self._guests else ["no guest was seen"]
        for name, guest in self._guests.items():
            if guest["lowest"] > 0.99 * guest["first"]:
                lines.append(f"{name}: the balloon did not go down")
            elif guest["last"] < 0.99 * guest["first"]:
                lines.append(f"{name}: the balloon did not come back")
        lines += [f"KSM knob {name} did not change" for name in MOVED if not set(self._during.get(name, ())) - {self._before.get(name)}]
        lines += [f"KSM knob {name} was not restored" for name, value in self._before.items() if self._after.get(name) != value]
        return lines

    def document(self) -> dict[str, Any]:
        """The JSON object."""
        ksm = {
            name: {"before": before, "during": self._during[name], "after": self._after.get(name)} for name, before in self._before.items()
        }
        durations = [self._evaluations[begun] for begun in sorted(self._evaluations)]
        return {
            "guests": self._guests,
            "ksm": ksm,
            "cycles": len(durations),
            "evaluation_us": durations,
            "errors": [*self.errors, *self.failures()],
            "versions": self._versions,
        }


def versions(host: Host) -> dict[str, str]:
    """What took part."""
    said = host.check(["virsh", "--readonly", "version"])
    found = {line.split(":")[0]: line.split()[-1] for line in said.splitlines() if line.strip()}
    return {
        "mom": bus.properties(host)["Version"],
        "python": host.check(["/usr/bin/python3", "--version"]).split()[-1],
        "kernel": platform.release(),
        "libvirt": found.get("Using library", "?"),
        "qemu": found.get("Running hypervisor", "?"),
        "dbus": host.check(["dbus-daemon", "--version"]).splitlines()[0].split()[-1],
    }


def squeeze(host: Host, tight: bool) -> None:
    """Make the policy take the host for short of memory, or for one that never is. Raises LabError if the policy can't be told.

    No host has all its memory free, and none has less than nothing: so this works on any machine.
    """
    known = bus.call(host, "Policy", "GetParameters")[0]
    wanted = {name: 1.0 if tight else 0.0 for name in ("pressure_threshold", "ksm_free_percent") if name in known}
    if not wanted:
        raise LabError("this policy has neither pressure_threshold nor ksm_free_percent: the host is watched, not squeezed")
    bus.set_parameters(host, wanted)
