"""Turns a kernel and a root file system into a running machine whose memory can be dumped."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .packages import RigError

#: Seconds for a guest to come up to a dump; it takes 15 to 40 where nothing else runs.
PATIENCE = 300.0


class GuestError(Exception):
    """A guest did not come up to its dump."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What QEMU emulates.

    Parameters
    ----------
    program
        Which QEMU.
    options
        Machine and processor.
    serial
        How a further serial line is attached to a character device, ``{}`` being its name.
    console, texts, asks
        The guest's names of its lines.
    """

    program: str
    options: tuple[str, ...]
    serial: tuple[str, ...]
    console: str
    texts: str
    asks: str


def x86(*, levels: int = 4) -> Machine:
    """Return a PC whose page tables have four levels or five."""
    processor = "max" if levels == 5 else "max,-la57"
    # With five levels, only emulation is sure to have them.
    accelerators = "tcg" if levels == 5 or not _kvm_works() else "kvm"
    return Machine(
        "qemu-system-x86_64",
        ("-machine", f"pc,accel={accelerators}", "-cpu", processor),
        ("-serial", "chardev:{}"),
        *("ttyS0", "ttyS1", "ttyS2"),
    )


def arm() -> Machine:
    """Return a 64-bit ARM machine."""
    return Machine(
        "qemu-system-aarch64",
        ("-machine", "virt,accel=tcg", "-cpu", "max", "-device", "virtio-serial-pci"),
        ("-device", "virtserialport,chardev={}"),
        *("ttyAMA0", "vport0p1", "vport0p2"),
    )


def _kvm_works() -> bool:
    """Whether this machine lets us run guests by itself: not inside most virtual machines."""
    if os.environ.get("KMEMLEAK_RIG_ACCEL") == "tcg" or not os.access(
        "/dev/kvm", os.R_OK | os.W_OK
    ):
        return False
    probe = ["qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "max", "-nodefaults"]
    probe += ["-display", "none", "-S", "-qmp", "stdio"]
    try:
        asked = '{"execute":"qmp_capabilities"}{"execute":"quit"}'
        done = subprocess.run(probe, input=asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Guest:
    """A running machine; leaving its ``with`` block ends it.

    Parameters
    ----------
    machine
        What to emulate.
    kernel, initramfs
        Files to boot.
    folder
        Where ``console.txt`` and ``texts.raw`` are written to.
    memory
        Megabytes.
    processors
        How many.
    append
        More words for the kernel's command line.
    disk
        A file that it has as a disk.
    """

    def __init__(
        self,
        machine: Machine,
        kernel: Path,
        initramfs: Path,
        folder: Path,
        *,
        memory: int = 192,
        processors: int = 2,
        append: str = "",
        disk: Path | None = None,
    ) -> None:
        if shutil.which(machine.program) is None:
            raise RigError(f"no {machine.program}: apt-get install qemu-system")
        self.folder = folder
        self._asks, theirs = socket.socketpair()
        self._pending = b""
        command = [machine.program, *machine.options, "-m", str(memory), "-smp", str(processors)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-device", "vmcoreinfo", "-kernel", str(kernel), "-initrd", str(initramfs)]
        words = f"console={machine.console} panic=-1 rdinit=/init no_hash_pointers {append}"
        words += f" rig_texts=/dev/{machine.texts} rig_asks=/dev/{machine.asks}"
        command += ["-append", words, "-qmp", "stdio"]
        if disk:
            command += ["-drive", f"file={disk},format=raw,if=virtio"]
        command += ["-serial", f"file:{folder / 'console.txt'}"]
        command += ["-chardev", f"file,id=texts,path={folder / 'texts.raw'}"]
        command += ["-chardev", f"socket,id=asks,fd={theirs.fileno()}"]
        for line in ("texts", "asks"):
            command += [option.format(line) for option in machine.serial]
        with (folder / "qemu.txt").open("w") as complaints:
            self._qemu = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                pass_fds=[theirs.fileno()],
                preexec_fn=_die_with_parent,
            )
        theirs.close()

    def __enter__(self) -> Guest:
        self._reply()  # its greeting
        self.command("qmp_capabilities")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._qemu.kill()
        self._qemu.communicate()
        self._asks.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Let QEMU do something and return its answer; `RigError` if it cannot."""
        assert self._qemu.stdin is not None
        print(json.dumps({"execute": name, "arguments": arguments}), file=self._qemu.stdin)
        self._qemu.stdin.flush()
        while True:
            reply = self._reply()
            if "error" in reply:
                raise RigError(f"QEMU: {name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def _reply(self) -> dict[str, Any]:
        assert self._qemu.stdout is not None
        line = self._qemu.stdout.readline()
        if not line:
            raise RigError(f"QEMU ended: {(self.folder / 'qemu.txt').read_text().strip()[-500:]}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def asked(self, patience: float = PATIENCE) -> str:
        """Wait until the guest says something (``dump NAME``, ``done``), and return it."""
        end = time.monotonic() + patience
        while b"\n" not in self._pending:
            self._asks.settimeout(max(end - time.monotonic(), 0.001))
            try:
                more = self._asks.recv(4096)
            except TimeoutError:
                more = b""
            if not more:
                last = (self.folder / "console.txt").read_bytes()[-600:].decode("latin-1")
                raise GuestError(f"the guest did not come up to a dump; its console ends:\n{last}")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("latin-1").strip()

    def answer(self) -> None:
        """Let the guest go on."""
        self._asks.sendall(b"go\n")

    def dump(self, path: Path, form: str = "elf") -> None:
        """Write its memory; ``kdump-zlib`` and other forms are flattened files."""
        self.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=form)

    def monitor(self, line: str) -> str:
        """Return what QEMU's monitor says to a command (``info registers -a``)."""
        return str(self.command("human-monitor-command", **{"command-line": line}))


def sections(raw: bytes) -> dict[str, dict[str, str]]:
    """Split what the guest printed: texts by their names, for each dump's name."""
    dumps: dict[str, dict[str, str]] = {}
    into: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in raw.decode("latin-1").replace("\r\n", "\n").split("\n"):
        if not line.startswith("==> "):
            lines.append(line)
            continue
        word, _, name = line[4:].partition(" ")
        if word == "begin":
            into = {}
        elif word == "end":
            texts = {key: "\n".join([*text, ""]) for key, text in into.items() if text}
            dumps.setdefault(name, {}).update(texts)
        else:
            lines = into.setdefault(word, [])
    return dumps


def names(items: Sequence[str]) -> str:
    """Return words for the kernel's command line that the guest's script reads."""
    return 'rig_snapshots="' + " ".join(items) + '"'
