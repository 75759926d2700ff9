# cython: embedsignature=False
# cython: overflowcheck=False
# Address arithmetic wraps around on purpose: one comparison tests both bounds.
"""The engine: finds the words of an image that point into objects, and marks from the roots."""

import os

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy


cdef extern from "_simd.h" nogil:
    enum: KML_PIECE
    enum: KML_SLACK
    ctypedef struct kml_filter:
        uint64_t low
        uint64_t span
        uint64_t mask
        uint32_t step
        int word_size
        int swapped
    ctypedef size_t (*kml_filter_function)(
        const kml_filter* f, const uint8_t* p, size_t count, uint64_t* values, uint32_t* positions
    ) noexcept nogil
    void kml_prefetch(const void* address)
    uint64_t kml_load(const kml_filter* f, const uint8_t* p)
    kml_filter_function kml_choose(const char* wanted, const char** chosen)


cdef kml_filter_function filter_words


def _choose_level(str wanted):
    """Set the instruction set level, by its name or the best for ""; return its name."""
    global filter_words
    cdef const char* chosen = NULL
    cdef bytes name = wanted.encode()
    cdef kml_filter_function function = kml_choose(name, &chosen)
    if function == NULL:
        raise ValueError(f"KMEMLEAK_SIMD={wanted}: this processor has 'scalar' and perhaps 'avx2'")
    filter_words = function
    return chosen.decode()


simd_level = _choose_level(os.environ.get("KMEMLEAK_SIMD", ""))

# A target is the object's row with the kind of pointer in its two highest bits.
cdef enum:
    ROW_BITS = 30
    ROW_MASK = (1 << ROW_BITS) - 1
cdef uint32_t NONE = 0xFFFFFFFF

# ObjectFlags.EXACT_END of the objects' flags.
cdef enum:
    EXACT_END = 128

ROWS = int(ROW_MASK)
NO_TARGET = int(NONE)


cdef class ImageView:

    def __cinit__(self, segments, int word_size, bint big_endian):
        cdef Py_ssize_t i, n = len(segments)
        cdef const uint8_t[::1] data
        cdef uint64_t address
        self.extents = <Extent*>malloc((n + 1) * sizeof(Extent))
        if self.extents == NULL:
            raise MemoryError
        self.word_size = word_size
        self.swapped = big_endian != _host_is_big_endian()
        keep = []
        for i in range(n):
            address, data = segments[i]
            if data.shape[0] == 0:
                raise ValueError("an empty segment")
            if i and address < self.extents[i - 1].end:
                raise ValueError("segments are not sorted or overlap")
            if <uint64_t>data.shape[0] > UINT64_MAX - address:
                raise ValueError("a segment leaves the address space")
            self.extents[i].start = address
            self.extents[i].end = address + <uint64_t>data.shape[0]
            self.extents[i].data = &data[0]
            keep.append(data)
        self.extent_count = n
        self.keep = keep

    def __dealloc__(self):
        free(self.extents)

    cdef Py_ssize_t find(self, uint64_t address, Py_ssize_t hint) noexcept nogil:
        cdef Py_ssize_t low, high, middle
        if 0 <= hint < self.extent_count and self.extents[hint].start <= address:
            if address < self.extents[hint].end:
                return hint
            if hint + 1 == self.extent_count or address < self.extents[hint + 1].end:
                return hint + 1
        low = 0
        high = self.extent_count
        while low < high:
            middle = (low + high) >> 1
            if self.extents[middle].end <= address:
                low = middle + 1
            else:
                high = middle
        return low

    cdef uint64_t gather(self, uint64_t address, void* out, uint64_t size) noexcept nogil:
        cdef uint64_t done = 0, part
        cdef Py_ssize_t i = self.find(address, 0)
        while done < size and i < self.extent_count and self.extents[i].start <= address:
            part = self.extents[i].end - address
            if part > size - done:
                part = size - done
            memcpy(<uint8_t*>out + done, self.extents[i].data + (address - self.extents[i].start),
                   part)
            done += part
            address += part
            i += 1
        return done


