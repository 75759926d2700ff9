# cython: embedsignature=False
# Addresses wrap around and divisors are never 0: checked arithmetic would only need the GIL.
# cython: overflowcheck=False, cdivision=True
"""The loops over an allocator's own structures: chains of chunks, mapped chunks, free lists."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ._scan cimport ImageView

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define kmemleak_prefetch(p) __builtin_prefetch((p), 0, 3)
    #define kmemleak_swap64(v) __builtin_bswap64(v)
    #define kmemleak_swap32(v) __builtin_bswap32(v)
    #else
    #error "GCC or clang is needed"
    #endif
    """
    void kmemleak_prefetch(const void*) nogil
    uint64_t kmemleak_swap64(uint64_t) nogil
    uint32_t kmemleak_swap32(uint32_t) nogil

# Why a walk stopped.
STOP_FULL = 0
STOP_TOP = 1
STOP_FENCE = 2
STOP_LIMIT = 3
STOP_MISSING = 4
STOP_BAD = 5

# Why a free list ended.
LIST_END = 0
LIST_LOOP = 1
LIST_BAD = 2
LIST_FULL = 3

cdef enum:
    FULL = 0
    TOP = 1
    FENCE = 2
    LIMIT = 3
    MISSING = 4
    BAD = 5

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


cdef inline uint64_t load(const uint8_t* p, int word, bint swapped) noexcept nogil:
    cdef uint64_t wide
    cdef uint32_t narrow
    if word == 8:
        memcpy(&wide, p, 8)
        return kmemleak_swap64(wide) if swapped else wide
    memcpy(&narrow, p, 4)
    return kmemleak_swap32(narrow) if swapped else narrow


cdef inline const uint8_t* at(
    ImageView image, Cursor* cursor, uint64_t address, uint64_t size
) noexcept nogil:
    """Return where `size` bytes of one extent lie, or NULL."""
    if not (cursor.start <= address < cursor.end):
        cursor.index = image.find(address, cursor.index)
        if (cursor.index >= image.extent_count
                or image.extents[cursor.index].start > address):
            return NULL
        cursor.start = image.extents[cursor.index].start
        cursor.end = image.extents[cursor.index].end
        cursor.data = image.extents[cursor.index].data
    if cursor.end - address < size:
        return NULL
    return cursor.data + (address - cursor.start)


cdef inline void reset(Cursor* cursor) noexcept nogil:
    cursor.start = 0
    cursor.end = 0
    cursor.data = NULL
    cursor.index = 0


cdef inline uint64_t align_up(uint64_t value, uint64_t step) noexcept nogil:
    cdef uint64_t rest = value % step
    return value if rest == 0 else value + (step - rest)


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

    def run(self, uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count):
        if not (0 <= count <= address.shape[0] and usable.shape[0] == address.shape[0]):
            raise ValueError("count lies outside the arrays")
        if count == address.shape[0]:
            self.stop = FULL
            return count
        with nogil:
            count = self._run(&address[0], &usable[0], address.shape[0], count)
        return count

    def settle(self, uint64_t position):
        if position < self.first or position > self.limit:
            raise ValueError("a walk goes on inside its region")
        self.position = position
        self.pending = 0
        self.pending_size = 0

    def resync(self, uint64_t low):
        cdef uint64_t c
        with nogil:
            c = self._resync(low)
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

    cdef Py_ssize_t _run(
        self, uint64_t* address, uint64_t* usable, Py_ssize_t capacity, Py_ssize_t count
    ) noexcept nogil:
        cdef uint64_t c = self.position
        cdef uint64_t previous = self.pending, previous_size = self.pending_size
        cdef uint64_t limit = self.limit, top = self.top, minimum = self.minimum
        cdef uint64_t mask = <uint64_t>(self.align - 1), header = self.header
        cdef uint64_t raw, size, after, chunks = 0, free_chunks = 0, free_bytes = 0, odd = 0
        cdef uint64_t fetched = 0, until
        cdef int word = self.word, stop = FULL
        cdef bint swapped = self.image.swapped
        cdef const uint8_t* p
        cdef Cursor cursor = self.cursor
        while count < capacity:
            p = at(self.image, &cursor, c, header)
            if c == top:
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
                raw = load(p + word, word, swapped)
                size = raw & ~<uint64_t>FLAG_BITS
                if size < minimum or size & mask or raw & IS_MMAPPED or size > limit - c:
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
            chunks += 1
            previous = c
            previous_size = size
            c += size
            # Fetch the stream ahead; a chunk that is longer than that is jumped over.
            until = c + AHEAD
            if until > cursor.end:
                until = cursor.end
            if fetched < c:
                fetched = c
            while fetched < until:
                kmemleak_prefetch(cursor.data + (fetched - cursor.start))
                fetched += 64
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

    cdef uint64_t _resync(self, uint64_t low) noexcept nogil:
        cdef uint64_t step = <uint64_t>self.align, c
        cdef Py_ssize_t i
        if low < self.first:
            low = self.first
        c = self.first + align_up(low - self.first, step)
        while c < self.limit:
            if at(self.image, &self.cursor, c, self.header) == NULL:
                i = self.image.find(c, self.cursor.index)
                if i < self.image.extent_count and self.image.extents[i].start <= c:
                    i += 1  # the last bytes of an extent hold no whole header
                if i >= self.image.extent_count or self.image.extents[i].start >= self.limit:
                    break
                c = self.first + align_up(self.image.extents[i].start - self.first, step)
                continue
            if self._chains(c):
                return self._finest(c)
            c += step
        return self.limit

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


