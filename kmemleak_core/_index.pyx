# cython: embedsignature=False
# cython: overflowcheck=False
# Address arithmetic wraps around on purpose: one comparison tests both bounds.
"""The address index: turns values into the objects that they point into."""

from functools import partial

import numpy as np

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from . import workers


cdef extern from "_index.h" nogil:
    enum: KML_BATCH
    enum: KML_REGION_SHIFT
    ctypedef size_t (*kml_resolver)(
        const kml_ranks* ranks, const uint64_t* values, uint32_t* targets, uint16_t* open,
        size_t count
    ) noexcept nogil
    void kml_prefetch "__builtin_prefetch"(const void* address)
    kml_resolver kml_choose_resolver(int plain)
    size_t kml_lay_out(kml_ranks* ranks)
    size_t kml_split(const kml_ranks* ranks, size_t row)
    void kml_describe(const kml_ranks* ranks, size_t first, size_t last)

cdef extern from "_memory.h" nogil:
    void* kml_map(size_t nbytes)
    void kml_unmap(void* data, size_t nbytes)
    void kml_prefer_huge(void* data, size_t nbytes)


ROWS = int(ROW_MASK)
NO_TARGET = int(NONE)

# ObjectFlags.EXACT_END of the objects' flags.
cdef enum:
    EXACT_END = 128

cdef enum:
    # A granule is a page at most: a region has several lines, and a line's mask is not 0.
    LARGEST_SHIFT = 12
    # The directory: one top entry a region leads to the ranks at the region's page starts.
    PAGE_SHIFT = 12
    PAGES = 1 << (KML_REGION_SHIFT - PAGE_SHIFT)
    STRIDE = PAGES + 1
# A top entry of the directory: 0 is nobody's region; with this bit, one object covers it whole.
cdef uint32_t WHOLE = 0x80000000
# Beyond 256 TiB a top table itself would be the cost.
cdef uint64_t MOST_REGIONS = <uint64_t>1 << 27
# So many objects are worth a part of their own in a threaded build.
cdef Py_ssize_t part_rows = 1 << 17

cdef kml_resolver resolve_ranks = kml_choose_resolver(0)


cdef void choose_resolver(bint plain) noexcept:
    global resolve_ranks
    resolve_ranks = kml_choose_resolver(plain)


def _choose_part(Py_ssize_t rows):
    """Set how many objects are worth a part of their own; return how many were. For tests."""
    global part_rows
    before = part_rows
    part_rows = rows
    return before


