"""Turns a guest that crashes into its kdump: ``/proc/vmcore`` as the crash kernel has it."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

from . import initramfs, qemu
from .packages import Packages, RigError

HERE = Path(__file__).parent
#: What the crash kernel gets of the guest's memory, megabytes.
RESERVED = 144


def files(packages: Packages, working: Path) -> dict[str, bytes]:
    """Return what a guest needs to have a crash kernel: it, its root file system, the loader."""
    loader = working / "load"
    source = HERE / "load_crash_kernel.c"
    try:
        command = ["gcc", "-O1", "-static", "-o", str(loader), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RigError(f"no static programs here: {error}") from error
    disk = initramfs.modules(packages, ("virtio_pci", "virtio_blk"))
    second = {
        **initramfs.with_modules("modules", disk),
        "init": (HERE / "crash.sh").read_bytes(),
        "bin/busybox": packages.busybox.read_bytes(),
    }
    return {
        "crash/load": loader.read_bytes(),
        "crash/kernel": packages.image.read_bytes(),
        "crash/initramfs": initramfs.build(second, ("init", "bin/busybox")),
    }


def take(guest: qemu.Guest, disk: Path, vmcore: Path, took: dict[str, float]) -> None:
    """Wait until the crash kernel has copied the memory, and cut it out of the disk."""
    started = time.monotonic()
    if (said := guest.asked()) != "copied":
        raise qemu.GuestError(f"instead of copying its memory, the guest says {said!r}")
    took["crash"] = time.monotonic() - started
    with disk.open("rb+") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF":
            raise qemu.GuestError("the crash kernel copied no ELF file")
        (table,) = struct.unpack_from("<Q", head, 32)
        (count,) = struct.unpack_from("<H", head, 56)
        file.seek(table)
        rows = struct.iter_unpack("<IIQQQQQQ", file.read(56 * count))
        file.truncate(max(row[2] + row[5] for row in rows))
    disk.rename(vmcore)
