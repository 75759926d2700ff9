"""Turns what an arena looks like into a Layout: where the fields of glibc's structures are.

The layouts were read in glibc's ``malloc/malloc.c`` and ``malloc/arena.c`` (tags 2.19 to 2.43).
A layout is chosen by looking at the memory, never by a version number.
"""

from __future__ import annotations

from dataclasses import dataclass

#: (fd, bk) pairs in ``malloc_state.bins``; the last one is never used, so that it always links
#: to itself: the anchor by which an arena is found.
BIN_PAIRS = 127

#: Families by (word size, offset of ``bins`` in ``malloc_state``): versions, offset of
#: ``fastbinsY``, number of fastbins, malloc's alignment. Where the 32-bit ABI leaves the
#: alignment open (i386 has 16 since 2.26, others 8), both are listed.
_FAMILIES: dict[tuple[int, int], tuple[str, int, int, int]] = {
    (8, 104): ("2.26 and before", 8, 10, 16),
    (8, 112): ("2.27-2.42", 16, 10, 16),
    (8, 24): ("2.43 and later", 0, 0, 16),
    (4, 56): ("2.26 and before", 8, 10, 8),
    (4, 60): ("2.26", 8, 11, 16),
    (4, 64): ("2.27-2.42", 12, 11, 16),
    (4, 16): ("2.43 and later", 0, 0, 16),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets, in bytes, in one family's ``malloc_state`` and in its chunks.

    Parameters
    ----------
    word
        Bytes in a ``size_t``.
    versions
        The glibc versions of the family.
    bins
        Offset of ``bins`` in ``malloc_state``.
    fastbins, fastbin_count
        Offset and length of ``fastbinsY``; a length of 0 where there is none.
    align
        malloc's alignment of the program's addresses.
    """

    word: int
    versions: str
    bins: int
    fastbins: int
    fastbin_count: int
    align: int

    @property
    def header(self) -> int:
        """Bytes from a chunk to the program's part."""
        return 2 * self.word

    @property
    def minimum(self) -> int:
        """Smallest chunk (MINSIZE)."""
        return 4 * self.word

    @property
    def top(self) -> int:
        """Offset of ``top``."""
        return self.bins - 2 * self.word

    @property
    def anchor(self) -> int:
        """Offset of the last pair of ``bins``."""
        return self.bins + (BIN_PAIRS - 1) * self.header

    @property
    def next(self) -> int:
        """Offset of ``next``, after the bins and the binmap (4 × 32 bits)."""
        return self.bins + BIN_PAIRS * self.header + 16

    @property
    def tail(self) -> int:
        """Offset of what follows ``next_free``: ``attached_threads`` or ``system_mem``."""
        return self.next + 2 * self.word

    @property
    def mapped_trailer(self) -> int:
        """Bytes by which a mapping is longer than the chunk in it."""
        return 0 if self.fastbin_count else self.header

    def aligned_chunk(self, address: int) -> int:
        """Return the first place at or after an address where a chunk can begin."""
        return address + -(address + self.header) % self.align


def layouts(word: int) -> list[Layout]:
    """Return every known layout of a word size."""
    return [
        Layout(word, versions, bins, fastbins, count, align)
        for (size, bins), (versions, fastbins, count, align) in _FAMILIES.items()
        if size == word
    ]


@dataclass(frozen=True, slots=True)
class TcacheLayout:
    """Offsets in one family's ``tcache_perthread_struct``.

    Parameters
    ----------
    versions
        The glibc versions of the family.
    count_size
        Bytes in one element of ``counts`` (``num_slots``).
    bins
        Length of ``counts`` and of ``entries``.
    slots_left
        Whether ``counts`` holds what may still be added instead of what is there.
    """

    versions: str
    count_size: int
    bins: int
    slots_left: bool

    def entries(self, word: int) -> int:
        """Offset of ``entries``."""
        return -(-self.count_size * self.bins // word) * word

    def usable(self, word: int, align: int) -> int:
        """Usable bytes of the chunk that holds the structure."""
        request = self.entries(word) + self.bins * word
        return (request + word + align - 1) // align * align - word


TCACHE_LAYOUTS = (
    TcacheLayout("2.26-2.29", 1, 64, False),
    TcacheLayout("2.30-2.41", 2, 64, False),
    TcacheLayout("2.42 and later", 2, 76, True),
)
