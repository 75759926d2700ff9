"""Turns program headers and mapped files into the segments and holes of an image.

Everything is cut at every boundary (of a PT_LOAD, of what the file holds of it, of a mapped
file), each piece gets one mapping, and neighbours that belong together are joined again. All of
it on columns: a core may have hundreds of thousands of segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..dump import MappedFile
from ..image import Hole, MappingKind, Segment
from .elf_headers import PT_LOAD, Bytes, ProgramHeaders

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_PERMISSIONS = tuple(
    ("r" if f & 4 else "-") + ("w" if f & 2 else "-") + ("x" if f & 1 else "-") for f in range(8)
)
_READ_ONLY = 4
#: Why bytes are missing, by code.
_REASONS = ("not-dumped", "truncated")
_VSYSCALL = 0xFFFFFFFFFF600000

_AT_PLATFORM, _AT_RANDOM, _AT_EXECFN, _AT_SYSINFO_EHDR = 15, 25, 31, 33


@dataclass(slots=True)
class _Ranges:
    """Ranges sorted by address, without overlaps; ``(n,)`` each."""

    start: U64
    end: U64
    flags: NDArray[np.uint32]
    extra: U64  # offset in the dump, or code of the reason
    lost: int = 0  # bytes that overlapped an earlier range

    def at(self, addresses: U64) -> I64:
        """Row that holds each address, -1 where none does."""
        if not self.start.size:
            return np.full(addresses.size, -1, dtype=np.int64)
        row = np.searchsorted(self.start, addresses, side="right").astype(np.int64) - 1
        inside = (row >= 0) & (addresses < self.end[np.maximum(row, 0)])
        return np.where(inside, row, -1)


def build_layout(
    data: Bytes,
    headers: ProgramHeaders,
    word_size: int,
    files: list[MappedFile],
    auxv: dict[int, int],
    stack_pointer: int,
    coverage: Coverage,
) -> tuple[list[Segment], list[Hole]]:
    """Lay out the image of a core.

    Parameters
    ----------
    data
        The file, ``uint8``; segments are views of it.
    headers
        All program headers.
    word_size
        4 or 8.
    files
        Mapped files (``NT_FILE``), sorted by address; empty if the dump does not tell.
    auxv
        The auxiliary vector.
    stack_pointer
        Of the main thread, 0 if unknown.
    coverage
        Receives ``dump.header``, ``dump.overlap`` and ``dump.truncated``.
    """
    present, missing = _loads(data.size, headers, word_size, coverage)
    mapped = _sorted_ranges(
        np.array([f.address for f in files], dtype=np.uint64),
        np.array([_clip(f.end, word_size) for f in files], dtype=np.uint64),
        np.full(len(files), _READ_ONLY, dtype=np.uint32),
        np.arange(len(files), dtype=np.uint64),
    )
    points: U64 = np.unique(
        np.concatenate([part for r in (present, missing, mapped) for part in (r.start, r.end)])
    )
    low, high = points[:-1], points[1:]
    in_present, in_missing, in_mapped = present.at(low), missing.at(low), mapped.at(low)

    special = _SpecialMappings(present, missing, auxv, stack_pointer)
    file_row = mapped.extra[in_mapped] if len(files) else np.zeros(low.size, dtype=np.uint64)
    label = np.where(
        in_mapped >= 0, file_row.astype(np.int64), special.labels(in_present, in_missing)
    )
    describe = _Describer(files, special.names)

    segments = []
    chosen = in_present >= 0
    row = in_present[chosen]
    if row.size:
        offset: U64 = present.extra[row] + (low[chosen] - present.start[row])
        flags = present.flags[row]
        for start, end, flag, at, key in _joined(
            low[chosen], high[chosen], flags, offset, label[chosen], describe, contiguous=True
        ):
            segments.append(
                Segment(start, data[at : at + end - start], _PERMISSIONS[flag & 7],
                        *describe(key, start))
            )  # fmt: skip

    holes = []
    chosen = (in_present < 0) & ((in_missing >= 0) | (in_mapped >= 0))
    row = in_missing[chosen]
    if row.size:
        # Where gdb leaves a mapping out altogether, only the list of mapped files tells of it.
        known = row >= 0
        reason: U64 = np.zeros(row.size, dtype=np.uint64)
        flags = np.full(row.size, _READ_ONLY, dtype=np.uint32)
        reason[known] = missing.extra[row[known]]
        flags[known] = missing.flags[row[known]]
        for start, end, flag, why, key in _joined(
            low[chosen], high[chosen], flags, reason, label[chosen], describe, contiguous=False
        ):
            holes.append(
                Hole(start, end - start, _REASONS[why], _PERMISSIONS[flag & 7],
                     *describe(key, start))
            )  # fmt: skip
    return segments, holes


def _loads(
    file_size: int, headers: ProgramHeaders, word_size: int, coverage: Coverage
) -> tuple[_Ranges, _Ranges]:
    loads = headers.select((headers.type == PT_LOAD) & (headers.memsz > 0))
    # An end always fits: the last byte of a 64-bit address space is nobody's.
    room = np.uint64(_clip(1 << 64, word_size)) - np.minimum(
        loads.address, np.uint64(_clip(1 << 64, word_size))
    )
    memsz = np.minimum(loads.memsz, room)
    filesz = np.minimum(loads.filesz, memsz)
    odd = (memsz < loads.memsz) | (filesz < loads.filesz)
    if odd.any():
        first = int(np.flatnonzero(odd)[0])
        coverage.add(
            "dump.header",
            f"{int(odd.sum())} segments have sizes that cannot be and were clipped, the first at "
            f"{int(loads.address[first]):#x}",
            count=int(odd.sum()),
            address=int(loads.address[first]),
        )
    begins = np.minimum(loads.offset, np.uint64(file_size))
    held = np.minimum(filesz, np.uint64(file_size) - begins)

    start = loads.address
    present = _sorted_ranges(start, start + held, loads.flags, loads.offset, is_offset=True)
    cut = filesz > held
    if cut.any():
        nbytes = sum((filesz[cut] - held[cut]).tolist())
        coverage.add(
            "dump.truncated",
            f"the file is cut off: {nbytes:,} bytes of memory that it announces are not in it",
            count=int(cut.sum()),
            nbytes=nbytes,
            address=int((start[cut] + held[cut]).min()),
        )
    missing = _sorted_ranges(
        np.concatenate([start + held, start + filesz]),
        np.concatenate([start + filesz, start + memsz]),
        np.concatenate([loads.flags, loads.flags]),
        np.repeat(np.array([1, 0], dtype=np.uint64), len(loads)),
    )
    lost = present.lost + missing.lost
    if lost:
        coverage.add(
            "dump.overlap",
            f"segments overlap: {lost:,} bytes are described more than once; the segment that "
            "starts first was kept",
            nbytes=lost,
        )
    return present, missing


def _clip(address: int, word_size: int) -> int:
    return min(address, (1 << 64) - 1 if word_size == 8 else 1 << 32)


def _sorted_ranges(
    start: U64, end: U64, flags: NDArray[np.uint32], extra: U64, *, is_offset: bool = False
) -> _Ranges:
    """Sort ranges and clip what overlaps an earlier one; `extra` moves along if it is an offset."""
    chosen = end > start
    start, end, flags, extra = start[chosen], end[chosen], flags[chosen], extra[chosen]
    order = np.argsort(start, kind="stable")
    start, end, flags, extra = start[order], end[order], flags[order], extra[order]
    lost = 0
    if start.size > 1 and bool(np.any(end[:-1] > start[1:])):
        reach = np.concatenate((start[:1], np.maximum.accumulate(end)[:-1]))
        begin = np.maximum(start, reach)
        lost = sum((np.minimum(begin, end) - start).tolist())
        if is_offset:
            extra = extra + (begin - start)
        chosen = begin < end
        start, end, flags, extra = begin[chosen], end[chosen], flags[chosen], extra[chosen]
    return _Ranges(start, end, flags, extra, lost)


class _SpecialMappings:
    """Names for mappings that are no file's: the stack and the kernel's own pages."""

    def __init__(
        self, present: _Ranges, missing: _Ranges, auxv: dict[int, int], stack_pointer: int
    ) -> None:
        self.names: list[tuple[MappingKind, str]] = []
        self._present = np.full(present.start.size + 1, -1, dtype=np.int64)
        self._missing = np.full(missing.start.size + 1, -1, dtype=np.int64)
        # The auxiliary vector first: a coroutine's stack pointer may be anywhere.
        for address in (
            auxv.get(_AT_RANDOM, 0),
            auxv.get(_AT_EXECFN, 0),
            auxv.get(_AT_PLATFORM, 0),
            stack_pointer,
        ):
            if address and self._mark(present, self._present, address, "anonymous", "[stack]"):
                break
        self._mark(present, self._present, _VSYSCALL, "special", "[vsyscall]")
        vdso = auxv.get(_AT_SYSINFO_EHDR, 0)
        if not vdso:
            return
        if not self._mark(present, self._present, vdso, "special", "[vdso]"):
            self._mark(missing, self._missing, vdso, "special", "[vdso]")
        # The kernel's data pages for the vdso lie directly below it; some kernels dump them.
        below = np.array([vdso - 1 & (1 << 64) - 1], dtype=np.uint64)
        for ranges, labels in ((present, self._present), (missing, self._missing)):
            row = int(ranges.at(below)[0])
            while row >= 0 and int(ranges.flags[row]) & 7 == _READ_ONLY:
                self._mark(ranges, labels, int(ranges.start[row]), "special", "[vvar]")
                row = row - 1 if row and ranges.end[row - 1] == ranges.start[row] else -1

    def _mark(
        self, ranges: _Ranges, labels: I64, address: int, kind: MappingKind, name: str
    ) -> bool:
        row = int(ranges.at(np.array([address & (1 << 64) - 1], dtype=np.uint64))[0])
        if row < 0:
            return False
        self.names.append((kind, name))
        labels[row] = -1 - len(self.names)
        return True

    def labels(self, in_present: I64, in_missing: I64) -> I64:
        """Return a label for each piece: -1 is nameless, -2 and below index `names`."""
        # Row -1 reads the last entry, which is always -1.
        return np.where(in_present >= 0, self._present[in_present], self._missing[in_missing])


class _Describer:
    """Turns a label into a mapping's kind, name and file offset."""

    def __init__(self, files: list[MappedFile], names: list[tuple[MappingKind, str]]) -> None:
        self.files = files
        self.names = names
        self.nameless: MappingKind = "anonymous" if files else "unknown"
        paths: dict[str, int] = {}
        self._path = np.array([paths.setdefault(f.path, len(paths)) for f in files], dtype=np.int64)
        # Equal for two entries exactly if the file continues from one to the other.
        self._shift = np.array(
            [f.address - f.file_offset & (1 << 64) - 1 for f in files], dtype=np.uint64
        )

    def __call__(self, label: int, address: int) -> tuple[MappingKind, str, int]:
        if label >= 0:
            file = self.files[label]
            return "file", file.path, file.file_offset + (address - file.address)
        if label == -1:
            return self.nameless, "", 0
        return *self.names[-2 - label], 0

    def same(self, before: I64, after: I64) -> NDArray[np.bool_]:
        """Whether pieces belong to the same mapping."""
        equal: NDArray[np.bool_] = before == after
        if self.files:
            both = (before >= 0) & (after >= 0)
            a, b = np.where(both, before, 0), np.where(both, after, 0)
            equal |= both & (self._path[a] == self._path[b]) & (self._shift[a] == self._shift[b])
        return equal


def _joined(
    low: U64,
    high: U64,
    flags: NDArray[np.uint32],
    extra: U64,
    label: I64,
    describe: _Describer,
    *,
    contiguous: bool,
) -> list[tuple[int, int, int, int, int]]:
    """Join neighbours that belong together: start, end, flags, extra, label of each."""
    follows = extra[:-1] + (high[:-1] - low[:-1]) if contiguous else extra[:-1]
    join = (
        (high[:-1] == low[1:])
        & (flags[:-1] == flags[1:])
        & (follows == extra[1:])
        & describe.same(label[:-1], label[1:])
    )
    begins = np.flatnonzero(np.concatenate(([True], ~join)))
    limits = np.append(begins[1:], low.size) - 1
    return list(
        zip(
            low[begins].tolist(),
            high[limits].tolist(),
            flags[begins].tolist(),
            extra[begins].tolist(),
            label[begins].tolist(),
            strict=True,
        )
    )
