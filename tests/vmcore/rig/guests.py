"""Turns the plan of a guest into a folder: its memory, and what its kernel said just before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from . import crash, initramfs, qemu
from .packages import RigError, fetch
from .qemu import GuestError

HERE = Path(__file__).parent
#: Loaded into every guest that has them; the first one is what tells QEMU of VMCOREINFO.
MODULES = ("qemu_fw_cfg", "loop", "overlay", "dummy", "tun", "veth", "nf_tables", "xfs")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which guest is booted, and what is dumped.

    Parameters
    ----------
    suite, architecture
        Whose kernel.
    memory
        Megabytes.
    append
        Words for the kernel's command line.
    levels
        Of an x86-64 guest's page tables.
    forms
        Further forms in which QEMU writes the first dump (``kdump-zlib``).
    snapshots
        Names of the dumps that one boot makes: ``plain`` is the guest as it is; before
        ``shrunk``, each cache gives up what its processors hold; ``crash``, alone, is the kdump
        of a guest that crashes.
    """

    suite: str
    architecture: str = "amd64"
    memory: int = 192
    append: str = ""
    levels: int = 4
    forms: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ("plain", "shrunk")

    @property
    def key(self) -> str:
        """What tells it from other plans, and from what other versions of the rig made of it."""
        digest = hashlib.sha256(repr(self).encode())
        for file in sorted(HERE.glob("*.[cps]*")):
            digest.update(file.read_bytes())
        return f"{self.suite}-{self.architecture}-{digest.hexdigest()[:12]}"


#: The guests that tests ask for.
GUESTS = {
    "bookworm": Plan("bookworm", forms=("kdump-zlib",)),
    "debugged": Plan("bookworm", append="slab_debug=FZPU slub_debug=FZPU", memory=256),
    "trixie": Plan("trixie"),
    "sid": Plan("sid"),
    "five-levels": Plan("bookworm", levels=5),
    "arm64": Plan("trixie", "arm64"),
    "crashed": Plan(
        "bookworm", memory=384, append=f"crashkernel={crash.RESERVED}M", snapshots=("crash",)
    ),
}


@dataclass(frozen=True, slots=True)
class Fresh:
    """A dump and what the guest's kernel said just before it was made.

    Parameters
    ----------
    folder
        Where ``vmcore.elf`` and a text per name (``slabinfo.txt``, ``kallsyms.txt``, …) lie.
    """

    folder: Path

    @property
    def vmcore(self) -> Path:
        """The dump, ELF as QEMU writes it."""
        return self.folder / "vmcore.elf"

    def text(self, name: str) -> str:
        """Return what the guest printed under a name."""
        return (self.folder / f"{name}.txt").read_text("latin-1")


def make(plan: Plan, out: Path, *, cache: Path | None = None) -> dict[str, Fresh]:
    """Boot a guest and dump it.

    Parameters
    ----------
    plan
        Which one.
    out
        A folder that is created; each snapshot gets a folder of its own in it.
    cache
        Where downloaded packages are kept.

    Returns
    -------
    dict
        The dumps by snapshot.

    Raises
    ------
    RigError
        Something that it takes is missing here.
    """
    started = time.monotonic()
    packages = fetch(plan.suite, plan.architecture, cache or cache_folder())
    took = {"packages": time.monotonic() - started}
    out.mkdir(parents=True, exist_ok=True)
    files = initramfs.with_modules("modules", initramfs.modules(packages, MODULES))
    if "crash" in plan.snapshots:
        files |= crash.files(packages, out)
    shutil.copy(packages.config, out / "config")
    found = boot(plan, packages.image, packages.busybox, files, out, took)
    tell(plan, out, took, release=packages.release, package=packages.version)
    return found


