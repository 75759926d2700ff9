"""Turns a file into a memory map of its content: a compressed one through an unlinked file.

zstd, gzip, xz and lz4 frames, as coredump collectors leave them. The temporary file (TMPDIR) is
sparse where the content is zero, and its size is bounded by the free space of its file system.
What the format lets unpack apart is unpacked on several threads, what it does not on one, while
another writes; the memory that takes is bounded whatever the file says.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ..coverage import Coverage
from ..errors import DumpError
from .mapping import map_file
from .packed import DamagedError, Packing, Unit, joined, packing
from .source import Source, open_regular
from .sparse import write_sparse

_PIECE = 1 << 20
#: A unit that unpacks to more is unpacked in order, piece by piece.
_LARGE = 128 << 20
#: Bytes that may lie unpacked in memory, or be about to: units, then pieces to be written.
_UNPACKING = 256 << 20
_WRITING = 32 << 20
_MOST_THREADS = 8
#: Never fill a file system up to here: others need room too.
_MARGIN = 64 << 20
#: Zeros cost no room, but time: a stream that claims more than this, and more than 16 times what
#: is free, is a decompression bomb.
_MAX_SPARSE = 1 << 36


def open_source(path: str | os.PathLike[str], coverage: Coverage | None = None) -> Source:
    """Map a file, decompressed first where it is compressed.

    Parameters
    ----------
    path
        The file.
    coverage
        Receives ``dump.truncated`` where a compressed stream ends early or is damaged: what
        came before is used.

    Raises
    ------
    DumpError
        The file cannot be read, nothing could be decompressed, or the content does not fit on
        the disk.
    """
    name = os.fspath(path)
    descriptor = open_regular(name)
    try:
        source = Source(name, map_file(descriptor), Coverage() if coverage is None else coverage)
        format = packing(source.head)
        return source if format is None else _decompress(source, format)
    except (OSError, ValueError) as error:
        raise DumpError(f"cannot be mapped: {error}", path=name) from None
    finally:
        os.close(descriptor)


def _decompress(source: Source, format: Packing) -> Source:
    """Decompress a file into an unlinked temporary file and map that."""
    folder = tempfile.gettempdir()
    pool = ThreadPoolExecutor(_threads(), "kmemleak-unpack")
    # One: a file takes one writer at a time, and others would spin until their turn comes.
    writer = ThreadPoolExecutor(1, "kmemleak-write")
    try:
        with tempfile.TemporaryFile(prefix="kmemleak-") as out:
            output = _Output(out.fileno(), folder, source.path, writer)
            problem = ""
            failures: tuple[type[Exception], ...] = (
                *format.failures, DamagedError, EOFError, MemoryError,
            )  # fmt: skip
            try:
                for batch in _batches(source.data.data, format, pool):
                    output.write(batch)
            except failures as error:
                problem = str(error) or type(error).__name__
            written = output.finish()
            if problem and not written:
                raise DumpError(
                    f"cannot be decompressed with {format.name}: {problem}",
                    path=source.path,
                    hint="the file is damaged or cut off: copy it again",
                )
            if problem:
                source.coverage.add(
                    "dump.truncated",
                    f"the {format.name} stream is damaged or cut off ({problem}): only its first "
                    f"{written:,} bytes are read",
                )
            return Source(source.path, map_file(out.fileno()), source.coverage)
    except RuntimeError as error:  # no thread can be had
        raise DumpError(f"cannot be decompressed: {error}", path=source.path) from None
    except OSError as error:
        raise DumpError(
            f"cannot be decompressed into {folder}: {error.strerror or error}",
            path=source.path,
            hint="set TMPDIR to a folder with more room",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


def _threads() -> int:
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def _batches(data: memoryview, format: Packing, pool: ThreadPoolExecutor) -> Iterator[list[bytes]]:
    """Yield the content in order, some pieces at a time; raises where it is damaged or cut."""
    waiting: deque[tuple[Unit, int, Future[list[bytes]]]] = deque()
    unpacking = 0
    for unit in joined(format.units(data)):
        apart = unit.most is not None and unit.most <= _LARGE
        most = unit.most if apart and unit.most is not None else _UNPACKING
        while waiting and unpacking + most > _UNPACKING:
            unpacking -= waiting[0][1]
            yield from _unpacked(data, format, *waiting.popleft())
        if apart:
            waiting.append((unit, most, pool.submit(_unpack, data, format, unit)))
            unpacking += most
        else:
            yield from _pieces(data, format, unit)
    while waiting:
        yield from _unpacked(data, format, *waiting.popleft())


def _unpack(data: memoryview, format: Packing, unit: Unit) -> list[bytes]:
    pieces = []
    room = unit.most or 0
    for piece in format.unpack(data, unit):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise DamagedError("a part unpacks to more than its header tells")
    return pieces


def _unpacked(
    data: memoryview, format: Packing, unit: Unit, most: int, made: Future[list[bytes]]
) -> Iterator[list[bytes]]:
    """Wait for a unit; of a damaged one yield what comes before the damage."""
    if made.exception() is None:
        yield made.result()
    else:
        yield from _pieces(data, format, unit)
        made.result()


def _pieces(data: memoryview, format: Packing, unit: Unit) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    try:
        for piece in format.unpack(data, unit):
            batch.append(piece)
            size += len(piece)
            if size >= _PIECE:
                yield batch
                batch, size = [], 0
    except Exception:
        yield batch
        raise
    yield batch


class _Output:
    """Writes a file on another thread, leaving out blocks of zeros, and minds the free space."""

    def __init__(self, descriptor: int, folder: str, path: str, pool: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._path = path
        self._pool = pool
        self._at = 0
        self._writing = 0
        self._writes: deque[tuple[int, Future[None]]] = deque()
        self._until_check = 0
        self._limit = max(_MAX_SPARSE, 16 * self._free())

    def _free(self) -> int:
        state = os.fstatvfs(self._descriptor)
        return state.f_bavail * state.f_frsize

    def write(self, batch: list[bytes]) -> None:
        """Have some bytes written, behind those before; waits where too much is to be written."""
        size = sum(map(len, batch))
        while self._writes and self._writing + size > _WRITING:
            self._wait()
        self._until_check -= size
        if self._until_check < 0:
            self._check(size)
        self._writes.append((size, self._pool.submit(self._write, batch, self._at)))
        self._writing += size
        self._at += size
        if self._at > self._limit:
            raise DumpError(
                f"decompressed, it is larger than {self._limit:,} bytes, nearly all of them zero",
                path=self._path,
                hint="if it really is a dump, decompress it elsewhere into a sparse file",
            )

    def _write(self, batch: list[bytes], at: int) -> None:
        for piece in batch:
            write_sparse(self._descriptor, piece, at)
            at += len(piece)

    def _wait(self) -> None:
        size, done = self._writes.popleft()
        self._writing -= size
        done.result()

    def _check(self, size: int) -> None:
        free = self._free() - self._writing - size
        if free < _MARGIN:
            raise DumpError(
                f"decompressed, it does not fit into {self._folder}: {self._at:,} bytes are "
                f"written and {free:,} are free",
                path=self._path,
                hint="set TMPDIR to a folder with more room, or decompress it elsewhere",
            )
        self._until_check = min(free - _MARGIN, 64 << 20)

    def finish(self) -> int:
        """Wait until all is written; return how many bytes there are."""
        while self._writes:
            self._wait()
        os.ftruncate(self._descriptor, self._at)
        return self._at
