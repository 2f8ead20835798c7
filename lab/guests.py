# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's guests: what they are made of, and what libvirt says of their balloons."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from lab.common import LabError, tail

Run = Callable[..., CompletedProcess[str]]

XML = """<domain type='qemu'>
 <name>{name}</name>
 <uuid>{uuid}</uuid>
 <memory unit='MiB'>{mib}</memory><currentMemory unit='MiB'>{mib}</currentMemory>
 <vcpu>1</vcpu>
 <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{image}/vmlinuz</kernel><initrd>{image}/initrd.gz</initrd>
  <cmdline>console=ttyS0 quiet no_timer_check panic=1 {arguments}</cmdline></os>
 <features><acpi/></features>
 <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
 <devices>
  <emulator>/usr/bin/qemu-system-x86_64</emulator>
  <controller type='usb' model='none'/>
  <serial type='pty'/>
  {balloon}
 </devices>
</domain>
"""


@dataclass(frozen=True)
class Guest:
    """A guest to be. Its uuid follows from its number, so that tests can name it beforehand."""

    number: int
    mib: int = 128
    stats_period_s: int = 0
    """0: none, as most managers leave it; the service has to ask for statistics itself."""
    arguments: str = ""
    """More for the guest's kernel command line: see guest-init.sh."""
    balloon: bool = True

    @property
    def name(self) -> str:
        """vm1, vm2, ..."""
        return f"vm{self.number}"

    @property
    def uuid(self) -> str:
        """The same in every lab."""
        return f"00000000-0000-4000-8000-{self.number:012d}"

    def xml(self, image: Path) -> str:
        """The domain's XML. Emulation: KVM isn't everywhere, and where it is it may boot nothing."""
        period = f"<stats period='{self.stats_period_s}'/>" if self.stats_period_s else ""
        device = f"<memballoon model='virtio' autodeflate='on'>{period}</memballoon>" if self.balloon else "<memballoon model='none'/>"
        return XML.format(name=self.name, uuid=self.uuid, mib=self.mib, image=image, arguments=self.arguments, balloon=device)


def statistics(run: Run, *wanted: str) -> dict[str, dict[str, int]]:
    """What libvirt's read-only socket says: guest name -> key of domstats ("balloon.current", ...) -> number. Sizes in KiB.

    wanted: virsh's options for the groups, --balloon if none.
    """
    result = run(["virsh", "--readonly", "domstats", "--nowait", *(wanted or ("--balloon",))], timeout=30)
    if result.returncode:
        raise LabError(f"virsh domstats: {tail(result.stderr)}")
    found: dict[str, dict[str, int]] = {}
    for block in result.stdout.split("Domain: ")[1:]:
        values = re.findall(r"^\s*([\w.-]+)=(\d+)$", block, re.MULTILINE)
        found[block.splitlines()[0].strip().strip("'")] = {key: int(value) for key, value in values}
    return found


def balloons(run: Run) -> dict[str, int]:
    """Each guest's balloon in bytes, by name, as libvirt tells it."""
    return {name: values["balloon.current"] * 1024 for name, values in statistics(run).items() if "balloon.current" in values}


def fresh(values: dict[str, int], within_s: float = 10) -> bool:
    """Whether a guest's driver has told its memory use of late."""
    return "balloon.usable" in values and time.time() - values.get("balloon.last-update", 0) <= within_s


def create(run: Run, guests: Sequence[Guest], image: Path, folder: Path) -> None:
    """Start guests. folder: where their XML goes, the same path inside and outside. Raises LabError with virsh's words.

    One after the other: side by side their booting takes no less of the CPU, and libvirtd answers late meanwhile.
    """
    for guest in guests:
        file = folder / f"{guest.name}.xml"
        file.write_text(guest.xml(image), encoding="utf-8")
        result = run(["virsh", "--quiet", "create", str(file)], timeout=120)
        if result.returncode:
            raise LabError(f"{guest.name} does not start: {tail(result.stderr)}")
