# cython: embedsignature=False
# Addresses wrap around and divisors are never 0: checked arithmetic would only need the GIL.
# cython: overflowcheck=False, cdivision=True
"""The walk over the adjoining chunks of a heap's region, and where it goes on behind damage."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from ._scan cimport ImageView

# Why a walk stopped.
STOP_FULL = 0
STOP_TOP = 1
STOP_FENCE = 2
STOP_LIMIT = 3
STOP_MISSING = 4
STOP_BAD = 5
STOP_UNTIL = 6

cdef enum:
    FULL = 0
    TOP = 1
    FENCE = 2
    LIMIT = 3
    MISSING = 4
    BAD = 5
    UNTIL = 6

    PREV_INUSE = 1
    IS_MMAPPED = 2
    FLAG_BITS = 7

    # So many consistent chunks in a row are no accident.
    CHAIN = 32
    # The same, where the chain runs into memory that the image lacks.
    SHORT_CHAIN = 8
    # So many chunks inside what claims to be one chunk, or fewer that end where it ends.
    NESTED = 8
    NESTED_TO_END = 3
    # Bytes that are looked through for them, besides the region's own length.
    FINER_BYTES = 1 << 26
    # Bytes that are fetched ahead of the walk: chunks lie in one linear stream.
    AHEAD = 4096
    LINE = 64

cdef uint64_t NOWHERE = ~<uint64_t>0


cdef class ChunkWalk:

    def __cinit__(
        self, ImageView image not None, uint64_t start, uint64_t limit, uint64_t top, int align
    ):
        if align not in (8, 16):
            raise ValueError("malloc's alignment is 8 or 16")
        if limit < start:
            raise ValueError("the region ends before it starts")
        self.image = image
        self.word = image.word_size
        self.header = 2 * image.word_size
        self.minimum = <uint64_t>(4 * image.word_size)
        self.align = align
        self.first = start
        self.position = start
        self.limit = limit
        self.top = top
        self.stop = FULL
        self.finer_left = (limit - start) + FINER_BYTES
        reset(&self.cursor)

    def run(
        self, uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count, uint64_t until=NOWHERE
    ):
        if not (0 <= count <= address.shape[0] and usable.shape[0] == address.shape[0]):
            raise ValueError("count lies outside the arrays")
        if count == address.shape[0]:
            self.stop = FULL
            return count
        with nogil:
            if self.word == 8 and not self.image.swapped:
                # The usual case, with its constants known to the compiler.
                count = walk_chunks(
                    self, &address[0], &usable[0], address.shape[0], count, until, 8, False)
            else:
                count = walk_chunks(
                    self, &address[0], &usable[0], address.shape[0], count, until,
                    self.word, self.image.swapped)
        return count

    def join(self, ChunkWalk ahead not None, ChunkWalk skipped not None):
        if (ahead.image is not self.image or ahead.first != self.first
                or ahead.limit != self.limit or ahead.top != self.top
                or ahead.align != self.align):
            raise ValueError("the other walk is over another region")
        if (self.pending or self.stop != UNTIL or skipped.stop != UNTIL
                or skipped.position != self.position or ahead.position < self.position):
            raise ValueError("the two walks do not meet")
        self.position = ahead.position
        self.pending = ahead.pending
        self.pending_size = ahead.pending_size
        self.stop = ahead.stop
        self.chunks = self.chunks + ahead.chunks - skipped.chunks
        self.free_chunks = self.free_chunks + ahead.free_chunks - skipped.free_chunks
        self.free_bytes = self.free_bytes + ahead.free_bytes - skipped.free_bytes
        self.inconsistent = self.inconsistent + ahead.inconsistent - skipped.inconsistent

    def settle(self, uint64_t position):
        if position < self.first or position > self.limit:
            raise ValueError("a walk goes on inside its region")
        self.position = position
        self.pending = 0
        self.pending_size = 0

    def resync(self, uint64_t low):
        cdef uint64_t c
        with nogil:
            c = self._resync(low, self.limit)
            if c < self.limit:
                c = self._finest(c)
        return c

    def guess(self, uint64_t low, uint64_t high):
        cdef uint64_t c
        if high > self.limit:
            high = self.limit
        with nogil:
            c = self._resync(low, high)
        return c

    def resume(self, uint64_t low):
        cdef uint64_t c, size
        cdef uint8_t* failed
        if low < self.first:
            low = self.first
        if low >= self.limit:
            return self.limit
        size = (self.limit - low) // <uint64_t>self.align // 8 + 2
        failed = <uint8_t*>calloc(size, 1)
        if failed == NULL:
            raise MemoryError
        with nogil:
            c = self._resume(self.first + align_up(low - self.first, <uint64_t>self.align), failed)
            c = self._finest(c)
        free(failed)
        return c

    def chains(self, uint64_t chunk):
        return self._chains(chunk)

    cdef uint64_t _simple_until(self, uint64_t c, Cursor* cursor, uint64_t until) noexcept nogil:
        """Return up to where chunks after c need no look at where the region's parts end."""
        cdef uint64_t end = cursor.end - self.header + 1
        if end > self.limit:
            end = self.limit
        if end > until:
            end = until
        if self.top > c and end > self.top:
            end = self.top
        return end

    cdef uint64_t _fence(self, uint64_t c, uint64_t raw) noexcept nogil:
        """Return where the fences that begin at c end, 0 if there are none."""
        cdef Cursor cursor = self.cursor
        cdef uint64_t size = raw & ~<uint64_t>FLAG_BITS, header = self.header
        cdef const uint8_t* p
        cdef int met = 0
        if size == 0:
            # Old tops smaller than a chunk leave only the terminator (it ends the heap).
            return c + header if raw == PREV_INUSE and self.limit - c == header else 0
        while size == header and self.limit - c >= header:
            met += 1
            c += header
            if c == self.limit:
                break
            p = at(self.image, &cursor, c, header)
            if p == NULL:
                break
            raw = load(p + self.word, self.word, self.image.swapped)
            size = raw & ~<uint64_t>FLAG_BITS
            if met == 1 and size == 0 and raw == PREV_INUSE and self.limit - c >= header:
                return c + header
        return c if met > 1 else 0

    cdef bint _chains(self, uint64_t c) noexcept nogil:
        """Whether a chain of consistent chunks begins at c."""
        cdef Cursor cursor = self.cursor
        cdef uint64_t raw, size, previous = 0
        cdef int k
        cdef const uint8_t* p
        for k in range(CHAIN):
            if c == self.top:
                return True
            if c >= self.limit:
                return k > 0 and c == self.limit
            p = at(self.image, &cursor, c, self.header)
            if p == NULL:
                return k >= SHORT_CHAIN
            raw = load(p + self.word, self.word, self.image.swapped)
            size = raw & ~<uint64_t>FLAG_BITS
            if previous and not raw & PREV_INUSE and (
                    load(p, self.word, self.image.swapped) != previous):
                return False
            if (size < self.minimum or size & <uint64_t>(self.align - 1) or raw & IS_MMAPPED
                    or size > self.limit - c):
                return k > 0 and self._fence(c, raw) != 0
            previous = size
            c += size
        return True

    cdef uint64_t _resume(self, uint64_t low, uint8_t* failed) noexcept nogil:
        # A chain that failed is not walked again from any of its chunks: linear in the region.
        cdef Cursor cursor = self.cursor
        cdef uint64_t c, start = low, raw, size, previous, slot
        cdef const uint8_t* p
        cdef int met
        while start < self.limit:
            c = start
            previous = 0
            met = 0
            while True:
                if c == self.top:
                    return start
                slot = (c - low) // <uint64_t>self.align
                if failed[slot >> 3] >> (slot & 7) & 1:
                    break
                if c >= self.limit:
                    break
                p = at(self.image, &cursor, c, self.header)
                if p == NULL:
                    if met >= SHORT_CHAIN:
                        return start
                    break
                raw = load(p + self.word, self.word, self.image.swapped)
                size = raw & ~<uint64_t>FLAG_BITS
                if previous and not raw & PREV_INUSE and (
                        load(p, self.word, self.image.swapped) != previous):
                    break
                if (size < self.minimum or size & <uint64_t>(self.align - 1)
                        or raw & IS_MMAPPED or size > self.limit - c):
                    if met and self._fence(c, raw):
                        return start
                    break
                failed[slot >> 3] |= <uint8_t>(1 << (slot & 7))
                met += 1
                previous = size
                c += size
            start += <uint64_t>self.align
        return self.limit

    cdef uint64_t _resync(self, uint64_t low, uint64_t high) noexcept nogil:
        """Return the first place in [low, high) where a chain begins, else `high`."""
        cdef uint64_t step = <uint64_t>self.align, c
        cdef Py_ssize_t i
        if low < self.first:
            low = self.first
        c = self.first + align_up(low - self.first, step)
        while c < high:
            if at(self.image, &self.cursor, c, self.header) == NULL:
                i = self.image.find(c, self.cursor.index)
                if i < self.image.extent_count and self.image.extents[i].start <= c:
                    i += 1  # the last bytes of an extent hold no whole header
                if i >= self.image.extent_count or self.image.extents[i].start >= high:
                    break
                c = self.first + align_up(self.image.extents[i].start - self.first, step)
                continue
            if self._chains(c):
                return c
            c += step
        return high

    cdef uint64_t _finest(self, uint64_t c) noexcept nogil:
        # The program's data may hold a number that leads far ahead into the true chain: prefer
        # the finer chain that lies inside such a chunk.
        cdef uint64_t inner
        cdef int _turn
        for _turn in range(CHAIN):
            inner = self._finer(c)
            if inner == 0:
                break
            c = inner
        return c

    cdef uint64_t _finer(self, uint64_t c) noexcept nogil:
        """Return where a chain begins inside one of the first chunks of another, or 0."""
        cdef Cursor cursor = self.cursor
        cdef uint64_t size, inner
        cdef const uint8_t* p
        cdef int _k
        for _k in range(CHAIN):
            p = at(self.image, &cursor, c, self.header)
            if p == NULL or c == self.top or c >= self.limit:
                break
            size = load(p + self.word, self.word, self.image.swapped) & ~<uint64_t>FLAG_BITS
            if size < self.minimum or size > self.limit - c or size > self.finer_left:
                break
            # All such looks together take time linear in the region.
            self.finer_left = self.finer_left - size
            inner = c + <uint64_t>self.align
            while inner < c + size - self.minimum:
                if self._nested(inner, c + size) and self._chains(inner):
                    return inner
                inner += <uint64_t>self.align
            c += size
        return 0

    cdef bint _nested(self, uint64_t c, uint64_t end) noexcept nogil:
        """Whether several consistent chunks follow one another from c, at most up to `end`."""
        cdef Cursor cursor = self.cursor
        cdef uint64_t raw, size, previous = 0
        cdef const uint8_t* p
        cdef int met = 0
        while c < end and met < NESTED:
            p = at(self.image, &cursor, c, self.header)
            if p == NULL:
                return False
            raw = load(p + self.word, self.word, self.image.swapped)
            size = raw & ~<uint64_t>FLAG_BITS
            if (size < self.minimum or size & <uint64_t>(self.align - 1) or raw & IS_MMAPPED
                    or size > end - c):
                return False
            if previous and not raw & PREV_INUSE and (
                    load(p, self.word, self.image.swapped) != previous):
                return False
            previous = size
            met += 1
            c += size
        return met == NESTED or (c == end and met >= NESTED_TO_END)


