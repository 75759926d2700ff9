"""Turns a dump into whose memory it was: which program, which start of it, mapped where."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..dump import Dump
from ..errors import FaultError

if TYPE_CHECKING:
    from ..symbols import SymbolTable

_AT_PHDR, _AT_ENTRY, _AT_RANDOM = 3, 9, 25
#: Bytes of an executable's beginning that are looked at for its build-id.
_HEAD = 1 << 16
#: Where a kernel of x86-64 keeps what it chose by chance when it booted.
_BASES = ("page_offset_base", "vmalloc_base", "vmemmap_base")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose memory it was; every text is empty where nothing tells.

    Parameters
    ----------
    path
        The file, as the user named it.
    what
        ``"dump"``, or ``"report"``: a report of the leaks in one.
    format, architecture, word_size
        As of a dump.
    process
        ``"name"``, ``"pid"``, … as far as the dump tells.
    program
        The executable's path, or a kernel's release.
    build_id
        The program's, hexadecimal.
    start
        A digest of what is random in every start of a program, or in every boot.
    layout
        A digest of where the program and its libraries are mapped.
    kernel
        Whether it is of a kernel.
    """

    path: str = ""
    what: Literal["dump", "report"] = "dump"
    format: str = ""
    architecture: str = ""
    word_size: int = 0
    process: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    build_id: str = ""
    start: str = ""
    layout: str = ""
    kernel: bool = False


def identify(dump: Dump, symbols: SymbolTable | None = None) -> Identity:
    """Tell whose memory a dump is.

    Parameters
    ----------
    dump
        Of a process or a machine.
    symbols
        The kernel's, of a machine's.
    """
    usual: dict[str, Any] = {
        "path": dump.path,
        "format": dump.format,
        "architecture": dump.architecture,
        "word_size": dump.image.word_size,
        "process": dict(dump.process),
    }
    if dump.machine is not None:
        info = dict(dump.machine.info)
        info.pop("CRASHTIME", None)
        bases = _bases(dump, symbols)
        # Without any chance in it, a layout is the same in every boot.
        by_chance = bases or (info if info.get("KERNELOFFSET", "0").strip("0") else "")
        return Identity(
            **usual,
            program=f"Linux {info.get('OSRELEASE', '')}".strip(),
            build_id=info.get("BUILD-ID", "").lower(),
            start=_digest((sorted(info.items()), bases)) if by_chance else "",
            layout=_digest(sorted(info.items())),
            kernel=True,
        )
    from ..dumps.elf_sysroot import build_id

    entry = dump.auxv.get(_AT_PHDR) or dump.auxv.get(_AT_ENTRY) or 0
    program = next((f.path for f in dump.files if f.address <= entry < f.end), "")
    first = next((f for f in dump.files if f.path == program and not f.file_offset), None)
    head = _read(dump, first.address, min(first.size, _HEAD)) if first is not None else b""
    chosen = _read(dump, dump.auxv.get(_AT_RANDOM, 0), 16)
    return Identity(
        **usual,
        program=program,
        build_id=build_id(np.frombuffer(head, np.uint8)).hex(),
        # They seed the process's stack protector: nobody is told the bytes themselves.
        start=_digest(chosen) if len(chosen) == 16 else "",
        layout=_digest([(f.address, f.path) for f in dump.files if not f.file_offset])
        if dump.files
        else "",
    )


def _bases(dump: Dump, symbols: SymbolTable | None) -> list[str]:
    found = []
    for name in _BASES:
        address = None if symbols is None else symbols.address(name)
        found.append("" if address is None else _read(dump, address, 8).hex())
    return found if any(found) else []


def _read(dump: Dump, address: int, size: int) -> bytes:
    try:
        return dump.image.upto(address, size).tobytes() if address else b""
    except FaultError:
        return b""


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
