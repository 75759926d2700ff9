"""Turns a dump into the build-id of its kernel, which a file of another kernel does not have."""

from __future__ import annotations

from ..coverage import Coverage
from ..dump import Dump, Machine
from ..errors import DumpError, FaultError
from ..symbols import SymbolTable

#: More bytes than a kernel's notes have.
_MOST_NOTES = 1 << 16


def dump_build_id(dump: Dump, machine: Machine, symbols: SymbolTable) -> str:
    """Return the build-id of a dump's kernel, in hexadecimal; empty where the dump has none.

    VMCOREINFO tells it since Linux 5.9; before, the kernel's own notes in memory do.
    """
    from ..symbols.vmlinux import find_build_id

    told = machine.info.get("BUILD-ID", "")
    if told:
        return told.lower()
    start, stop = symbols.address("__start_notes"), symbols.address("__stop_notes")
    if start is None or stop is None or not 0 < stop - start <= _MOST_NOTES:
        return ""
    try:
        return find_build_id(dump.image.read(start, stop - start), dump.image.byteorder)
    except FaultError:
        return ""


def check_build_id(dump_id: str, file_id: str, path: str, coverage: Coverage) -> None:
    """Make sure that a file describes the kernel of a dump.

    Raises
    ------
    DumpError
        It describes another one.
    """
    if not dump_id or not file_id:
        whose = "the dump" if file_id else path
        coverage.add(
            "kernel.build-id",
            f"whether {path} is of the dump's kernel is not known: {whose} has no build-id",
        )
    elif dump_id != file_id.lower():
        raise DumpError(
            f"is of another kernel than the dump: its build-id is {file_id}, the dump's kernel "
            f"has {dump_id}",
            path=path,
            hint="give the vmlinux of exactly the kernel that was running",
        )
