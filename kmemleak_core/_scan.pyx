# cython: embedsignature=False
# cython: overflowcheck=False
# Address arithmetic wraps around on purpose: one comparison tests both bounds.
"""The word scan: finds the words of an image that point into objects, in sequential passes."""

import os
from functools import partial

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from ._index cimport NONE, ROW_MASK, AddressIndex, choose_resolver

from . import workers


cdef extern from "_simd.h" nogil:
    ctypedef size_t (*kml_filter_function)(
        const kml_filter* f, const uint8_t* p, size_t count, uint64_t* values, uint32_t* positions
    ) noexcept nogil
    uint64_t kml_load(const kml_filter* f, const uint8_t* p)
    kml_filter_function kml_choose(const char* wanted, const char** chosen)
    const char* kml_level_name(size_t index)


cdef extern from "_memory.h" nogil:
    void kml_prefer_huge(void* data, size_t nbytes)


cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* address) noexcept nogil


cdef kml_filter_function filter_words


def _list_levels():
    cdef list names = []
    cdef const char* name = kml_level_name(0)
    while name != NULL:
        names.append(name.decode())
        name = kml_level_name(len(names))
    return tuple(names)


simd_levels = _list_levels()


def _choose_level(str wanted):
    """Set the instruction set level, by its name or the best for ""; return its name."""
    global filter_words
    cdef const char* chosen = NULL
    cdef bytes name = wanted.encode()
    cdef kml_filter_function function = kml_choose(name, &chosen)
    if function == NULL:
        raise ValueError(f"KMEMLEAK_SIMD={wanted}: this processor has {', '.join(simd_levels)}")
    filter_words = function
    choose_resolver(chosen == b"scalar")
    return chosen.decode()


simd_level = _choose_level(os.environ.get("KMEMLEAK_SIMD", ""))


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
    kml_prefer_huge(data, room)
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


cdef inline void append64(Column* column, uint64_t value) noexcept nogil:
    (<uint64_t*>(column.data + column.used))[0] = value
    column.used += sizeof(uint64_t)


cdef inline void append32(Column* column, uint32_t value) noexcept nogil:
    (<uint32_t*>(column.data + column.used))[0] = value
    column.used += sizeof(uint32_t)


# Objects lie close together: a run of ranges with gaps of at most so many bytes is filtered at
# one go, and what is found in the gaps dropped. To stop and start again costs more than that.
cdef enum:
    WIDEST_GAP = 512
# A run ends after so many bytes: the rows that were looked through are then still in the cache.
cdef uint64_t LONGEST_RUN = 256 << 10
# Room for references that is asked for before there are any, at most, bytes.
cdef uint64_t MOST_EXPECTED = 256 << 20
# So many bytes are worth a part of their own in a threaded pass.
cdef uint64_t part_bytes = 4 << 20


def _choose_part(uint64_t nbytes):
    """Set how many bytes are worth a part of their own; return how many were. For tests."""
    global part_bytes
    before = part_bytes
    part_bytes = max(nbytes, <uint64_t>8)
    return before


cdef inline void prefetch_piece(const uint8_t* data, uint64_t nbytes) noexcept nogil:
    # The processor reads ahead by itself, but not into the next page, and not while candidates
    # are looked up all over the index. Where nothing is found it gains a quarter, too.
    cdef uint64_t at = 0
    nbytes = min(nbytes, <uint64_t>KML_PIECE * 8)
    while at < nbytes:
        prefetch(data + at)
        at += 64


