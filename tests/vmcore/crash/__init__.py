"""Crashes a guest's kernel and keeps what kdump sees: /proc/vmcore, and the head of /proc/kcore."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 280  # seconds; it takes 20 where nothing else runs


class CrashError(Exception):
    """Something that it takes is missing here, or the guest did not come up to it."""


def crash(image: Path, busybox: Path, folder: Path) -> tuple[Path, Path]:
    """Boot a kernel of Debian's for virtual machines and crash it.

    Parameters
    ----------
    image, busybox
        The kernel, x86-64; a static busybox.
    folder
        Where to write.

    Returns
    -------
    vmcore, kcore
        A copy of ``/proc/vmcore``; the first 64 KiB of ``/proc/kcore``.
    """
    for program in ("qemu-system-x86_64", "cc"):
        if shutil.which(program) is None:
            raise CrashError(f"no {program}: apt-get install qemu-system-x86 gcc libc6-dev")
    from ..rig import initramfs

    load = folder / "load"
    subprocess.run(["cc", "-O1", "-static", str(HERE / "load.c"), "-o", str(load)], check=True)
    shell = busybox.read_bytes()
    second = initramfs.build(
        {"bin/busybox": shell, "init": (HERE / "second.sh").read_bytes()},
        ("bin/busybox", "init"),
    )
    first = initramfs.build(
        {
            "bin/busybox": shell,
            "init": (HERE / "first.sh").read_bytes(),
            "load": load.read_bytes(),
            "vmlinuz": image.read_bytes(),
            "second.cpio": second,
        },
        ("bin/busybox", "init", "load"),
    )
    (folder / "first.cpio").write_bytes(first)
    disks = {"vmcore": 1 << 30, "kcore": 1 << 20}
    command = ["qemu-system-x86_64", "-machine", "pc,accel=tcg", "-cpu", "max,-la57", "-m", "512"]
    command += ["-smp", "2", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(image), "-initrd", str(folder / "first.cpio"), "-append"]
    command += ["console=ttyS0 rdinit=/init crashkernel=192M panic=-1"]
    command += ["-serial", f"file:{folder / 'console.txt'}", "-device", "nvme,id=nvme,serial=1"]
    for name, size in disks.items():
        with (folder / name).open("wb") as disk:
            disk.truncate(size)
        command += ["-drive", f"file={folder / name},if=none,id={name},format=raw"]
        command += ["-device", f"nvme-ns,drive={name},bus=nvme"]
    subprocess.run(command, timeout=PATIENCE, check=True)
    console = (folder / "console.txt").read_text("latin-1")
    copied = re.search(r"^copied (\d+) bytes", console, re.M)
    if copied is None:
        raise CrashError(f"the guest did not come up to it; its console ends:\n{console[-600:]}")
    with (folder / "vmcore").open("r+b") as disk:
        disk.truncate(int(copied[1]))
    return folder / "vmcore", folder / "kcore"
