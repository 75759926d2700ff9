"""The engine's types, for the extensions that read images or look addresses up."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef struct Extent:
    # One segment as C sees it: bytes [start, end) lie at data.
    uint64_t start
    uint64_t end
    const uint8_t* data


cdef class ImageView:
    cdef Extent* extents
    cdef readonly Py_ssize_t extent_count
    cdef readonly int word_size
    cdef readonly bint swapped
    cdef object keep

    # Index of the extent that holds an address, else of the next one after it
    # (extent_count if there is none). `hint` is tried first.
    cdef Py_ssize_t find(self, uint64_t address, Py_ssize_t hint) noexcept nogil

    # Copies up to `size` bytes across adjoining extents; returns how many there were.
    cdef uint64_t gather(self, uint64_t address, void* out, uint64_t size) noexcept nogil


cdef class AddressIndex:
    cdef readonly uint64_t low
    cdef readonly uint64_t span
    cdef readonly bint inclusive_end
    cdef readonly bint interior
    cdef const uint64_t[::1] starts
    cdef const uint64_t[::1] sizes
    cdef const uint8_t[::1] flags
    cdef uint32_t* top
    cdef uint32_t* pages
    cdef uint64_t base
    cdef uint64_t regions
    cdef uint64_t page_entries

    # Turns values in [low, low + span] into targets (see _scan.pyi); any others give NONE.
    cdef void resolve(self, const uint64_t* values, uint32_t* targets,
                      Py_ssize_t count) noexcept nogil

    cdef uint64_t limit_of(self, Py_ssize_t row) noexcept nogil
    cdef int build_directory(self) except -1
    cdef uint32_t judge(self, Py_ssize_t row, uint64_t value) noexcept nogil
    cdef uint32_t resolve_by_search(self, uint64_t value) noexcept nogil
    cdef void resolve_piece(self, const uint64_t* values, uint32_t* targets,
                            Py_ssize_t count) noexcept nogil