cdef inline Py_ssize_t walk_chunks(
    ChunkWalk self, uint64_t* address, uint64_t* usable, Py_ssize_t capacity, Py_ssize_t count,
    uint64_t until, int word, bint swapped,
) noexcept nogil:
    cdef uint64_t c = self.position
    cdef uint64_t previous = self.pending, previous_size = self.pending_size
    cdef uint64_t limit = self.limit, minimum = self.minimum, header = self.header
    cdef uint64_t odd_bits = (<uint64_t>(self.align - 1) & ~<uint64_t>FLAG_BITS) | IS_MMAPPED
    cdef uint64_t raw, size, after = 0, chunks = 0, free_chunks = 0, free_bytes = 0, odd = 0
    cdef uint64_t fetched = 0, simple = 0
    cdef int stop = FULL
    cdef bint arrived = False
    cdef const uint8_t* p
    cdef Cursor cursor = self.cursor
    while count < capacity:
        if c < simple:
            p = cursor.data + (c - cursor.start)
            raw = load(p + word, word, swapped)
        else:
            p = at(self.image, &cursor, c, header)
            if c == self.top:
                # What lies before the top is in use: free neighbours are merged into it.
                stop = TOP
                raw = PREV_INUSE
            elif c >= limit:
                stop = LIMIT
                break
            elif p == NULL:
                stop = MISSING
                break
            else:
                arrived = c >= until
                simple = self._simple_until(c, &cursor, until)
                raw = load(p + word, word, swapped)
        size = raw & ~<uint64_t>FLAG_BITS
        if (size < minimum or raw & odd_bits or size > limit - c) and stop == FULL:
            after = self._fence(c, raw)
            if after == 0:
                stop = BAD
                break
            stop = FENCE
            if size == 0:
                # The terminator of a heap: what stands before it is a fence too.
                previous = 0
        if previous:
            if raw & PREV_INUSE:
                address[count] = previous + header
                usable[count] = previous_size - word
                count += 1
            else:
                if p != NULL and load(p, word, swapped) != previous_size:
                    # The footer of a free chunk repeats its size.
                    if stop == FULL and not self._chains(c):
                        stop = BAD
                        break
                    odd += 1
                free_chunks += 1
                free_bytes += previous_size
        if stop == TOP:
            previous = 0
            break
        if stop == FENCE:
            previous = 0
            c = after
            break
        if arrived:
            stop = UNTIL
            previous = 0
            break
        chunks += 1
        previous = c
        previous_size = size
        c += size
        # Fetch the stream ahead; a chunk that is longer than that is jumped over.
        if fetched < c:
            fetched = c
        while fetched < c + AHEAD:
            prefetch(cursor.data + (fetched - cursor.start))
            fetched += LINE
    self.cursor = cursor
    self.position = c
    self.pending = previous
    self.pending_size = previous_size if previous else 0
    self.chunks = self.chunks + chunks
    self.free_chunks = self.free_chunks + free_chunks
    self.free_bytes = self.free_bytes + free_bytes
    self.inconsistent = self.inconsistent + odd
    self.stop = stop
    return count
