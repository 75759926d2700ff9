"""Turns a flattened dump (``makedumpfile -F``, QEMU's kdump formats) into the file it stands for.

The format is made for pipes: a header of 4096 bytes, then pieces of the file in the order in
which they were written, each with its offset and size before it, all in big-endian order
(makedumpfile's ``makedumpfile.h``: ``makedumpfile_header``, ``makedumpfile_data_header``).
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

from ...dump import Dump
from ...errors import DumpError
from ..mapping import map_file
from ..source import Source
from ..sparse import write_all

MAGIC = b"makedumpfile\0\0\0\0"
_HEADER_SIZE = 4096
_PIECE = struct.Struct(">qq")
_END = -1
#: The file may be longer than its pieces by holes, but not by more than this.
_MOST_HOLES = 1 << 32
_MARGIN = 64 << 20


class Flattened:
    """Flattened dumps: put together into an unlinked file, then read as what that is."""

    name = "flattened"

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins like this is flattened."""
        return head.startswith(MAGIC)

    def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
        """Put the file together and read it.

        Raises
        ------
        DumpError
            It is no flattened dump, cut off before anything usable, or does not fit into TMPDIR.
        """
        if not self.matches(source.head):
            raise DumpError("is no flattened dump", path=source.path)
        whole = rearrange(source)
        from .. import formats
        from ..recognise import not_a_dump

        for candidate in formats():
            if candidate.name != self.name and candidate.matches(whole.head):
                return candidate.open(whole, sysroot=sysroot)
        raise not_a_dump(source.path, whole.head)


def rearrange(source: Source) -> Source:
    """Write each piece where it belongs, into an unlinked temporary file."""
    data, path = source.data, source.path
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(prefix="kmemleak-") as out:
            state = os.fstatvfs(out.fileno())
            if data.size > state.f_bavail * state.f_frsize - _MARGIN:
                raise OSError(f"{data.size:,} bytes do not fit")
            at = _HEADER_SIZE
            memory = data.data
            limit = data.size + _MOST_HOLES
            while True:
                head = memory[at : at + _PIECE.size]
                if len(head) < _PIECE.size:
                    problem = "it is cut off"
                    break
                offset, size = _PIECE.unpack(head)
                at += _PIECE.size
                if offset == _END and size == _END:
                    problem = ""
                    break
                if offset < 0 or size <= 0 or offset + size > limit:
                    problem = f"the piece at file offset {at - _PIECE.size:#x} is damaged"
                    break
                write_all(out.fileno(), memory[at : at + size], offset)
                at += size
            if problem:
                source.coverage.add(
                    "dump.truncated",
                    f"of the flattened dump, what comes after {min(at, data.size):,} bytes is not "
                    f"read: {problem}",
                )
            return Source(path, map_file(out.fileno()), source.coverage)
    except OSError as error:
        raise DumpError(
            f"cannot be put together in {folder}: {error.strerror or error}",
            path=path,
            hint="set TMPDIR to a folder with more room",
        ) from None