def tell(plan: Plan, out: Path, took: dict[str, float], **more: object) -> None:
    """Write down how a dump was made."""
    about = {**asdict(plan), **more, "qemu": _machine(plan).options}
    about["seconds"] = {step: round(value, 1) for step, value in took.items()}
    (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _machine(plan: Plan) -> qemu.Machine:
    return qemu.arm() if plan.architecture == "arm64" else qemu.x86(levels=plan.levels)


def boot(
    plan: Plan,
    kernel: Path,
    busybox: Path,
    more: Mapping[str, bytes],
    out: Path,
    took: dict[str, float],
) -> dict[str, Fresh]:
    """Run a guest up to its last dump.

    Parameters
    ----------
    plan
        Its machine, and what is dumped.
    kernel, busybox
        What it boots, and what its first process uses.
    more
        Further files of its root file system.
    out
        A folder that is there.
    took
        Gets the seconds that each step took.
    """
    archive = out / "initramfs.cpio"
    init = (HERE / "init.sh").read_bytes()
    files = {**more, "bin/busybox": busybox.read_bytes(), "init": init}
    archive.write_bytes(initramfs.build(files, programs=("bin/busybox", "init", "crash/load")))
    machine = _machine(plan)
    started = time.monotonic()
    append = f"{plan.append} {qemu.names(plan.snapshots)}"
    found: dict[str, Fresh] = {}
    disk = None
    if "crash" in plan.snapshots:
        disk = out / "disk"
        with disk.open("wb") as file:
            file.truncate((plan.memory + 16) << 20)
    memory = plan.memory
    with qemu.Guest(
        machine, kernel, archive, out, memory=memory, append=append, disk=disk
    ) as guest:
        if disk:
            folder = out / "crash"
            folder.mkdir(exist_ok=True)
            crash.take(guest, disk, folder / "vmcore.elf", took)
            found["crash"] = Fresh(folder)
        while disk is None and (asked := guest.asked()) != "done":
            name = asked.removeprefix("dump ")
            if name not in plan.snapshots:
                raise RigError(f"the guest asks for {asked!r}, which is no dump of this plan")
            guest.command("stop")
            took[f"up to {name}"] = time.monotonic() - started
            folder = out / name
            folder.mkdir(exist_ok=True)
            guest.dump(folder / "vmcore.elf")
            for form in plan.forms if not found else ():
                guest.dump(folder / f"vmcore.{form}", form)
            (folder / "registers.txt").write_text(guest.monitor("info registers -a"))
            found[name] = Fresh(folder)
            guest.command("cont")
            guest.answer()
        took["dumped"] = time.monotonic() - started
    for name, texts in qemu.sections((out / "texts.raw").read_bytes()).items():
        for key, text in texts.items():
            (out / name / f"{key}.txt").write_text(text, "latin-1")
    (out / "texts.raw").unlink()
    archive.unlink()
    return found


def cache_folder() -> Path:
    """Return where packages and dumps are kept: ``KMEMLEAK_RIG_CACHE``, or the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kmemleak-rig"
    return Path(os.environ.get("KMEMLEAK_RIG_CACHE", default))


def fresh(name: str) -> dict[str, Fresh]:
    """Return a guest's dumps by snapshot, made unless they are in the cache.

    Raises
    ------
    RigError
        Something that it takes is missing here.
    """
    return kept(GUESTS[name])


def kept(plan: Plan) -> dict[str, Fresh]:
    """Return the dumps of a plan, made unless they are in the cache."""
    dumps = cache_folder() / "dumps"
    dumps.mkdir(parents=True, exist_ok=True)
    folder = dumps / plan.key
    with (dumps / f"{plan.key}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=dumps) as working:
                _insist(plan, Path(working) / "made")
                (Path(working) / "made").rename(folder)
    return {snapshot: Fresh(folder / snapshot) for snapshot in plan.snapshots}


def _insist(plan: Plan, out: Path) -> None:
    """Make dumps; an emulated guest that dies as it boots gets a second chance."""
    try:
        make(plan, out)
    except GuestError:
        shutil.rmtree(out)
        make(plan, out)


__all__ = [
    "GUESTS",
    "Fresh",
    "Plan",
    "RigError",
    "boot",
    "cache_folder",
    "fresh",
    "kept",
    "make",
    "tell",
]
