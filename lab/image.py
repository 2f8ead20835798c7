# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest real guest: Debian's cloud kernel and a busybox initramfs with the virtio balloon driver."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.common import CACHE, LabError, locked, tail
from lab.packages import apt_with_update

# Later ones need earlier ones: a wrong order leaves no balloon driver and no error.
VIRTIO = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci")
INIT = Path(__file__).with_name("guest-init.sh")


def ensure_image() -> Path:
    """The folder with vmlinuz and initrd.gz, made when missing or when the recipe changed."""
    recipe = INIT.read_text(encoding="utf-8") + Path(__file__).read_text(encoding="utf-8")
    folder = CACHE / "guest"
    with locked(CACHE / "guest.lock", "waiting for another dev that makes the guest image"):
        stamp = folder / "recipe"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != recipe:
            build(folder, recipe)
    return folder


def build(folder: Path, recipe: str) -> None:
    """Make the image beside its place, then put it there whole: a run that was killed leaves nothing half made."""
    if platform.machine() != "x86_64":
        raise LabError("the lab's guests are x86_64: this machine isn't")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="guest-") as work:
        kernel, modules = fetch_kernel(Path(work))
        made = Path(work) / "made"
        made.mkdir()
        shutil.copy(kernel, made / "vmlinuz")
        (made / "initrd.gz").write_bytes(initramfs(Path(work) / "root", modules))
        (made / "recipe").write_text(recipe, encoding="utf-8")
        made.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)


def fetch_kernel(work: Path) -> tuple[Path, Path]:
    """Debian's present cloud kernel: its image and the folder of its drivers. Downloaded and unpacked, not installed."""
    apt_with_update("download", "linux-image-cloud-amd64", cwd=work)
    fields = checked(["dpkg-deb", "--field", str(only(work, "linux-image-cloud-*.deb")), "Depends"]).decode()
    apt_with_update("download", fields.split()[0], cwd=work)
    archive = checked(["dpkg-deb", "--fsys-tarfile", str(only(work, "linux-image-[0-9]*.deb"))])
    patterns = ["./boot/vmlinuz-*", "*/drivers/virtio/*"]
    checked(["tar", "--extract", "--directory", str(work), "--wildcards", *patterns], archive)
    return only(work, "boot/vmlinuz-*"), only(work, "lib/modules/*/kernel/drivers")


def initramfs(root: Path, modules: Path) -> bytes:
    """A compressed cpio archive of busybox, the virtio drivers and the guest's init."""
    for name in ("bin", "proc", "sys", "dev", "modules", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for driver in (*VIRTIO, "virtio_balloon"):
        shutil.copy(modules / f"virtio/{driver}.ko", root / "modules")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = checked(["cpio", "--create", "--null", "--format=newc", "--quiet", "--owner=0:0"], names.encode(), root)
    return checked(["gzip", "-1", "--no-name"], archive)


def only(folder: Path, pattern: str) -> Path:
    """The one path that matches."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"guest image: {len(found)} files match {pattern}, one expected")
    return found[0]


def checked(command: list[str], data: bytes = b"", cwd: Path | None = None) -> bytes:
    """A program's output; LabError with its last words when it fails."""
    result = subprocess.run(command, input=data, capture_output=True, check=False, cwd=cwd)
    if result.returncode:
        raise LabError(f"{command[0]}: {tail(result.stderr.decode(errors='replace'))}")
    return result.stdout
