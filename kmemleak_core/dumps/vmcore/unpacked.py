"""Turns packed pages into PhysicalMemory, by way of an unlinked sparse file.

Pages stand in that file one behind another, those of zeros take no room in it. Several threads
unpack, each some pages at a time: LZO and Snappy by our own loops (2 GB/s a core, measured on a
guest's pages), zlib and zstd by the libraries that are there anyway. libkdumpfile, which drgn
brings along, reads 4 KiB at a time (0.06 to 0.17 GB/s on the same dumps and machine, where this
took 0.2 to 0.5), fails on what QEMU writes, and would be one more dependency.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ..._unpack_pages import unpack_pages
from ...errors import DumpError
from ...physical import PhysicalMemory, PhysicalRange
from ..elf_headers import Bytes
from ..mapping import map_file
from ..sparse import write_sparse
from .kdump_header import LZO, SNAPPY, ZLIB, ZSTD, Pages

#: Bytes that one thread unpacks at a time.
_BATCH = 4 << 20
_MOST_THREADS = 8
#: Never fill a file system up to here.
_MARGIN = 64 << 20
_METHODS = ZLIB | LZO | SNAPPY | ZSTD

_Good = NDArray[np.uint8]


def unpack(data: Bytes, pages: Pages, page_size: int, path: str) -> tuple[PhysicalMemory, int]:
    """Unpack all pages.

    Parameters
    ----------
    data
        The file.
    pages
        What it holds.
    page_size
        Bytes.
    path
        The file, for error messages.

    Returns
    -------
    physical : PhysicalMemory
        A range for each run of page frames.
    damaged : int
        Pages that could not be unpacked: they are left out.

    Raises
    ------
    DumpError
        They do not fit into TMPDIR.
    """
    zero = _zero_pages(data, pages, page_size)
    wanted = np.flatnonzero(~zero)
    good = np.ones(pages.frame.size, np.uint8)
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(prefix="kmemleak-") as out:
            descriptor = out.fileno()
            state = os.fstatvfs(descriptor)
            free = state.f_bavail * state.f_frsize - _MARGIN
            if wanted.size * page_size > free:
                raise DumpError(
                    f"unpacked, it does not fit into {folder}: {wanted.size * page_size:,} bytes, "
                    f"and {max(0, free):,} are free",
                    path=path,
                    hint="set TMPDIR to a folder with more room",
                )
            os.ftruncate(descriptor, pages.frame.size * page_size)

            def work(rows: NDArray[np.int64]) -> None:
                made, whole = _unpack(data, pages, rows, page_size)
                good[rows] = whole
                # Rows without a gap are written as one piece.
                for run in np.split(np.arange(rows.size), np.flatnonzero(np.diff(rows) != 1) + 1):
                    first, last = int(run[0]), int(run[-1]) + 1
                    write_sparse(
                        descriptor, made[first:last].data.cast("B"), int(rows[first]) * page_size
                    )

            step = max(1, _BATCH // page_size)
            batches = [wanted[i : i + step] for i in range(0, wanted.size, step)]
            _in_parallel(work, batches)
            memory = map_file(descriptor)
    except OSError as error:
        raise DumpError(
            f"cannot be unpacked into {folder}: {error.strerror or error}",
            path=path,
            hint="set TMPDIR to a folder with more room",
        ) from None
    kept = np.flatnonzero(good)
    frame = pages.frame[kept]
    breaks = np.flatnonzero((np.diff(frame) != 1) | (np.diff(kept) != 1)) + 1
    begins = np.concatenate(([0], breaks)).astype(np.int64) if kept.size else breaks
    ends = np.append(breaks, kept.size) if kept.size else breaks
    ranges = [
        PhysicalRange(at * page_size, memory[first * page_size : (first + count) * page_size])
        for at, first, count in zip(
            frame[begins].tolist(), kept[begins].tolist(), (ends - begins).tolist(), strict=True
        )
    ]
    return PhysicalMemory(ranges), int(good.size - kept.size)


def _zero_pages(data: Bytes, pages: Pages, page_size: int) -> NDArray[np.bool_]:
    """Say which pages share the one page of zeros that makedumpfile writes for them all."""
    none = np.zeros(pages.frame.size, bool)
    offsets, count = np.unique(pages.offset, return_counts=True)
    if not offsets.size or count.max() < 2:
        return none
    shared = pages.offset == offsets[count.argmax()]
    shared &= (pages.size == pages.size[shared][0]) & (pages.flags == pages.flags[shared][0])
    made, whole = _unpack(data, pages, np.flatnonzero(shared)[:1], page_size)
    return shared if whole[0] and not made.any() else none


def _unpack(
    data: Bytes, pages: Pages, rows: NDArray[np.int64], page_size: int
) -> tuple[NDArray[np.uint8], _Good]:
    made = np.zeros((rows.size, page_size), np.uint8)
    good = np.zeros(rows.size, np.uint8)
    method = pages.flags[rows] & np.uint32(_METHODS)
    for kind in np.unique(method).tolist():
        chosen = np.flatnonzero(method == kind)
        offset, size = pages.offset[rows[chosen]], pages.size[rows[chosen]]
        if kind in (0, LZO, SNAPPY):
            pieces = made if chosen.size == rows.size else made[chosen]
            whole = np.zeros(chosen.size, np.uint8)
            unpack_pages(data, offset, size, kind, pieces, whole)
            if pieces is not made:
                made[chosen] = pieces
            good[chosen] = whole
        elif kind in (ZLIB, ZSTD):
            one = _zlib(page_size) if kind == ZLIB else _zstd(page_size)
            for i, at, length in zip(chosen.tolist(), offset.tolist(), size.tolist(), strict=True):
                page = one(data[at : at + length]) if length <= page_size else None
                if page is not None and len(page) == page_size:
                    made[i] = np.frombuffer(page, np.uint8)
                    good[i] = 1
    made[good == 0] = 0
    return made, good


def _zlib(page_size: int) -> Callable[[Bytes], bytes | None]:
    def one(packed: Bytes) -> bytes | None:
        try:
            return zlib.decompressobj().decompress(packed.data, page_size + 1)
        except zlib.error:
            return None

    return one


def _zstd(page_size: int) -> Callable[[Bytes], bytes | None]:
    import zstandard

    context = zstandard.ZstdDecompressor()

    def one(packed: Bytes) -> bytes | None:
        try:
            if zstandard.frame_content_size(packed.data) > page_size:
                return None
            page: bytes = context.decompress(packed.data, max_output_size=page_size)
        except zstandard.ZstdError:
            return None
        return page

    return one


def _in_parallel(
    work: Callable[[NDArray[np.int64]], None], batches: list[NDArray[np.int64]]
) -> None:
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)), len(batches))
    if threads <= 1:
        for batch in batches:
            work(batch)
        return
    with ThreadPoolExecutor(threads, "kmemleak-unpack") as pool:
        for _ in pool.map(work, batches):
            pass