def find_linked(
    ImageView image not None, uint64_t start, uint64_t end, uint64_t step,
    uint64_t first, uint64_t first_delta, uint64_t second, uint64_t second_delta,
    Py_ssize_t limit,
):
    cdef uint64_t low, high, p, reach, mask
    cdef Py_ssize_t i = image.find(start, 0), count = 0
    cdef const uint8_t* data
    cdef int word = image.word_size
    cdef bint swapped = image.swapped
    cdef uint64_t[16] hits
    cdef int met
    reach = (first if first > second else second) + word
    mask = ~<uint64_t>0 if word == 8 else 0xffffffff
    found = []
    while i < image.extent_count and image.extents[i].start < end and count < limit:
        low = align_up(image.extents[i].start if image.extents[i].start > start else start, step)
        high = image.extents[i].end if image.extents[i].end < end else end
        data = image.extents[i].data
        p = low
        while True:
            met = 0
            with nogil:
                while p < high and high - p >= reach and met < 16:
                    if (load(data + (p - image.extents[i].start) + first, word, swapped)
                            == ((p + first_delta) & mask)
                            and load(data + (p - image.extents[i].start) + second, word, swapped)
                            == ((p + second_delta) & mask)):
                        hits[met] = p
                        met += 1
                    p += step
            found.extend([hits[k] for k in range(met)])
            count += met
            if met < 16 or count >= limit:
                break
        i += 1
    return found[:limit]


def find_mapped(
    ImageView image not None, uint64_t start, uint64_t end, uint64_t page, uint64_t trailer,
    int align, uint64_t[::1] base, uint64_t[::1] chunk, uint64_t[::1] length,
):
    cdef Py_ssize_t count = 0
    # Not 0 where a page start does not make an aligned address behind the header (i386).
    cdef uint64_t shift
    if align not in (8, 16):
        raise ValueError("malloc's alignment is 8 or 16")
    shift = align_up(<uint64_t>(2 * image.word_size), <uint64_t>align)
    shift -= <uint64_t>(2 * image.word_size)
    if page < 4096 or page & (page - 1):
        raise ValueError("a page is a power of two, at least 4096 bytes")
    if chunk.shape[0] != base.shape[0] or length.shape[0] != base.shape[0]:
        raise ValueError("arrays of one length are wanted")
    if base.shape[0] == 0:
        return 0
    with nogil:
        count = _find_mapped(
            image, start, end, page, trailer, shift, &base[0], &chunk[0], &length[0], base.shape[0])
    return count


