# SPDX-License-Identifier: GPL-2.0-or-later
"""The throw-away hosts' file systems: overlays over the machine's /etc, /usr and /var, an own /run and /proc; or a root to boot."""

import fcntl
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 1


class MountError(Exception):
    """A mount that failed, in mount's words."""


@dataclass(frozen=True)
class Wishes:
    """What may differ between labs. Paths as the machine knows them."""

    work: str
    """An empty folder for everything that is written: it becomes a tmpfs."""
    capabilities: str
    """libvirt's cache of what QEMU can do, kept between labs: without it libvirtd takes 8 s to start."""
    knobs: bool
    """Whether the KSM knobs can be written."""
    boot: str = ""
    """The name of the control group of a host to be booted; "" for one that isn't."""


def make(wishes: Wishes) -> None:
    """Make all mounts. Called in a mount namespace of its own, as its first process."""
    work = Path(wishes.work)
    mount("-t", "tmpfs", "-o", "mode=755", "lab", work)
    # Bound before the overlays, which would keep its changes to themselves if the checkout lies below one of them.
    (work / "capabilities").mkdir()
    mount("--bind", wishes.capabilities, work / "capabilities")
    for name in ("etc", "usr", "var"):
        upper, scratch = work / name, work / f"{name}.work"
        upper.mkdir()
        scratch.mkdir()
        mount("-t", "overlay", "-o", f"lowerdir=/{name},upperdir={upper},workdir={scratch}", "lab", f"/{name}")
    mount("-t", "tmpfs", "-o", "mode=755", "lab", "/run")
    mount("-t", "proc", "proc", "/proc")
    cache = Path("/var/cache/libvirt/qemu")
    if cache.is_dir():
        mount("--bind", work / "capabilities", cache)
    hide(wishes)
    raise_loopback()


def make_root(wishes: Wishes) -> None:
    """Make the root folder of a host to be booted, and the surroundings for what boots it. Called as `make` is."""
    work = Path(wishes.work)
    mount("-t", "tmpfs", "-o", "mode=755", "lab", work)
    # An overlay sees one file system: further ones are laid over their folders.
    for name in ("", "etc", "usr", "var"):
        if not name or Path("/", name).is_mount():
            upper, scratch = work / f"{name}.upper", work / f"{name}.work"
            upper.mkdir()
            scratch.mkdir()
            (work / "root").mkdir(exist_ok=True)
            mount("-t", "overlay", "-o", f"lowerdir=/{name},upperdir={upper},workdir={scratch}", "lab", work / "root" / name)
    mount("-t", "tmpfs", "-o", "mode=755", "lab", "/run")
    mount("-t", "proc", "proc", "/proc")
    # A hierarchy of its own kind, of which the host gets one group: whatever the machine has there stays as it is.
    subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], capture_output=True, check=False)
    mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    Path("/sys/fs/cgroup", wishes.boot).mkdir()
    raise_loopback()


def hide(wishes: Wishes) -> None:
    """Take away what would let the lab change the machine, or hang it."""
    ksm = Path("/sys/kernel/mm/ksm")
    if not wishes.knobs and ksm.is_dir():
        mount("--bind", ksm, ksm)
        mount("-o", "remount,bind,ro", ksm)
    if Path("/dev/kvm").exists():
        # Where KVM is nested it may open and yet boot no kernel; without it libvirt offers emulation only, everywhere the same.
        # A file that can't be opened for writing: behind one that can, libvirt expects KVM and probes QEMU anew for each guest.
        nothing = Path(wishes.work, "no-kvm")
        nothing.touch()
        mount("--bind", nothing, "/dev/kvm")
        mount("-o", "remount,bind,ro", "/dev/kvm")
    # libvirt would leave the guests' groups behind in the machine's hierarchies.
    subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], capture_output=True, check=False)


def mount(*arguments: str | Path) -> None:
    """Run mount(8)."""
    result = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise MountError(" ".join((result.stderr or "mount failed").split()))


def raise_loopback() -> None:
    """Switch the namespace's loopback interface on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
