"""Turns a kernel's own file (vmlinux) into its build-id and its types."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DumpError
from ..image import ByteOrder
from .aggregates import AggregateTypes

#: More bytes than notes, and than BTF have.
_MOST_NOTES = 1 << 20
_MOST_BTF = 1 << 28

#: ``NT_GNU_BUILD_ID``.
_BUILD_ID = 3


def read_vmlinux(path: str | Path) -> tuple[AggregateTypes, str]:
    """Read a kernel's types out of its file.

    Parameters
    ----------
    path
        A vmlinux with a BTF section, or with DWARF (then drgn is needed), or BTF alone, as
        ``/sys/kernel/btf/vmlinux`` is.

    Returns
    -------
    types : AggregateTypes
        Its types.
    build_id : str
        In hexadecimal; empty where the file does not tell.

    Raises
    ------
    DumpError
        It is no such file, or is damaged.
    """
    from .btf import BtfTypes

    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:2] in (b"\x9f\xeb", b"\xeb\x9f"):
            order: ByteOrder = "little" if magic[:1] == b"\x9f" else "big"
            data = np.frombuffer(magic + file.read(_MOST_BTF), np.uint8)
            return BtfTypes(data, origin=f"BTF of {path}", byteorder=order), ""
    if magic != b"\x7fELF":
        raise DumpError(
            "is neither an ELF file nor BTF",
            path=str(path),
            hint="give the vmlinux with debugging symbols; a vmlinuz, or bzImage, is packed and "
            "has none",
        )
    btf, order, word_size, build_id = _sections(path)
    if btf:
        data = np.frombuffer(btf, np.uint8)
        types = BtfTypes(data, origin=f"BTF of {path}", byteorder=order, word_size=word_size)
        return types, build_id
    from .dwarf import DwarfTypes

    return DwarfTypes(path), build_id


def _sections(path: str | Path) -> tuple[bytes, ByteOrder, int, str]:
    """Return an ELF file's BTF, empty if it has none, byte order, word size, and build-id."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    btf, build_id = b"", ""
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            order: ByteOrder = "little" if elf.little_endian else "big"
            for section in elf.iter_sections():
                # A file of debugging symbols alone has other sections in name only.
                if section["sh_type"] == "SHT_NOBITS":
                    continue
                if section.name == ".BTF" and section["sh_size"] <= _MOST_BTF:
                    btf = bytes(section.data())
                elif section["sh_type"] == "SHT_NOTE" and section["sh_size"] <= _MOST_NOTES:
                    build_id = build_id or find_build_id(bytes(section.data()), order)
            return btf, order, elf.elfclass // 8, build_id
    except (ELFError, ConstructError, ValueError, OverflowError, UnicodeDecodeError) as error:
        raise DumpError(f"cannot be read as ELF: {error}", path=str(path)) from error


def find_build_id(notes: bytes, byteorder: ByteOrder) -> str:
    """Return the build-id among ELF notes, in hexadecimal; empty where there is none."""
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = (
            int.from_bytes(notes[at + i : at + i + 4], byteorder) for i in (0, 4, 8)
        )
        begin = at + 12 + (name + 3 & ~3)
        if kind == _BUILD_ID and notes[at + 12 : at + 12 + name] == b"GNU\0":
            found = notes[begin : begin + size]
            return found.hex() if len(found) == size else ""
        at = begin + (size + 3 & ~3)
    return ""
