"""The state of a walk over chunks."""

from libc.stdint cimport uint8_t, uint64_t

from ._scan cimport ImageView


cdef struct Cursor:
    # The extent that was met last: chunks mostly lie in the same one.
    uint64_t start
    uint64_t end
    const uint8_t* data
    Py_ssize_t index


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

    cdef Py_ssize_t _run(
        self, uint64_t* address, uint64_t* usable, Py_ssize_t capacity, Py_ssize_t count
    ) noexcept nogil
    cdef uint64_t _fence(self, uint64_t c, uint64_t raw) noexcept nogil
    cdef bint _chains(self, uint64_t c) noexcept nogil
    cdef uint64_t _resume(self, uint64_t low, uint8_t* failed) noexcept nogil
    cdef uint64_t _resync(self, uint64_t low) noexcept nogil
    cdef uint64_t _finest(self, uint64_t c) noexcept nogil
    cdef uint64_t _finer(self, uint64_t c) noexcept nogil
    cdef bint _nested(self, uint64_t c, uint64_t end) noexcept nogil