cdef Py_ssize_t _find_mapped(
    ImageView image, uint64_t start, uint64_t end, uint64_t page, uint64_t trailer,
    uint64_t shift, uint64_t* base, uint64_t* chunk, uint64_t* length, Py_ssize_t capacity,
) noexcept nogil:
    cdef Cursor cursor
    cdef uint64_t p = align_up(start, page), total, raw, previous
    cdef int word = image.word_size
    cdef bint swapped = image.swapped
    cdef const uint8_t* data
    cdef Py_ssize_t count = 0
    # Since 2.43 the lowest bit of the offset says that huge pages back the mapping.
    cdef uint64_t offset_mask = ~<uint64_t>1 if trailer else ~<uint64_t>0
    reset(&cursor)
    while p >= start and p < end and count < capacity:
        data = at(image, &cursor, p, 2 * word + shift)
        if data == NULL:
            cursor.index = image.find(p, cursor.index)
            if cursor.index >= image.extent_count:
                break
            if image.extents[cursor.index].start <= p:
                p += page
            else:
                p = align_up(image.extents[cursor.index].start, page)
            reset(&cursor)
            continue
        previous = load(data + shift, word, swapped) & offset_mask
        raw = load(data + shift + word, word, swapped)
        total = (raw & ~<uint64_t>FLAG_BITS) + trailer + shift
        if (previous != shift or (raw & FLAG_BITS) != IS_MMAPPED or total < page
                or total & (page - 1) or total > end - p):
            p += page
            continue
        base[count] = p
        chunk[count] = _aligned_chunk(image, cursor, p, total, trailer, shift, offset_mask)
        length[count] = total
        count += 1
        p += total
    return count


cdef uint64_t _aligned_chunk(
    ImageView image, Cursor cursor, uint64_t p, uint64_t total, uint64_t trailer,
    uint64_t shift, uint64_t offset_mask,
) noexcept nogil:
    """Return the chunk that memalign made inside a mapping, the first one if it did not."""
    cdef uint64_t found = p + shift, step = 32, c, raw
    cdef int word = image.word_size, _turn
    cdef bint swapped = image.swapped
    cdef uint64_t header = <uint64_t>(2 * word)
    cdef const uint8_t* data
    while step < total:
        c = align_up(p + header, step) - header
        for _turn in range(2):
            if c > p + shift and c - p < total - header:
                data = at(image, &cursor, c, header)
                if data != NULL:
                    raw = load(data + word, word, swapped)
                    if ((raw & FLAG_BITS) == IS_MMAPPED
                            and (load(data, word, swapped) & offset_mask) == c - p
                            and (raw & ~<uint64_t>FLAG_BITS) + trailer == total - (c - p)):
                        found = c
            c += step
        step <<= 1
    return found


def follow(
    ImageView image not None, uint64_t head, uint64_t link, bint mangled, uint64_t[::1] out
):
    cdef Cursor cursor
    cdef uint64_t node = head, value, tortoise = 0
    cdef Py_ssize_t count = 0, capacity = out.shape[0], lap = 1
    cdef int word = image.word_size, stop = 0
    cdef const uint8_t* data
    reset(&cursor)
    with nogil:
        while node != 0:
            if node == tortoise:
                stop = 1
                break
            if count == capacity:
                stop = 3
                break
            data = at(image, &cursor, node + link, word) if node + link >= node else NULL
            if data == NULL:
                stop = 2
                break
            out[count] = node
            count += 1
            if count == lap:
                # Brent: a loop meets the node that was marked last.
                tortoise = node
                lap *= 2
            value = load(data, word, image.swapped)
            if mangled:
                value ^= (node + link) >> 12
            node = value
    return count, stop


def merge(
    uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count,
    const uint64_t[::1] more_address, const uint64_t[::1] more_usable,
):
    cdef Py_ssize_t j = more_address.shape[0], i = count, k = count + j
    if (count < 0 or k > address.shape[0] or usable.shape[0] != address.shape[0]
            or more_usable.shape[0] != j):
        raise ValueError("the arrays do not fit one another")
    with nogil:
        while j > 0:
            if i > 0 and address[i - 1] > more_address[j - 1]:
                i -= 1
                k -= 1
                address[k] = address[i]
                usable[k] = usable[i]
            else:
                j -= 1
                k -= 1
                address[k] = more_address[j]
                usable[k] = more_usable[j]
    return count + more_address.shape[0]


def remove(
    uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count, const uint64_t[::1] gone
):
    cdef Py_ssize_t i, k = 0, j = 0, n = gone.shape[0]
    if not (0 <= count <= address.shape[0] and usable.shape[0] == address.shape[0]):
        raise ValueError("count lies outside the arrays")
    with nogil:
        for i in range(count):
            while j < n and gone[j] < address[i]:
                j += 1
            if j < n and gone[j] == address[i]:
                continue
            address[k] = address[i]
            usable[k] = usable[i]
            k += 1
    return k