cdef bint _host_is_big_endian() noexcept:
    cdef uint64_t one = 1
    return (<uint8_t*>&one)[0] == 0


# The directory: one top entry a 2 MiB region leads to the ranks at the region's page starts.
cdef enum:
    REGION_SHIFT = 21
    PAGE_SHIFT = 12
    PAGES = 1 << (REGION_SHIFT - PAGE_SHIFT)
    STRIDE = PAGES + 1
# A top entry: 0 is nobody's region; with this bit, one object covers it whole.
cdef uint32_t WHOLE = 0x80000000
# Beyond 256 TiB the top table itself would be the cost.
cdef uint64_t MOST_REGIONS = <uint64_t>1 << 27


cdef class AddressIndex:

    def __cinit__(self, const uint64_t[::1] address, const uint64_t[::1] size,
                  const uint8_t[::1] flags=None, *,
                  bint inclusive_end=False, bint interior=True):
        cdef Py_ssize_t i, n = address.shape[0]
        cdef uint64_t limit
        if size.shape[0] != n or (flags is not None and flags.shape[0] != n):
            raise ValueError("the columns of the objects differ in length")
        if n > ROW_MASK:
            raise ValueError("an index holds fewer than 2**30 objects")
        self.starts = address
        self.sizes = size
        self.flags = flags
        self.inclusive_end = inclusive_end
        self.interior = interior
        self.low = 1
        if n == 0:
            self.span = 0
            self.low = UINT64_MAX
            return
        for i in range(n):
            # The limit of a row, one past its end included, is an address too.
            if address[i] > UINT64_MAX - 2 or size[i] > UINT64_MAX - 1 - address[i]:
                raise ValueError(f"object {address[i]:#x} leaves the address space")
            if i + 1 < n and self.limit_of(i) - (inclusive_end and size[i] > 0) > address[i + 1]:
                raise ValueError(f"object {address[i]:#x} overlaps the next, or is out of order")
        self.low = address[0]
        limit = self.limit_of(n - 1)
        self.span = limit - 1 - self.low
        self.build_directory()

    def __dealloc__(self):
        free(self.top)
        free(self.pages)

    cdef inline uint64_t limit_of(self, Py_ssize_t row) noexcept nogil:
        # The first value after a row that is not the row's; a neighbour's start wins before it.
        if self.sizes[row] == 0:
            return self.starts[row] + 1
        return self.starts[row] + self.sizes[row] + self.inclusive_end

    cdef int build_directory(self) except -1:
        cdef Py_ssize_t n = self.starts.shape[0], i
        cdef uint64_t region, last = UINT64_MAX, used = 0, until, page, at = 0
        cdef uint32_t* ranks = NULL
        self.base = self.low & ~((<uint64_t>1 << REGION_SHIFT) - 1)
        self.regions = ((self.low + self.span - self.base) >> REGION_SHIFT) + 1
        with nogil:
            for i in range(n):
                region = (self.starts[i] - self.base) >> REGION_SHIFT
                used += region != last
                last = region
        self.page_entries = used * STRIDE
        # Scattered objects: the directory would outgrow what it indexes. Search them instead.
        if self.regions > MOST_REGIONS or self.page_entries > <uint64_t>n * 8 + (16 << 20):
            self.page_entries = 0
            return 0
        self.top = <uint32_t*>calloc(self.regions, sizeof(uint32_t))
        self.pages = <uint32_t*>malloc(self.page_entries * sizeof(uint32_t))
        if self.top == NULL or self.pages == NULL:
            raise MemoryError
        with nogil:
            used = 0
            last = UINT64_MAX
            for i in range(n):
                region = (self.starts[i] - self.base) >> REGION_SHIFT
                page = ((self.starts[i] - self.base) >> PAGE_SHIFT) & (PAGES - 1)
                if region != last:
                    if ranks != NULL:
                        while at < STRIDE:
                            ranks[at] = <uint32_t>i
                            at += 1
                        until = (self.limit_of(i - 1) - 1 - self.base) >> REGION_SHIFT
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
        return 0

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
        return <uint32_t>row | (<uint32_t>1 << ROW_BITS) if self.interior else NONE

    cdef void resolve(self, const uint64_t* values, uint32_t* targets,
                      Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i = 0
        if self.starts.shape[0] == 0:
            for i in range(count):
                targets[i] = NONE
        elif self.pages == NULL:
            for i in range(count):
                targets[i] = self.resolve_by_search(values[i])
        else:
            while i < count:
                self.resolve_piece(values + i, targets + i, min(count - i, <Py_ssize_t>KML_PIECE))
                i += KML_PIECE

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

    cdef void resolve_piece(self, const uint64_t* values, uint32_t* targets,
                            Py_ssize_t count) noexcept nogil:
        # Stage by stage over the whole piece, each stage asking for the lines that the next
        # one reads: the cache misses of a piece overlap instead of adding up.
        cdef const uint32_t* ranks[KML_PIECE]
        cdef Py_ssize_t i
        cdef uint64_t at
        cdef uint32_t entry, low, left, half
        for i in range(count):
            at = values[i] - self.base
            ranks[i] = NULL
            targets[i] = NONE
            if values[i] - self.low > self.span:
                continue
            entry = self.top[at >> REGION_SHIFT]
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
        """How addresses are found: "directory" or "search"."""
        return "directory" if self.pages != NULL else "search"

    @property
    def nbytes(self):
        """Bytes that the index takes beside the two columns it was given."""
        return self.page_entries * 4 + (self.regions * 4 if self.top != NULL else 0)

    def __len__(self):
        return self.starts.shape[0]


cdef class _Block:
    """Memory of C's, handed to numpy through the buffer protocol."""
    cdef void* data
    cdef Py_ssize_t nbytes

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


cdef struct Column:
    # A growing array.
    uint8_t* data
    size_t used
    size_t room


cdef int reserve(Column* column, size_t more) noexcept nogil:
    cdef size_t room = column.room
    cdef void* data
    if column.used + more <= room:
        return 0
    # By a half and at least a page: what is never written to never becomes memory.
    room = column.used + more + room // 2 + 4096
    data = realloc(column.data, room)
    if data == NULL:
        return -1
    column.data = <uint8_t*>data
    column.room = room
    return 0


cdef object take(Column* column, dtype):
    # Hands the column's memory over as an array, trimmed to what is used.
    cdef _Block block = _Block.__new__(_Block)
    cdef void* trimmed
    if column.used == 0:
        free(column.data)
        column.data = NULL
        return np.empty(0, dtype=dtype)
    trimmed = realloc(column.data, column.used)
    block.data = trimmed if trimmed != NULL else column.data
    block.nbytes = column.used
    column.data = NULL
    return np.frombuffer(block, dtype=dtype)


cdef enum:
    CANDIDATES = 2 * KML_PIECE

cdef class _Pass:
    # One sequential pass over ranges: fills candidates, resolves them, keeps what hits.
    cdef ImageView view
    cdef AddressIndex index
    cdef kml_filter filter
    cdef bint with_places
    cdef Py_ssize_t hint
    cdef Py_ssize_t pending
    cdef uint64_t values[CANDIDATES + KML_SLACK]
    cdef uint32_t positions[CANDIDATES + KML_SLACK]
    cdef uint64_t places[CANDIDATES + KML_SLACK]
    cdef uint32_t rows[CANDIDATES + KML_SLACK]
    cdef uint32_t targets[CANDIDATES + KML_SLACK]
    cdef Column out_targets
    cdef Column out_places
    cdef Column out_values
    cdef Column out_rows
    cdef uint64_t words, candidates, hits, own, missing

    def __cinit__(self, ImageView view, AddressIndex index, int step, uint64_t mask,
                  bint with_places):
        if step not in (1, 2, 4, 8):
            raise ValueError(f"the alignment step is 1, 2, 4 or 8, not {step}")
        self.view = view
        self.index = index
        self.with_places = with_places
        self.filter.low = index.low
        self.filter.span = index.span
        self.filter.mask = mask
        self.filter.step = step
        self.filter.word_size = view.word_size
        self.filter.swapped = view.swapped

    def __dealloc__(self):
        free(self.out_targets.data)
        free(self.out_places.data)
        free(self.out_values.data)
        free(self.out_rows.data)

    cdef int run(self, const uint64_t[::1] start, const uint64_t[::1] size,
                 const int64_t[::1] owner, int64_t[::1] offsets) noexcept nogil:
        # offsets[r + 1] collects the hits of range r. owner[r] is the object that it is part
        # of, -1 for none; without the array, range r is object r.
        cdef Py_ssize_t r
        for r in range(start.shape[0]):
            if size[r] and self.scan_range(start[r], size[r], <uint32_t>r, owner, offsets) < 0:
                return -1
        return self.flush(owner, offsets)

    cdef int scan_range(self, uint64_t start, uint64_t size, uint32_t row,
                        const int64_t[::1] owner, int64_t[::1] offsets) noexcept nogil:
        cdef uint64_t step = self.filter.step, width = self.filter.word_size
        cdef uint64_t end, at, count, piece, until, beyond
        cdef Py_ssize_t e
        cdef Extent* extent
        cdef uint8_t word[8]
        end = start + size if size <= UINT64_MAX - start else UINT64_MAX
        if start > UINT64_MAX - step:
            return 0
        at = (start + step - 1) & ~(step - 1)
        while at < end and end - at >= width:
            e = self.view.find(at, self.hint)
            if e == self.view.extent_count:
                self.missing += end - at
                return 0
            self.hint = e
            extent = &self.view.extents[e]
            if extent.start > at:
                until = min(extent.start, end)
                self.missing += until - at
                if until == end:
                    return 0
                at = (until + step - 1) & ~(step - 1)
                continue
            until = min(extent.end, end)
            if until - at >= width:
                count = (until - at - width) // step + 1
                self.words += count
                while count:
                    piece = min(count, <uint64_t>KML_PIECE)
                    self.take_piece(extent, at, piece, row)
                    if self.pending >= KML_PIECE and self.flush(owner, offsets) < 0:
                        return -1
                    at += piece * step
                    count -= piece
            # Words that begin in this extent and end in the next: only where both adjoin.
            beyond = extent.end
            while at < beyond and at < end and end - at >= width:
                if self.view.gather(at, word, width) == width:
                    self.words += 1
                    self.take_word(word, at, row)
                    if self.pending >= KML_PIECE and self.flush(owner, offsets) < 0:
                        return -1
                at += step
            if at < beyond:
                return 0
        return 0

    cdef inline void take_piece(self, Extent* extent, uint64_t at, size_t count,
                                uint32_t row) noexcept nogil:
        cdef Py_ssize_t i, first = self.pending
        cdef size_t found = filter_words(&self.filter, extent.data + (at - extent.start), count,
                                         self.values + first, self.positions + first)
        self.pending += found
        for i in range(first, self.pending):
            self.rows[i] = row
        if self.with_places:
            for i in range(first, self.pending):
                self.places[i] = at + <uint64_t>self.positions[i] * self.filter.step

    cdef inline void take_word(self, const uint8_t* word, uint64_t at,
                               uint32_t row) noexcept nogil:
        cdef uint64_t value = kml_load(&self.filter, word)
        if value - self.filter.low <= self.filter.span:
            self.values[self.pending] = value
            self.rows[self.pending] = row
            self.places[self.pending] = at
            self.pending += 1

    cdef int flush(self, const int64_t[::1] owner, int64_t[::1] offsets) noexcept nogil:
        cdef Py_ssize_t i, count = self.pending
        cdef int64_t source
        cdef uint32_t* out
        self.pending = 0
        if count == 0:
            return 0
        self.candidates += count
        self.index.resolve(self.values, self.targets, count)
        if reserve(&self.out_targets, count * sizeof(uint32_t)) < 0:
            return -1
        if self.with_places and (reserve(&self.out_places, count * sizeof(uint64_t)) < 0
                                 or reserve(&self.out_values, count * sizeof(uint64_t)) < 0
                                 or reserve(&self.out_rows, count * sizeof(uint32_t)) < 0):
            return -1
        out = <uint32_t*>(self.out_targets.data + self.out_targets.used)
        for i in range(count):
            if self.targets[i] == NONE:
                continue
            source = owner[self.rows[i]] if owner is not None else <int64_t>self.rows[i]
            if <int64_t>(self.targets[i] & ROW_MASK) == source:
                self.own += 1
                continue
            out[0] = self.targets[i]
            out += 1
            self.hits += 1
            if offsets is not None:
                offsets[self.rows[i] + 1] += 1
            if self.with_places:
                (<uint64_t*>(self.out_places.data + self.out_places.used))[0] = self.places[i]
                (<uint64_t*>(self.out_values.data + self.out_values.used))[0] = self.values[i]
                (<uint32_t*>(self.out_rows.data + self.out_rows.used))[0] = self.rows[i]
                self.out_places.used += sizeof(uint64_t)
                self.out_values.used += sizeof(uint64_t)
                self.out_rows.used += sizeof(uint32_t)
        self.out_targets.used = <uint8_t*>out - self.out_targets.data
        return 0

    def counters(self):
        return {
            "words": self.words,
            "candidates": self.candidates,
            "hits": self.hits,
            "self_references": self.own,
            "missing_bytes": self.missing,
        }


def _check_ranges(start, size, owner):
    if start.shape[0] != size.shape[0] or (owner is not None and owner.shape[0] != start.shape[0]):
        raise ValueError("the columns of the ranges differ in length")
    if start.shape[0] >= NONE:
        raise ValueError("too many ranges in one pass")


def extract_references(ImageView view, AddressIndex index, const uint64_t[::1] start,
                       const uint64_t[::1] size, const int64_t[::1] owner=None, *,
                       int step, uint64_t mask=UINT64_MAX):
    """Find the objects that ranges point into; see the stub."""
    _check_ranges(start, size, owner)
    cdef _Pass scan = _Pass(view, index, step, mask, False)
    offsets_array = np.zeros(start.shape[0] + 1, dtype=np.int64)
    cdef int64_t[::1] offsets = offsets_array
    cdef int status
    cdef Py_ssize_t r
    with nogil:
        status = scan.run(start, size, owner, offsets)
        for r in range(start.shape[0]):
            offsets[r + 1] += offsets[r]
    if status < 0:
        raise MemoryError
    return offsets_array, take(&scan.out_targets, np.uint32), scan.counters()


def scan_words(ImageView view, AddressIndex index, const uint64_t[::1] start,
               const uint64_t[::1] size, const int64_t[::1] owner=None, *,
               int step, uint64_t mask=UINT64_MAX):
    """Find the words of ranges that point into objects; see the stub."""
    _check_ranges(start, size, owner)
    cdef _Pass scan = _Pass(view, index, step, mask, True)
    cdef int status
    with nogil:
        status = scan.run(start, size, owner, None)
    if status < 0:
        raise MemoryError
    return (take(&scan.out_places, np.uint64), take(&scan.out_values, np.uint64),
            take(&scan.out_targets, np.uint32), take(&scan.out_rows, np.uint32))


cdef class _Mark:
    # The state of one marking: counts, what kinds of pointer were seen, the gray list.
    cdef const int64_t[::1] offsets
    cdef const uint32_t[::1] targets
    cdef const int32_t[::1] min_count
    cdef const int32_t[::1] excess
    cdef int32_t[::1] count
    cdef uint8_t[::1] held
    cdef uint32_t* gray
    cdef Py_ssize_t head, tail

    def __dealloc__(self):
        free(self.gray)

    cdef inline void refer(self, uint32_t target, int64_t source) noexcept nogil:
        cdef uint32_t row = target & ROW_MASK
        cdef int32_t wanted = self.min_count[row], other
        self.held[row] |= <uint8_t>(1 << (target >> ROW_BITS))
        if wanted < 0:
            return
        if self.count[row] < wanted:
            self.bump(row)
        elif self.excess is not None:
            # Surplus: it counts for another object, but never one's own.
            other = self.excess[row]
            if other >= 0 and other != source:
                self.bump(<uint32_t>other)

    cdef inline void bump(self, uint32_t row) noexcept nogil:
        cdef int32_t wanted = self.min_count[row]
        if self.count[row] >= wanted:
            return
        self.count[row] += 1
        if self.count[row] == wanted:
            self.gray[self.tail] = row
            self.tail += 1

    cdef void follow(self) noexcept nogil:
        cdef uint32_t row
        cdef int64_t i
        while self.head < self.tail:
            row = self.gray[self.head]
            self.head += 1
            if self.head + 8 < self.tail:
                kml_prefetch(&self.offsets[0] + self.gray[self.head + 8])
            for i in range(self.offsets[row], self.offsets[row + 1]):
                if i + 8 < self.offsets[row + 1]:
                    kml_prefetch(&self.count[0] + (self.targets[i + 8] & ROW_MASK))
                self.refer(self.targets[i], row)


def mark(const int64_t[::1] offsets, const uint32_t[::1] targets, const int32_t[::1] min_count,
         const uint32_t[::1] roots, *, const int32_t[::1] excess=None,
         const uint32_t[::1] order=None, const uint8_t[::1] modified=None):
    """Count references from the roots on; see the stub."""
    cdef Py_ssize_t i, row, n = min_count.shape[0]
    cdef _Mark state = _Mark.__new__(_Mark)
    cdef uint32_t top = 0
    if offsets.shape[0] != n + 1 or (order is not None and order.shape[0] != n) or (
            excess is not None and excess.shape[0] != n) or (
            modified is not None and modified.shape[0] != n):
        raise ValueError("the columns of the objects differ in length")
    if offsets[0] != 0 or offsets[n] != targets.shape[0]:
        raise ValueError("the offsets do not fit the targets")
    with nogil:
        for i in range(n):
            top |= offsets[i] > offsets[i + 1]
        if order is not None:
            for i in range(n):
                top |= order[i] >= n
        if excess is not None:
            for i in range(n):
                top |= excess[i] >= n
        for i in range(targets.shape[0]):
            top |= (targets[i] & ROW_MASK) >= n
        for i in range(roots.shape[0]):
            top |= (roots[i] & ROW_MASK) >= n
    if top:
        raise ValueError("a reference names an object that is not in the table")
    count_array = np.zeros(n, dtype=np.int32)
    held_array = np.zeros(n, dtype=np.uint8)
    state.offsets = offsets
    state.targets = targets
    state.min_count = min_count
    state.excess = excess
    state.count = count_array
    state.held = held_array
    state.gray = <uint32_t*>malloc((n + 1) * sizeof(uint32_t))
    if state.gray == NULL:
        raise MemoryError
    if n == 0:
        return count_array, held_array
    with nogil:
        for i in range(n):
            row = order[i] if order is not None else i
            if min_count[row] == 0:
                state.gray[state.tail] = <uint32_t>row
                state.tail += 1
        for i in range(roots.shape[0]):
            state.refer(roots[i], -1)
        state.follow()
        if modified is not None:
            for i in range(n):
                row = order[i] if order is not None else i
                if modified[row] and state.count[row] < min_count[row]:
                    state.count[row] = min_count[row]
                    state.gray[state.tail] = <uint32_t>row
                    state.tail += 1
            state.follow()
    return count_array, held_array