cdef class _Pass:

    def __cinit__(self, ImageView view, AddressIndex index, const uint64_t[::1] start,
                  const uint64_t[::1] size, const int64_t[::1] owner, int step, uint64_t mask):
        if step not in (1, 2, 4, 8):
            raise ValueError(f"the alignment step is 1, 2, 4 or 8, not {step}")
        if start.shape[0] != size.shape[0] or (
                owner is not None and owner.shape[0] != start.shape[0]):
            raise ValueError("the columns of the ranges differ in length")
        if start.shape[0] >= NONE:
            raise ValueError("too many ranges in one pass")
        self.view = view
        self.index = index
        self.start = start
        self.size = size
        self.owner = owner
        self.step_shift = step.bit_length() - 1
        self.filter.low = index.low
        self.filter.span = index.span
        self.filter.mask = mask
        self.filter.step = step
        self.filter.word_size = view.word_size
        self.filter.swapped = view.swapped

    cdef int scan(self, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef Py_ssize_t r = first, until
        cdef uint64_t begin = 0, end = 0
        while r < last:
            until = self.join(r, last, &begin, &end)
            if until > r:
                if self.scan_run(begin, end, r, until) < 0:
                    return -1
                r = until
            else:
                if self.scan_range(r) < 0:
                    return -1
                r += 1
        return 0

    cdef Py_ssize_t join(self, Py_ssize_t r, Py_ssize_t last,
                         uint64_t* begin, uint64_t* run_end) noexcept nogil:
        # Joins ranges from r on into a run inside one extent, whose index is in `hint`. Returns
        # the first range behind it: r itself where not even that lies in one extent.
        cdef uint64_t start = self.start[r], size = self.size[r], prior, stop
        cdef uint64_t step = self.filter.step, width = self.filter.word_size, lost
        cdef Py_ssize_t e = self.view.find(start, self.hint)
        cdef Extent* extent
        if e == self.view.extent_count:
            return r
        self.hint = e
        extent = &self.view.extents[e]
        if extent.start > start or size > extent.end - start:
            return r
        stop = extent.end if extent.end - start < LONGEST_RUN else start + LONGEST_RUN
        begin[0] = start
        run_end[0] = prior = start + size
        while True:
            lost = (-start) & (step - 1)
            if size >= lost + width:
                self.words += ((size - lost - width) >> self.step_shift) + 1
            r += 1
            if r == last:
                return r
            start = self.start[r]
            if start < prior or start >= stop or start - run_end[0] > WIDEST_GAP:
                return r
            size = self.size[r]
            if size > extent.end - start:
                return r
            prior = start + size
            if size:
                run_end[0] = prior

    cdef int scan_run(self, uint64_t begin, uint64_t end, Py_ssize_t r,
                      Py_ssize_t until) noexcept nogil:
        # Filters [begin, end) of the extent `hint`; gives each candidate its range, of [r, until).
        cdef uint64_t step = self.filter.step, width = self.filter.word_size
        cdef unsigned shift = self.step_shift
        cdef uint64_t at = (begin + step - 1) & ~(step - 1), count, piece, place
        cdef uint64_t start = self.start[r], limit = start + self.size[r]
        cdef Extent* extent = &self.view.extents[self.hint]
        cdef const uint8_t* data
        cdef size_t found
        cdef Py_ssize_t i, kept
        cdef bint alone = until == r + 1
        if end < at or end - at < width:
            return 0
        count = ((end - at - width) >> shift) + 1
        data = extent.data + (at - extent.start)
        while count:
            piece = min(count, <uint64_t>KML_PIECE)
            kept = self.pending
            prefetch_piece(data + (piece << shift), (count - piece) << shift)
            found = filter_words(&self.filter, data, piece, self.values + kept,
                                 self.positions + kept)
            if alone:
                for i in range(kept, kept + <Py_ssize_t>found):
                    self.places[i] = at + (<uint64_t>self.positions[i] << shift)
                    self.rows[i] = <uint32_t>r
                kept += found
            for i in range(kept, self.pending + <Py_ssize_t>found):
                place = at + (<uint64_t>self.positions[i] << shift)
                while place >= limit:
                    r += 1
                    start = self.start[r]
                    limit = start + self.size[r]
                self.values[kept] = self.values[i]
                self.places[kept] = place
                self.rows[kept] = <uint32_t>r
                kept += place >= start and limit - place >= width
            self.pending = kept
            if kept >= KML_PIECE and self.flush() < 0:
                return -1
            at += piece << shift
            data += piece << shift
            count -= piece
        return 0

    cdef int scan_range(self, Py_ssize_t r) noexcept nogil:
        # A range by itself, through extents that adjoin and over what the image lacks.
        cdef uint64_t start = self.start[r], size = self.size[r]
        cdef uint64_t step = self.filter.step, width = self.filter.word_size
        cdef uint64_t end, at, until, beyond
        cdef Py_ssize_t e, i, first
        cdef Extent* extent
        cdef uint64_t count, piece
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
                count = ((until - at - width) >> self.step_shift) + 1
                self.words += count
                while count:
                    piece = min(count, <uint64_t>KML_PIECE)
                    first = self.pending
                    self.pending += filter_words(
                        &self.filter, extent.data + (at - extent.start), piece,
                        self.values + first, self.positions + first)
                    for i in range(first, self.pending):
                        self.places[i] = at + (<uint64_t>self.positions[i] << self.step_shift)
                        self.rows[i] = <uint32_t>r
                    if self.pending >= KML_PIECE and self.flush() < 0:
                        return -1
                    at += piece << self.step_shift
                    count -= piece
            # Words that begin in this extent and end in the next: only where both adjoin.
            beyond = extent.end
            while at < beyond and at < end and end - at >= width:
                if self.view.gather(at, word, width) == width:
                    self.words += 1
                    if self.take_word(word, at, r) < 0:
                        return -1
                at += step
            if at < beyond:
                return 0
        return 0

    cdef int take_word(self, const uint8_t* word, uint64_t at, Py_ssize_t r) noexcept nogil:
        cdef uint64_t value = kml_load(&self.filter, word)
        if value - self.filter.low <= self.filter.span:
            self.values[self.pending] = value
            self.places[self.pending] = at
            self.rows[self.pending] = <uint32_t>r
            self.pending += 1
            if self.pending >= KML_PIECE:
                return self.flush()
        return 0

    cdef int flush(self) noexcept nogil:
        cdef Py_ssize_t count = self.pending
        self.pending = 0
        self.candidates += count
        if count == 0:
            return 0
        self.index.resolve(self.values, self.targets, count)
        return self.emit(self.sift(count))

    cdef int emit(self, Py_ssize_t count) noexcept nogil:
        return 0

    cdef Py_ssize_t sift(self, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i, hits = 0, own = 0
        cdef uint32_t target, source
        cdef bint found, mine
        # Without a branch: whether a word hits is what nobody can foretell.
        for i in range(count):
            target = self.targets[i]
            source = self.rows[i]
            if self.owner is not None:
                source = <uint32_t>self.owner[source]  # −1 is no row
            found = target != NONE
            mine = found & ((target & ROW_MASK) == source)
            self.targets[hits] = target
            self.sources[hits] = source
            self.kept[hits] = <uint32_t>i
            own += mine
            hits += found ^ mine
        self.own += own
        self.hits += hits
        return hits

    def _scan(self, Py_ssize_t first, Py_ssize_t last):
        cdef int status
        with nogil:
            status = self.scan(first, last)
            if status == 0:
                status = self.flush()
        if status < 0:
            raise MemoryError

    def counters(self):
        return {
            "words": self.words,
            "candidates": self.candidates,
            "hits": self.hits,
            "self_references": self.own,
            "missing_bytes": self.missing,
        }


cdef class _ReferencePass(_Pass):
    # Keeps the targets, and for each range how many there were by its end.
    cdef int64_t[::1] offsets
    cdef Column found

    def __dealloc__(self):
        free(self.found.data)

    cdef int emit(self, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i
        cdef int64_t total = <int64_t>(self.found.used // sizeof(uint32_t)) + 1
        cdef int64_t* ends = &self.offsets[1]
        if reserve(&self.found, count * sizeof(uint32_t)) < 0:
            return -1
        memcpy(self.found.data + self.found.used, self.targets, count * sizeof(uint32_t))
        self.found.used += count * sizeof(uint32_t)
        for i in range(count):
            ends[self.rows[self.kept[i]]] = total + i
        return 0

    def _expect(self, Py_ssize_t first, Py_ssize_t last):
        # Room for as much as there can be, within reason, at one go: what is not used is never
        # backed, and a column that grows has to move.
        cdef uint64_t most = 0
        cdef Py_ssize_t r
        with nogil:
            for r in range(first, last):
                most += min(self.size[r], MOST_EXPECTED)
            reserve(&self.found, min(most // self.filter.step * sizeof(uint32_t), MOST_EXPECTED))

    def _settle(self, Py_ssize_t first, Py_ssize_t last, int64_t base, uint32_t[::1] out):
        # Moves the targets to their place among all, and the offsets with them.
        cdef Py_ssize_t r
        cdef int64_t total = 0
        with nogil:
            for r in range(first + 1, last + 1):
                total = max(total, self.offsets[r])
                self.offsets[r] = base + total
            if out is not None and self.found.used:
                memcpy(&out[base], self.found.data, self.found.used)
                free(self.found.data)
                self.found.data = NULL


cdef class _WordPass(_Pass):
    # Keeps the words themselves: where, what, whose.
    cdef Column found_places
    cdef Column found_values
    cdef Column found_targets
    cdef Column found_rows

    def __dealloc__(self):
        free(self.found_places.data)
        free(self.found_values.data)
        free(self.found_targets.data)
        free(self.found_rows.data)

    cdef int emit(self, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i, k
        if (reserve(&self.found_places, count * sizeof(uint64_t)) < 0
                or reserve(&self.found_values, count * sizeof(uint64_t)) < 0
                or reserve(&self.found_targets, count * sizeof(uint32_t)) < 0
                or reserve(&self.found_rows, count * sizeof(uint32_t)) < 0):
            return -1
        for i in range(count):
            k = self.kept[i]
            append64(&self.found_places, self.places[k])
            append64(&self.found_values, self.values[k])
            append32(&self.found_targets, self.targets[i])
            append32(&self.found_rows, self.rows[k])
        return 0


cdef _edges(const uint64_t[::1] size, int threads):
    # First range of each part of a pass, and one behind the last; parts weigh about the same.
    cdef Py_ssize_t r, n = size.shape[0]
    cdef uint64_t total = 0, share, weight = 0
    cdef Py_ssize_t parts
    # An object costs about as much as so many bytes.
    cdef uint64_t each = 64
    edges = [0]
    if threads > 1:
        with nogil:
            for r in range(n):
                total += min(size[r], UINT64_MAX // NONE) + each
        # Several parts a thread: what one cannot know about the others' load evens out.
        parts = max(1, min(<Py_ssize_t>threads * 4, <Py_ssize_t>(total // part_bytes)))
        share = total // parts + 1
        for r in range(n):
            weight += min(size[r], UINT64_MAX // NONE) + each
            if weight >= share and r + 1 < n:
                edges.append(r + 1)
                weight = 0
    edges.append(n)
    return edges


cdef bint _uneven(ImageView view, const uint64_t[::1] size, int threads) noexcept:
    # Whether one range is more than a thread's share, and sane: a piece is a row of its own.
    cdef uint64_t total = 0, longest = 0, mapped = 0
    cdef Py_ssize_t i
    for i in range(view.extent_count):
        mapped += view.extents[i].end - view.extents[i].start
    for i in range(size.shape[0]):
        longest = max(longest, size[i])
        total += min(size[i], mapped)
    return part_bytes < longest <= mapped and longest > total // <uint64_t>(2 * threads)


def _cut(start, size, owner):
    # Cuts long ranges into pieces, at multiples of a word: several threads may share one. Returns
    # the pieces' columns and each range's first piece.
    length = np.uint64(max(<uint64_t>8, part_bytes & ~<uint64_t>7))
    start, size = np.asarray(start), np.asarray(size)
    lost = start & np.uint64(7)
    pieces = np.maximum((lost + size + length - np.uint64(1)) // length, 1).astype(np.int64)
    first = np.concatenate(([0], np.cumsum(pieces)))
    of = np.repeat(np.arange(start.size), pieces)
    at = (np.arange(of.size) - first[of]).astype(np.uint64) * length
    begin = np.where(at == 0, start[of], start[of] - lost[of] + at)
    done = begin - start[of]
    cut = np.minimum(size[of] - done, length - (begin & np.uint64(7)))
    return begin, cut, (of if owner is None else np.asarray(owner)[of]), first


def extract_references(ImageView view, AddressIndex index, const uint64_t[::1] start,
                       const uint64_t[::1] size, const int64_t[::1] owner=None, *,
                       int step, uint64_t mask=UINT64_MAX, int threads=1):
    """Find the objects that ranges point into; see the stub."""
    cdef _ReferencePass part
    cdef int64_t base = 0
    cdef uint32_t[::1] out = None
    if threads > 1 and step >= view.word_size and size.shape[0] == start.shape[0]:
        if _uneven(view, size, threads):
            begin, cut, of, first = _cut(start, size, owner)
            offsets, targets, totals = extract_references(
                view, index, begin, cut, of, step=step, mask=mask, threads=threads)
            return offsets[first], targets, totals
    offsets = np.zeros(start.shape[0] + 1, dtype=np.int64)
    edges = _edges(size, threads)
    spans = list(zip(edges, edges[1:]))
    parts = [_ReferencePass(view, index, start, size, owner, step, mask) for _ in spans]
    for part in parts:
        part.offsets = offsets
    for part, (first, last) in zip(parts, spans):
        part._expect(first, last)
    workers.run(threads, [partial(part._scan, first, last)
                          for part, (first, last) in zip(parts, spans)])
    counters = [part.counters() for part in parts]
    totals = {name: sum(c[name] for c in counters) for name in counters[0]}
    if len(parts) > 1:
        out = targets = np.empty(totals["hits"], dtype=np.uint32)
    tasks = []
    for part, (first, last) in zip(parts, spans):
        tasks.append(partial(part._settle, first, last, base, out))
        base += part.hits
    workers.run(threads, tasks)
    if len(parts) == 1:
        part = parts[0]
        targets = take(&part.found, np.uint32)
    return offsets, targets, totals


def scan_words(ImageView view, AddressIndex index, const uint64_t[::1] start,
               const uint64_t[::1] size, const int64_t[::1] owner=None, *,
               int step, uint64_t mask=UINT64_MAX):
    """Find the words of ranges that point into objects; see the stub."""
    cdef _WordPass scan = _WordPass(view, index, start, size, owner, step, mask)
    scan._scan(0, start.shape[0])
    return (take(&scan.found_places, np.uint64), take(&scan.found_values, np.uint64),
            take(&scan.found_targets, np.uint32), take(&scan.found_rows, np.uint32))
