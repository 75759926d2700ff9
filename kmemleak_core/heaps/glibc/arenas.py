"""Finds glibc's arenas, their heaps and mp_ in an image, by structure and without symbols."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..._heap_find import find_linked
from ...coverage import Coverage
from ...errors import FaultError
from ...image import MemoryImage, Segment
from .layouts import BIN_PAIRS, Layout, layouts

#: ``HEAP_MAX_SIZE`` by word size (``malloc/arena.c``).
HEAP_ALIGNMENT = {8: 64 << 20, 4: 1 << 20}

#: More arenas than any process has: bounds the walk along damaged rings.
MAX_ARENAS = 100_000

#: ``malloc_state.attached_threads`` is smaller, ``system_mem`` is not (its first page apart).
MAX_ATTACHED = 0x10000

NONCONTIGUOUS = 2


@dataclass(slots=True)
class Arena:
    """One ``malloc_state``.

    Parameters
    ----------
    base
        Its address.
    layout
        Where its fields are.
    top
        Address of the top chunk.
    system_mem
        Bytes that it obtained from the system, as it counts them.
    end
        Address of the first byte after the structure.
    contiguous
        Whether its memory grows in one piece (the main arena's usual state).
    main
        Whether it is a C library's static ``main_arena``.
    heaps
        Addresses of its ``heap_info`` structures, sorted (secondary arenas).
    """

    base: int
    layout: Layout
    top: int
    system_mem: int
    end: int
    contiguous: bool
    main: bool = True
    heaps: list[int] = field(default_factory=list)

    @property
    def initial(self) -> bool:
        """Whether it never had any memory: its top is its own first bin."""
        return self.top == self.base + self.layout.top or self.top == 0

    @property
    def name(self) -> str:
        """What a person would call it."""
        return "the main arena" if self.main else f"the arena at {self.base:#x}"


def word_at(image: MemoryImage, address: int) -> int | None:
    """Return one word of the image, None where it is missing."""
    try:
        return image.word(address)
    except FaultError:
        return None


def u32_at(image: MemoryImage, address: int) -> int | None:
    """Return 32 bits of the image, None where they are missing."""
    try:
        data = image.read(address, 4)
    except FaultError:
        return None
    return int.from_bytes(data, image.byteorder)


def find_arenas(image: MemoryImage, coverage: Coverage) -> list[Arena]:
    """Return every arena, main arenas first.

    The last pair of bins always links to itself: that word pattern is searched in file-backed
    writable memory (a C library's ``.data``), elsewhere only if it is not there. Secondary
    arenas are reached along the ring of ``next`` and from the heaps' aligned addresses.
    """
    anchors = _anchors(image, (s for s in image.segments if s.writable and s.kind == "file"))
    if not anchors:
        anchors = _anchors(image, (s for s in image.segments if s.writable and s.kind != "file"))
    known = layouts(image.word_size)
    arenas: dict[int, Arena] = {}
    for anchor in anchors:
        for arena in _ring(image, anchor, known, coverage):
            arenas.setdefault(arena.base, arena)
    _attach_heaps(image, arenas, known)
    return sorted(arenas.values(), key=lambda a: (not a.main, a.base))


def _anchors(image: MemoryImage, segments: Iterable[Segment]) -> list[int]:
    header = 2 * image.word_size
    back = (1 << 64) - header
    found: list[int] = []
    for segment in segments:
        hits = find_linked(
            image.engine,
            segment.address,
            segment.end,
            image.word_size,
            0,
            back,
            image.word_size,
            back,
            MAX_ARENAS,
        )
        # Every empty bin links to itself; the anchor is the one with most sound bins before it,
        # nearly always the last.
        best: list[tuple[int, int]] = []
        for hit in reversed(hits):
            near = bool(best) and best[-1][1] - hit < BIN_PAIRS * header
            if near and best[-1][0] > BIN_PAIRS - 8:
                continue
            sound = _sound_pairs(image, hit)
            if sound < BIN_PAIRS // 2:
                continue
            if not near:
                best.append((sound, hit))
            elif sound > best[-1][0]:
                best[-1] = sound, hit
        found += [hit for _, hit in best]
    return found


def _sound_pairs(image: MemoryImage, anchor: int) -> int:
    """Return how many of the 127 pairs that end with this one are sound lists.

    A damaged heap breaks some lists; an accident has hardly a sound one.
    """
    header = 2 * image.word_size
    first = anchor - (BIN_PAIRS - 1) * header
    try:
        pairs = image.words(first, 2 * BIN_PAIRS).astype(np.uint64).reshape(BIN_PAIRS, 2)
    except (FaultError, OverflowError):
        return 0
    own = np.uint64(first) + np.arange(BIN_PAIRS, dtype=np.uint64) * np.uint64(header)
    own -= np.uint64(header)
    empty = (pairs[:, 0] == own) & (pairs[:, 1] == own)
    if not empty[-1]:
        return 0
    sound = int(empty.sum())
    for i in np.flatnonzero(~empty).tolist():
        chunk = int(own[i])
        forward = word_at(image, int(pairs[i, 0]) + 3 * image.word_size)
        backward = word_at(image, int(pairs[i, 1]) + 2 * image.word_size)
        sound += forward == chunk and backward == chunk
    return sound


def _links_itself(image: MemoryImage, base: int, layout: Layout) -> bool:
    """Whether an arena of this layout lies at an address: its last pair is the anchor."""
    anchor = base + layout.anchor
    own = anchor - layout.header
    if word_at(image, anchor) != own or word_at(image, anchor + layout.word) != own:
        return False
    # Any empty bin links to itself, but only behind the last one no other does.
    return word_at(image, anchor + layout.header) != anchor


def _ring(
    image: MemoryImage, anchor: int, known: list[Layout], coverage: Coverage
) -> Iterator[Arena]:
    """Yield the arenas on the ring of ``next`` that begins at the one with this anchor."""
    first = known[0]
    after = anchor - first.anchor + first.next  # the distance is one for all layouts
    ring: list[int] = []
    seen: set[int] = set()
    layout = None
    at = word_at(image, after)
    while at is not None and at not in seen and len(ring) < MAX_ARENAS:
        layout = next((c for c in known if at + c.anchor == anchor), None)
        if layout is not None:
            break
        seen.add(at)
        ring.append(at)
        fitting = next((c for c in known if _links_itself(image, at, c)), None)
        at = None if fitting is None else word_at(image, at + fitting.next)
    if layout is None:
        # The ring is broken: the neighbours that it names still tell the family.
        fitting = next((c for b in ring for c in known if _links_itself(image, b, c)), None)
        layout = fitting or next((c for c in known if "2.42" in c.versions), known[0])
        coverage.add(
            "heap.arena-ring",
            "the list of arenas is damaged: those that own no heap at an aligned address are lost",
            address=after,
        )
    base = anchor - layout.anchor
    main = read_arena(image, base, layout)
    if main is not None:
        yield main
    for other in ring:
        if _links_itself(image, other, layout):
            arena = read_arena(image, other, layout)
            if arena is not None:
                arena.main = False
                yield arena


def read_arena(image: MemoryImage, base: int, layout: Layout) -> Arena | None:
    """Read one ``malloc_state``; None where the image lacks a part of it."""
    flags = u32_at(image, base + 4)
    top = word_at(image, base + layout.top)
    tail = [word_at(image, base + layout.tail + k * layout.word) for k in range(2)]
    if flags is None or top is None or tail[0] is None or tail[1] is None:
        return None
    # Since 2.23 attached_threads stands before system_mem.
    attached = tail[0] < MAX_ATTACHED
    system_mem = tail[1] if attached else tail[0]
    end = base + layout.tail + (3 if attached else 2) * layout.word
    return Arena(base, layout, top, system_mem, end, not flags & NONCONTIGUOUS)


def _attach_heaps(image: MemoryImage, arenas: dict[int, Arena], known: list[Layout]) -> None:
    """Give every secondary arena its heaps: by the aligned addresses, and down from its top."""
    heaps: dict[int, set[int]] = {}
    for place in _aligned(image, HEAP_ALIGNMENT[image.word_size]):
        owner = word_at(image, place)
        if owner is None:
            continue
        if owner not in arenas and 0 < owner - place <= 16 * image.word_size:
            # The first heap of an arena that no ring led to.
            for layout in known:
                if _links_itself(image, owner, layout):
                    arena = read_arena(image, owner, layout)
                    if arena is not None:
                        arena.main = False
                        arenas[owner] = arena
        if owner in arenas and not arenas[owner].main:
            heaps.setdefault(owner, set()).add(place)
    for arena in arenas.values():
        if arena.main:
            continue
        found = heaps.get(arena.base, set())
        at = heap_of(image, arena)
        while at is not None and at and at not in found and len(found) < MAX_ARENAS:
            if word_at(image, at) != arena.base:
                break
            found.add(at)
            at = word_at(image, at + image.word_size)
        arena.heaps = sorted(found)


def heap_of(image: MemoryImage, arena: Arena) -> int | None:
    """Return the heap that holds an arena's top.

    Heaps are aligned to their greatest size: 64 MiB, but other powers of two where
    ``glibc.malloc.hugetlb`` is set.
    """
    usual = HEAP_ALIGNMENT[image.word_size]
    for size in (usual, *(1 << k for k in range(20, 35))):
        place = arena.top & -size
        if place and word_at(image, place) == arena.base:
            return place
    return None


def _aligned(image: MemoryImage, step: int) -> Iterator[int]:
    for segment in image.segments:
        if segment.writable:
            yield from range(-(-segment.address // step) * step, segment.end, step)


@dataclass(frozen=True, slots=True)
class MallocParameters:
    """What is wanted of ``struct malloc_par``, glibc's ``mp_``.

    Parameters
    ----------
    address
        Address of the word ``sbrk_base``.
    sbrk_base
        First address that the main arena got from ``sbrk``; 0 if it got none.
    mapped_count, mapped_bytes
        Chunks with a mapping of their own, bytes in these mappings.
    """

    address: int
    sbrk_base: int
    mapped_count: int
    mapped_bytes: int


#: ``mp_.n_mmaps_max``, which hardly anyone changes (DEFAULT_MMAP_MAX).
MMAPS_MAX = 65536

#: mp_ lies so close to its main_arena (2.2–2.3 KB in shared libraries, 64 bytes in static ones).
NEIGHBOURHOOD = 16 << 10


def find_parameters(image: MemoryImage, arena: Arena, base: int) -> MallocParameters | None:
    """Find the ``mp_`` that belongs to a main arena.

    Parameters
    ----------
    image
        The memory.
    arena
        The main arena.
    base
        Where its memory seems to begin (what ``sbrk_base`` should hold), 0 if it has none.
    """
    segment = image.find(arena.base)
    if segment is None:
        return None
    low = max(segment.address, arena.base - NEIGHBOURHOOD)
    low += -low % 4
    high = min(segment.end, arena.end + NEIGHBOURHOOD)
    word = image.word_size
    order = "<" if image.byteorder == "little" else ">"
    ints = image.view(low, (high - low) & ~3).view(f"{order}u4")
    best: tuple[int, MallocParameters] | None = None
    for i in np.flatnonzero(ints == MMAPS_MAX).tolist():
        place = low + 4 * i
        for address, mapped in _places(place, word):
            sbrk_base = word_at(image, address)
            count = u32_at(image, place - 4)
            greatest = u32_at(image, place + 4)
            size = word_at(image, mapped)
            most = word_at(image, mapped + word)
            if sbrk_base is None or count is None or greatest is None:
                continue
            if size is None or most is None or count > greatest or size > most:
                continue
            if (count == 0) != (size == 0) or (greatest == 0) != (most == 0):
                continue
            if size % 4096 or most % 4096:
                continue
            if sbrk_base != base and sbrk_base and not 4096 <= sbrk_base < 1 << (8 * word - 1):
                continue
            found = MallocParameters(address, sbrk_base, count, size)
            rank = 2 if sbrk_base == base else 1
            if best is None or rank > best[0]:
                best = rank, found
    return None if best is None else best[1]


def _places(maximum: int, word: int) -> Iterator[tuple[int, int]]:
    """Yield (address of sbrk_base, address of mmapped_mem) for a place of n_mmaps_max.

    The integers n_mmaps, n_mmaps_max, max_n_mmaps, no_dyn_threshold are followed by
    mmapped_mem, max_mmapped_mem, up to 2.25 one more word, and sbrk_base. Since 2.35 hp_flags
    before them shifts their alignment.
    """
    after = maximum + 12
    after += -after % word
    yield after + 2 * word, after
    yield after + 3 * word, after
