"""The state of a walk over chunks, and how all loops over an allocator's structures read words."""

from libc.stdint cimport uint8_t, uint64_t

from ._scan cimport ImageView


cdef extern from "_heap.h":
    uint64_t load "kmemleak_load"(const uint8_t* p, int word, bint swapped) nogil
    void prefetch "kmemleak_prefetch"(const void* p) nogil


cdef struct Cursor:
    # The extent that was met last: chunks mostly lie in the same one.
    uint64_t start
    uint64_t end
    const uint8_t* data
    Py_ssize_t index


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
    cdef ImageView image
    cdef Cursor cursor
    cdef int word
    cdef uint64_t header
    cdef uint64_t minimum
    cdef int align
    cdef uint64_t first
    cdef uint64_t finer_left
    cdef readonly uint64_t position
    cdef readonly uint64_t limit
    cdef readonly uint64_t top
    cdef readonly uint64_t pending
    cdef readonly uint64_t pending_size
    cdef readonly int stop
    cdef readonly uint64_t chunks
    cdef readonly uint64_t free_chunks
    cdef readonly uint64_t free_bytes
    cdef readonly uint64_t inconsistent

    cdef uint64_t _simple_until(self, uint64_t c, Cursor* cursor, uint64_t until) noexcept nogil
    cdef uint64_t _fence(self, uint64_t c, uint64_t raw) noexcept nogil
    cdef bint _chains(self, uint64_t c) noexcept nogil
    cdef uint64_t _resume(self, uint64_t low, uint8_t* failed) noexcept nogil
    cdef uint64_t _resync(self, uint64_t low, uint64_t high) noexcept nogil
    cdef uint64_t _finest(self, uint64_t c) noexcept nogil
    cdef uint64_t _finer(self, uint64_t c) noexcept nogil
    cdef bint _nested(self, uint64_t c, uint64_t end) noexcept nogil
