"""Turns a compressed file into a memory map of its content, through an unlinked temporary file.

zstd, gzip, xz and lz4 frames, as coredump collectors leave them. The temporary file is sparse
where the content is zero and its size is bounded by the free space of its file system.
"""

from __future__ import annotations

import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from ..coverage import Coverage
from ..errors import DumpError
from .source import Source, map_file
from .sparse import BLOCK, write_sparse

#: First bytes → name.
_MAGIC = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)  # a frame that zstd and lz4 pass over
_PIECE = 1 << 20
#: Never fill a file system up to here: others need room too.
_MARGIN = 64 << 20
#: Zeros cost no room, but time: a stream that claims more than this, and more than 16 times what
#: is free, is a decompression bomb.
_MAX_SPARSE = 1 << 36


def compression(head: bytes) -> str:
    """Name the compression of a file that begins like this; empty if it is none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) > 8 and int.from_bytes(head[:4], "little") in _SKIPPABLE:
        return "zstd"
    return ""


def decompress(descriptor: int, path: str, kind: str, coverage: Coverage) -> Source:
    """Decompress a file into an unlinked temporary file and map that.

    Parameters
    ----------
    descriptor
        The compressed file, open for reading; it stays open.
    path
        As the user named it.
    kind
        What `compression` returned.
    coverage
        Receives ``dump.truncated`` where the compressed stream ends early or is damaged: what
        came before is used.

    Raises
    ------
    DumpError
        Nothing could be decompressed, or the content does not fit on the disk.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    folder = tempfile.gettempdir()
    try:
        with (
            tempfile.TemporaryFile(prefix="kmemleak-") as out,
            os.fdopen(os.dup(descriptor), "rb") as packed,
        ):
            writer = _SparseWriter(out.fileno(), folder, path)
            problem = _pump(_pieces(packed, kind), writer)
            written = writer.finish()
            if problem and not written:
                raise DumpError(
                    f"cannot be decompressed with {kind}: {problem}",
                    path=path,
                    hint="the file is damaged or cut off: copy it again",
                )
            if problem:
                coverage.add(
                    "dump.truncated",
                    f"the {kind} stream is damaged or cut off ({problem}): only its first "
                    f"{written:,} bytes are read",
                )
            return Source(path, map_file(out.fileno()), coverage)
    except OSError as error:
        raise DumpError(
            f"cannot be decompressed into {folder}: {error.strerror or error}",
            path=path,
            hint="set TMPDIR to a folder with more room",
        ) from None


def _pieces(packed: IO[bytes], kind: str) -> Iterator[bytes]:
    """Yield the content in pieces of bounded size; raises where the stream is damaged or cut."""
    if kind == "zstd":
        yield from _zstd_pieces(packed)
        return
    stream: Any
    if kind == "gzip":
        stream = gzip.GzipFile(fileobj=packed)
    elif kind == "xz":
        stream = lzma.LZMAFile(packed)  # noqa: SIM115
    else:
        import lz4.frame

        stream = lz4.frame.LZ4FrameFile(packed)
    # Unlike read(), read1() hands out what there was before a damaged place.
    while piece := stream.read1(_PIECE):
        yield piece


def _zstd_pieces(packed: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    # The largest window that the format's tools use (zstd --long=31).
    context = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame: Any = None
    # Small pieces bound the memory: four bytes can stand for 128 KiB.
    while raw := packed.read(BLOCK):
        while raw:
            if frame is None:
                frame = context.decompressobj()
            yield frame.decompress(raw)
            raw = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("the last frame is incomplete")


def _failures() -> tuple[type[Exception], ...]:
    import zstandard

    # lz4 raises RuntimeError for a damaged frame.
    return (zstandard.ZstdError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError,
            RuntimeError, MemoryError)  # fmt: skip


def _pump(pieces: Iterator[bytes], writer: _SparseWriter) -> str:
    """Copy all; return what went wrong with the stream, empty if nothing did."""
    try:
        for piece in pieces:
            writer.write(piece)
    except _failures() as error:
        return str(error) or type(error).__name__
    return ""


class _SparseWriter:
    """Writes a file, leaving out blocks of zeros, and minds the free space."""

    def __init__(self, descriptor: int, folder: str, path: str) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._path = path
        self._at = 0
        self._until_check = 0
        self._limit = max(_MAX_SPARSE, 16 * self._free())

    def _free(self) -> int:
        state = os.fstatvfs(self._descriptor)
        return state.f_bavail * state.f_frsize

    def write(self, piece: bytes) -> None:
        self._until_check -= len(piece)
        if self._until_check < 0:
            self._check()
        write_sparse(self._descriptor, piece, self._at)
        self._at += len(piece)
        if self._at > self._limit:
            raise DumpError(
                f"decompressed, it is larger than {self._limit:,} bytes, nearly all of them zero",
                path=self._path,
                hint="if it really is a dump, decompress it elsewhere into a sparse file",
            )

    def _check(self) -> None:
        free = self._free()
        if free < _MARGIN + 2 * _PIECE:
            raise DumpError(
                f"decompressed, it does not fit into {self._folder}: {self._at:,} bytes are "
                f"written and {free:,} are free",
                path=self._path,
                hint="set TMPDIR to a folder with more room, or decompress it elsewhere",
            )
        self._until_check = min(free - _MARGIN, 64 << 20) - 2 * _PIECE

    def finish(self) -> int:
        os.ftruncate(self._descriptor, self._at)
        return self._at