cdef class AddressIndex:

    def __cinit__(self, const uint64_t[::1] address, const uint64_t[::1] size,
                  const uint8_t[::1] flags=None, *,
                  bint inclusive_end=False, bint interior=True, int threads=1, str form=None):
        cdef Py_ssize_t n = address.shape[0], bad = -1
        cdef uint64_t alignment = 0
        cdef bint sound
        if size.shape[0] != n or (flags is not None and flags.shape[0] != n):
            raise ValueError("the columns of the objects differ in length")
        if n > ROW_MASK:
            raise ValueError("an index holds fewer than 2**30 objects")
        if form is not None and form not in ("ranks", "directory", "search"):
            raise ValueError(f"an index has the form ranks, directory or search, not {form!r}")
        self.starts = address
        self.sizes = size
        self.flags = flags
        self.inclusive_end = inclusive_end
        self.interior = interior
        if n == 0:
            self.low = UINT64_MAX
            return
        with nogil:
            sound = self.check(&alignment, &bad)
        if not sound:
            if address[bad] > UINT64_MAX - 2 or size[bad] > UINT64_MAX - 1 - address[bad]:
                raise ValueError(f"object {address[bad]:#x} leaves the address space")
            raise ValueError(f"object {address[bad]:#x} overlaps the next, or is out of order")
        self.low = address[0]
        self.span = self.limit_of(n - 1) - 1 - self.low
        self.base = self.low & ~((<uint64_t>1 << KML_REGION_SHIFT) - 1)
        self.regions = ((self.low + self.span - self.base) >> KML_REGION_SHIFT) + 1
        if self.regions > MOST_REGIONS:
            return
        if (form is None or form == "ranks") and self.build_ranks(alignment, threads):
            return
        if form != "search":
            self.build_directory()

    def __dealloc__(self):
        kml_unmap(self.ranks.top, (self.ranks.regions + 1) * sizeof(kml_region))
        kml_unmap(self.ranks.lines, self.ranks.line_count * sizeof(kml_line))
        free(self.top)
        free(self.pages)

    cdef inline uint64_t limit_of(self, Py_ssize_t row) noexcept nogil:
        # The first value after a row that is not the row's; a neighbour's start wins before it.
        if self.sizes[row] == 0:
            return self.starts[row] + 1
        return self.starts[row] + self.sizes[row] + self.inclusive_end

    cdef bint check(self, uint64_t* alignment, Py_ssize_t* bad) noexcept nogil:
        # Whether the objects are in order, apart, and inside the address space; and the bits
        # that are set in any start.
        cdef Py_ssize_t i, n = self.starts.shape[0]
        cdef uint64_t start, size, end, before = 0, bits = 0
        for i in range(n):
            start = self.starts[i]
            size = self.sizes[i]
            bits |= start
            # The limit of a row, one past its end included, is an address too.
            if start > UINT64_MAX - 2 or size > UINT64_MAX - 1 - start:
                bad[0] = i
                return False
            if i and start < before:
                bad[0] = i - 1
                return False
            end = start + size
            before = end if size else start + 1
        alignment[0] = bits
        return True

    cdef bint build_ranks(self, uint64_t alignment, int threads) except -1:
        # Returns False where ranks would take much more memory than the objects' columns do.
        cdef Py_ssize_t n = self.starts.shape[0], parts, p
        cdef unsigned shift = 0
        cdef uint64_t nbytes
        while shift < LARGEST_SHIFT and not alignment >> shift & 1:
            shift += 1
        self.ranks.starts = &self.starts[0]
        self.ranks.sizes = &self.sizes[0]
        self.ranks.count = n
        self.ranks.base = self.base
        self.ranks.regions = self.regions
        self.ranks.shift = shift
        self.ranks.inclusive_end = self.inclusive_end
        self.ranks.interior = self.interior
        with nogil:
            self.ranks.line_count = kml_lay_out(&self.ranks)
        nbytes = self.ranks.line_count * sizeof(kml_line)
        if self.ranks.line_count > UINT32_MAX or nbytes > <uint64_t>n * 128 + (64 << 20):
            self.ranks.line_count = 0
            return False
        self.ranks.lines = <kml_line*>kml_map(nbytes)
        self.ranks.top = <kml_region*>kml_map((self.regions + 1) * sizeof(kml_region))
        if self.ranks.top == NULL or self.ranks.lines == NULL:
            raise MemoryError
        if nbytes <= <uint64_t>n * 32:
            kml_prefer_huge(self.ranks.lines, nbytes)
        with nogil:
            kml_lay_out(&self.ranks)
        parts = max(1, min(<Py_ssize_t>threads, n // part_rows))
        edges = [int(kml_split(&self.ranks, n * p // parts)) for p in range(parts)]
        workers.run(threads, [partial(self._describe, first, last)
                              for first, last in zip(edges, edges[1:] + [n], strict=True)])
        return True

    def _describe(self, Py_ssize_t first, Py_ssize_t last):
        with nogil:
            kml_describe(&self.ranks, first, last)

    cdef bint build_directory(self) except -1:
        cdef Py_ssize_t n = self.starts.shape[0], i
        cdef uint64_t region, last = UINT64_MAX, used = 0, until, page, at = 0
        cdef uint32_t* ranks = NULL
        with nogil:
            for i in range(n):
                region = (self.starts[i] - self.base) >> KML_REGION_SHIFT
                used += region != last
                last = region
        self.page_entries = used * STRIDE
        # Scattered objects: the directory would outgrow what it indexes. Search them instead.
        if self.page_entries > <uint64_t>n * 8 + (16 << 20):
            self.page_entries = 0
            return False
        self.top = <uint32_t*>calloc(self.regions, sizeof(uint32_t))
        self.pages = <uint32_t*>malloc(self.page_entries * sizeof(uint32_t))
        if self.top == NULL or self.pages == NULL:
            raise MemoryError
        with nogil:
            used = 0
            last = UINT64_MAX
            for i in range(n):
                region = (self.starts[i] - self.base) >> KML_REGION_SHIFT
                page = ((self.starts[i] - self.base) >> PAGE_SHIFT) & (PAGES - 1)
                if region != last:
                    if ranks != NULL:
                        while at < STRIDE:
                            ranks[at] = <uint32_t>i
                            at += 1
                        until = (self.limit_of(i - 1) - 1 - self.base) >> KML_REGION_SHIFT
                        last += 1
                        while last <= until and last < region:
                            self.top[last] = WHOLE | <uint32_t>(i - 1)
                            last += 1
                    ranks = self.pages + used * STRIDE
                    used += 1
                    self.top[region] = <uint32_t>used
                    at = 0
                    last = region
                # ranks[p]: how many objects start before page p.
                while at <= page:
                    ranks[at] = <uint32_t>i
                    at += 1
            while at < STRIDE:
                ranks[at] = <uint32_t>n
                at += 1
            for region in range(last + 1, self.regions):
                self.top[region] = WHOLE | <uint32_t>(n - 1)
        return True

    cdef inline uint32_t judge(self, Py_ssize_t row, uint64_t value) noexcept nogil:
        # The target for a value whose last object that starts at or before it is `row`.
        cdef uint64_t limit
        if value == self.starts[row]:
            return <uint32_t>row
        limit = self.limit_of(row)
        if value >= limit:
            return NONE
        if self.inclusive_end and value == limit - 1:
            if self.flags is not None and self.flags[row] & EXACT_END:
                return NONE
            return <uint32_t>row | (<uint32_t>2 << ROW_BITS)
        return <uint32_t>row | INTERIOR if self.interior else NONE

    cdef void resolve(self, const uint64_t* values, uint32_t* targets,
                      Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i = 0, piece
        if self.ranks.lines == NULL and self.pages == NULL:
            for i in range(count):
                targets[i] = self.resolve_by_search(values[i])
            return
        while i < count:
            piece = min(count - i, <Py_ssize_t>KML_BATCH)
            if self.ranks.lines != NULL:
                self.resolve_by_ranks(values + i, targets + i, piece)
            else:
                self.resolve_by_directory(values + i, targets + i, piece)
            i += piece

    cdef void resolve_by_ranks(self, const uint64_t* values, uint32_t* targets,
                               Py_ssize_t count) noexcept nogil:
        cdef uint16_t open[KML_BATCH]
        cdef size_t i, left = resolve_ranks(&self.ranks, values, targets, open, count)
        for i in range(left):
            kml_prefetch(&self.starts[0] + targets[open[i]])
            kml_prefetch(&self.sizes[0] + targets[open[i]])
        for i in range(left):
            targets[open[i]] = self.judge(targets[open[i]], values[open[i]])

    cdef void resolve_by_directory(self, const uint64_t* values, uint32_t* targets,
                                   Py_ssize_t count) noexcept nogil:
        # Stage by stage over the whole piece, each stage asking for the lines that the next
        # one reads: the cache misses of a piece overlap instead of adding up.
        cdef const uint32_t* ranks[KML_BATCH]
        cdef Py_ssize_t i
        cdef uint64_t at
        cdef uint32_t entry, low, left, half
        for i in range(count):
            at = values[i] - self.base
            ranks[i] = NULL
            targets[i] = NONE
            if values[i] - self.low > self.span:
                continue
            entry = self.top[at >> KML_REGION_SHIFT]
            if entry & WHOLE:
                targets[i] = self.judge(entry & ~WHOLE, values[i])
            elif entry:
                ranks[i] = (self.pages + <uint64_t>(entry - 1) * STRIDE
                            + ((at >> PAGE_SHIFT) & (PAGES - 1)))
                kml_prefetch(ranks[i])
        for i in range(count):
            if ranks[i] != NULL:
                kml_prefetch(&self.starts[0] + ranks[i][0])
                kml_prefetch(&self.starts[0] + ((ranks[i][0] + ranks[i][1]) >> 1))
        for i in range(count):
            if ranks[i] == NULL:
                continue
            # Without a branch on the comparison: it would be mispredicted half the time.
            low = ranks[i][0]
            left = ranks[i][1] - low
            while left:
                half = (left + 1) >> 1
                low += half & -<uint32_t>(self.starts[low + half - 1] <= values[i])
                left -= half
            if low:
                targets[i] = low - 1
                kml_prefetch(&self.sizes[0] + (low - 1))
            else:
                ranks[i] = NULL
        for i in range(count):
            if ranks[i] != NULL:
                targets[i] = self.judge(targets[i], values[i])

    cdef uint32_t resolve_by_search(self, uint64_t value) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.starts.shape[0], middle
        if value - self.low > self.span:
            return NONE
        while low < high:
            middle = (low + high) >> 1
            if self.starts[middle] <= value:
                low = middle + 1
            else:
                high = middle
        return NONE if low == 0 else self.judge(low - 1, value)

    def lookup(self, const uint64_t[::1] values):
        """Turn values into targets; see the stub."""
        targets = np.empty(values.shape[0], dtype=np.uint32)
        cdef uint32_t[::1] out = targets
        if values.shape[0]:
            with nogil:
                self.resolve(&values[0], &out[0], values.shape[0])
        return targets

    @property
    def form(self):
        """How addresses are found: "ranks", "directory" or "search"."""
        if self.ranks.lines != NULL:
            return "ranks"
        return "directory" if self.pages != NULL else "search"

    @property
    def nbytes(self):
        """Bytes that the index may take beside the columns it was given."""
        if self.ranks.lines != NULL:
            return self.ranks.line_count * sizeof(kml_line) + self.regions * sizeof(kml_region)
        return self.page_entries * 4 + (self.regions * 4 if self.top != NULL else 0)

    def __len__(self):
        return self.starts.shape[0]
