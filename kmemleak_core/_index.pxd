"""The address index's type, for the extensions that look addresses up."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "_index.h" nogil:
    ctypedef struct kml_line:
        uint32_t rank
    ctypedef struct kml_region:
        uint32_t line
        uint32_t mask
    ctypedef struct kml_ranks:
        const uint64_t* starts
        const uint64_t* sizes
        size_t count
        uint64_t base
        size_t regions
        kml_region* top
        kml_line* lines
        size_t line_count
        unsigned shift
        int inclusive_end
        int interior
    # Parts of a target; see _index.pyi.
    const uint32_t NONE "KML_NONE"
    const uint32_t INTERIOR "KML_INTERIOR"
    const uint32_t ROW_MASK "KML_ROW_MASK"
    enum:
        ROW_BITS "KML_ROW_BITS"


cdef class AddressIndex:
    cdef readonly uint64_t low
    cdef readonly uint64_t span
    cdef readonly bint inclusive_end
    cdef readonly bint interior
    cdef const uint64_t[::1] starts
    cdef const uint64_t[::1] sizes
    cdef const uint8_t[::1] flags
    cdef kml_ranks ranks
    cdef uint32_t* top
    cdef uint32_t* pages
    cdef uint64_t base
    cdef uint64_t regions
    cdef uint64_t page_entries

    # Turns values into targets (see the stub).
    cdef void resolve(self, const uint64_t* values, uint32_t* targets,
                      Py_ssize_t count) noexcept nogil

    cdef uint64_t limit_of(self, Py_ssize_t row) noexcept nogil
    cdef uint32_t judge(self, Py_ssize_t row, uint64_t value) noexcept nogil
    cdef bint check(self, uint64_t* alignment, Py_ssize_t* bad) noexcept nogil
    cdef bint build_ranks(self, uint64_t alignment, int threads) except -1
    cdef bint build_directory(self) except -1
    cdef void resolve_by_ranks(self, const uint64_t* values, uint32_t* targets,
                               Py_ssize_t count) noexcept nogil
    cdef void resolve_by_directory(self, const uint64_t* values, uint32_t* targets,
                                   Py_ssize_t count) noexcept nogil
    cdef uint32_t resolve_by_search(self, uint64_t value) noexcept nogil


# Picks the resolver: `plain` is the one that every processor has.
cdef void choose_resolver(bint plain) noexcept
