"""Turns buffers at addresses into a MemoryImage: sorted segments, holes, typed words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView
from .errors import FaultError, OverlapError
from .shared_property import shared_property

ByteOrder = Literal["little", "big"]

#: What a mapping is: a mapped file, anonymous memory, the kernel's own mappings ([vdso], …),
#: or nothing that the dump tells.
MappingKind = Literal["file", "anonymous", "special", "unknown"]

#: How the names of files begin that are memory themselves: what they hold was written by programs.
MEMORY_FILES = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/anon_hugepage")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Bytes of the image that are present, at an address.

    Parameters
    ----------
    address
        Address of the first byte.
    data
        The bytes, ``uint8``, one-dimensional, C-contiguous; normally a view of an ``mmap``.
    permissions
        As ``/proc/PID/maps`` writes them: ``"rw-"``.
    kind
        What the mapping is.
    name
        The mapped file's path, or a name such as ``"[stack]"``; empty if unknown.
    file_offset
        Offset of the first byte in the mapped file (0 if there is none).
    """

    address: int
    data: NDArray[np.uint8]
    permissions: str = "rw-"
    kind: MappingKind = "unknown"
    name: str = ""
    file_offset: int = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return int(self.data.size)

    @property
    def end(self) -> int:
        """Address of the first byte after the segment."""
        return self.address + int(self.data.size)

    @property
    def writable(self) -> bool:
        """Whether the program could write to it."""
        return "w" in self.permissions

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Segment {self.address:#x}-{self.end:#x} {self.permissions} {self.kind}{name}>"


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes that the process had mapped and the dump does not hold.

    Parameters
    ----------
    address, size
        The range, in bytes.
    reason
        ``"not-dumped"``, ``"truncated"``, … : why it is missing.
    permissions, kind, name, file_offset
        As in `Segment`.
    """

    address: int
    size: int
    reason: str
    permissions: str = "r--"
    kind: MappingKind = "unknown"
    name: str = ""
    file_offset: int = 0

    @property
    def end(self) -> int:
        """Address of the first byte after the hole."""
        return self.address + self.size


class MemoryImage:
    """A program's memory: sorted, non-overlapping segments and the holes between them.

    Nothing is copied: segments are views on whatever buffer they came from, and reads that
    lie inside one segment are views too.

    Parameters
    ----------
    segments
        In any order. Empty segments are dropped.
    word_size
        Bytes in a pointer: 4 or 8.
    byteorder
        ``"little"`` or ``"big"``.
    holes
        What is known to be missing.

    Raises
    ------
    OverlapError
        Two segments claim the same address.
    ValueError
        A word size or byte order that does not exist, or a segment beyond the address space.
    """

    def __init__(
        self,
        segments: Iterable[Segment],
        *,
        word_size: int = 8,
        byteorder: ByteOrder = "little",
        holes: Iterable[Hole] = (),
    ) -> None:
        if word_size not in (4, 8):
            raise ValueError(f"word_size is 4 or 8, not {word_size!r}")
        if byteorder not in ("little", "big"):
            raise ValueError(f"byteorder is 'little' or 'big', not {byteorder!r}")
        self.word_size = word_size
        self.byteorder: ByteOrder = byteorder
        self.segments: tuple[Segment, ...] = tuple(
            sorted((s for s in segments if s.data.size), key=lambda s: s.address)
        )
        self.holes: tuple[Hole, ...] = tuple(sorted(holes, key=lambda h: h.address))
        for before, after in zip(self.segments, self.segments[1:], strict=False):
            if before.end > after.address:
                raise OverlapError(
                    (before.address, before.size), (after.address, after.size), what="segment"
                )
        # The last byte of a 64-bit address space is never a segment's: an end always fits.
        if self.segments and (self.segments[0].address < 0 or self.segments[-1].end >= 1 << 64):
            raise ValueError("a segment lies outside the 64-bit address space")

    @classmethod
    def from_segments(
        cls,
        segments: Iterable[Segment | tuple[int, Any]],
        *,
        word_size: int = 8,
        byteorder: ByteOrder = "little",
        holes: Iterable[Hole] = (),
    ) -> MemoryImage:
        """Build an image from ``(address, buffer)`` pairs, or from `Segment` values.

        Parameters
        ----------
        segments
            Buffers are anything with the buffer protocol (``bytes``, ``mmap``, a numpy array):
            their bytes are used in place.
        word_size, byteorder, holes
            As for the class.
        """
        made = []
        for item in segments:
            if isinstance(item, Segment):
                made.append(item)
                continue
            address, buffer = item
            if isinstance(buffer, np.ndarray):
                data = np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
            else:
                data = np.frombuffer(buffer, dtype=np.uint8)
            made.append(Segment(int(address), data))
        return cls(made, word_size=word_size, byteorder=byteorder, holes=holes)

    @property
    def word_dtype(self) -> np.dtype[Any]:
        """The numpy type of one word of this image: ``<u8``, ``>u4``, …."""
        return np.dtype(f"{'<' if self.byteorder == 'little' else '>'}u{self.word_size}")

    @shared_property
    def starts(self) -> NDArray[np.uint64]:
        """Start of each segment, ``(n,)`` ``uint64``, sorted."""
        return np.array([s.address for s in self.segments], dtype=np.uint64)

    @shared_property
    def ends(self) -> NDArray[np.uint64]:
        """End (exclusive) of each segment, ``(n,)`` ``uint64``."""
        return np.array([s.end for s in self.segments], dtype=np.uint64)

    @shared_property
    def engine(self) -> ImageView:
        """The same segments as the engine sees them: raw pointers, kept alive by the view."""
        return ImageView(
            [(s.address, s.data) for s in self.segments],
            self.word_size,
            self.byteorder != "little",
        )

    @property
    def nbytes(self) -> int:
        """Bytes present."""
        return sum(s.size for s in self.segments)

    def find(self, address: int) -> Segment | None:
        """Return the segment that holds an address, or None."""
        i = self._index(address)
        return None if i is None else self.segments[i]

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return bytes in place, ``(size,)`` ``uint8``; a copy only where segments meet.

        Raises
        ------
        FaultError
            A byte of the range is missing; its address is in the error.
        """
        if size <= 0:
            return np.empty(0, dtype=np.uint8)
        i = self._index(address)
        if i is None:
            raise FaultError(address)
        segment = self.segments[i]
        offset = address - segment.address
        if offset + size <= segment.size:
            return segment.data[offset : offset + size]
        return np.concatenate(self._pieces(i, address, size))

    def upto(self, address: int, most: int) -> NDArray[np.uint8]:
        """Return the bytes from an address on, as far as they are present, `most` at most.

        Raises
        ------
        FaultError
            Not even the first one is.
        """
        i = self._index(address)
        if i is None:
            raise FaultError(address)
        end = self.segments[i].end
        while end - address < most and i + 1 < len(self.segments):
            i += 1
            if self.segments[i].address != end:
                break
            end = self.segments[i].end
        return self.view(address, min(most, end - address))

    def read(self, address: int, size: int) -> bytes:
        """Return a copy of bytes; raises `FaultError` as `view` does."""
        return self.view(address, size).tobytes()

    def words(self, address: int, count: int) -> NDArray[Any]:
        """Return words, ``(count,)`` of `word_dtype`; raises `FaultError` as `view` does."""
        return self.view(address, count * self.word_size).view(self.word_dtype)

    def word(self, address: int) -> int:
        """Return one word; raises `FaultError` as `view` does."""
        return int(self.words(address, 1)[0])

    def _index(self, address: int) -> int | None:
        if not 0 <= address < 1 << 64:
            return None
        i = int(np.searchsorted(self.starts, np.uint64(address), side="right")) - 1
        return i if i >= 0 and address < self.segments[i].end else None

    def _pieces(self, i: int, address: int, size: int) -> list[NDArray[np.uint8]]:
        pieces = []
        while size > 0:
            if i >= len(self.segments) or not (
                self.segments[i].address <= address < self.segments[i].end
            ):
                raise FaultError(address)
            segment = self.segments[i]
            offset = address - segment.address
            piece = segment.data[offset : offset + size]
            pieces.append(piece)
            address += piece.size
            size -= piece.size
            i += 1
        return pieces

    def __repr__(self) -> str:
        bits = f"{self.word_size * 8}-bit {self.byteorder}-endian"
        holes = f", {len(self.holes)} holes" if self.holes else ""
        return f"<MemoryImage {bits}, {len(self.segments)} segments, {self.nbytes:,} bytes{holes}>"
