"""The word scan's types, for the extensions that read images or look at what is found."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ._index cimport AddressIndex


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


# One sequential pass over ranges of memory: candidates are collected, resolved together, and
# handed to emit(), which a subclass overrides. Ranges are r of start[r], size[r]; owner[r] is the
# row that one is part of, −1 for none; without the array range r is row r.
cdef class _Pass:
    cdef ImageView view
    cdef AddressIndex index
    cdef const uint64_t[::1] start
    cdef const uint64_t[::1] size
    cdef const int64_t[::1] owner
    cdef kml_filter filter
    cdef unsigned step_shift
    cdef Py_ssize_t hint
    cdef Py_ssize_t pending
    cdef uint64_t values[2 * KML_PIECE + KML_SLACK]
    cdef uint32_t positions[2 * KML_PIECE + KML_SLACK]
    cdef uint64_t places[2 * KML_PIECE + KML_SLACK]
    cdef uint32_t rows[2 * KML_PIECE + KML_SLACK]
    cdef uint32_t targets[2 * KML_PIECE + KML_SLACK]
    cdef uint32_t sources[2 * KML_PIECE + KML_SLACK]
    cdef uint32_t kept[2 * KML_PIECE + KML_SLACK]
    cdef uint64_t words, candidates, hits, own, missing

    # Scans ranges [first, last); candidates may be left pending. −1: out of memory.
    cdef int scan(self, Py_ssize_t first, Py_ssize_t last) noexcept nogil

    # Resolves and emits what is pending.
    cdef int flush(self) noexcept nogil

    # Takes what refers to an object other than its own: hit i has targets[i], sources[i] (the
    # row that holds it) and, at k = kept[i], places[k], values[k] and rows[k] (the range).
    cdef int emit(self, Py_ssize_t count) noexcept nogil

    cdef Py_ssize_t sift(self, Py_ssize_t count) noexcept nogil
    cdef Py_ssize_t join(self, Py_ssize_t r, Py_ssize_t last,
                         uint64_t* begin, uint64_t* run_end) noexcept nogil
    cdef int scan_run(self, uint64_t begin, uint64_t end, Py_ssize_t r,
                      Py_ssize_t until) noexcept nogil
    cdef int scan_range(self, Py_ssize_t r) noexcept nogil
    cdef int take_word(self, const uint8_t* word, uint64_t at, Py_ssize_t r) noexcept nogil
