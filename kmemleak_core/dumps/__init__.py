"""Turns dump files into Dumps: one module a format, recognised by content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ..dump import Dump
from ..errors import UsageError
from ..plugins import registered
from .compressed import open_source
from .recognise import not_a_dump
from .source import Source

__all__ = ["DumpFormat", "Source", "formats", "open_dump"]


class DumpFormat(Protocol):
    """One file format of dumps.

    Third parties add theirs through the entry points ``kmemleak_core.dumps``: each names a
    callable without parameters that returns such an object.
    """

    name: str

    def matches(self, head: bytes) -> bool:
        """Whether a file with these first bytes (up to 4096) is of this format."""
        ...

    def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
        """Read the file; `DumpError` where it is damaged beyond use."""
        ...


def formats() -> Iterator[DumpFormat]:
    """Yield every known format: ours, then those of the entry points."""
    from .elf_core import ElfCore

    yield ElfCore()
    from .vmcore.elf import Vmcore
    from .vmcore.flattened import Flattened
    from .vmcore.kdump import Kdump

    yield from (Vmcore(), Kdump(), Flattened())
    for entry in registered("kmemleak_core.dumps"):
        yield entry.load()()


def open_dump(
    path: str | os.PathLike[str], *, sysroot: Path | None = None, format: str | None = None
) -> Dump:
    """Open a dump of any known format, compressed or not.

    Parameters
    ----------
    path
        The file.
    sysroot
        Folder under which the files that the process had mapped are found, for bytes that the
        dump lacks.
    format
        Name of the format; recognised by content if None.

    Returns
    -------
    Dump
        Its image's segments are views of the mapped file.

    Raises
    ------
    DumpError
        The file cannot be read, or is not a dump.
    UsageError
        No format has that name.
    """
    name = os.fspath(path)
    source = open_source(name)
    if format is not None:
        chosen = next((f for f in formats() if f.name == format), None)
        if chosen is None:
            names = ", ".join(f.name for f in formats())
            raise UsageError(f"no dump format is called {format!r}", hint=f"one of: {names}")
        return chosen.open(source, sysroot=sysroot)
    for candidate in formats():
        if candidate.matches(source.head):
            return candidate.open(source, sysroot=sysroot)
    raise not_a_dump(name, source.head)
