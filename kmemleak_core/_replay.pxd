"""What the two ways of replaying an allocation log share: what they count, and what they note."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    E_ALLOC = 0
    E_FREE = 1
    E_FREE_PART = 2
    E_RESIZE = 3

    A_OVERLAP = 0
    A_DOUBLE = 1
    A_INTERIOR = 2
    A_UNKNOWN = 3


cdef struct Tally:
    uint64_t count
    uint64_t nbytes
    uint64_t peak_count
    uint64_t peak_bytes
    uint64_t peak_count_event
    uint64_t peak_bytes_event
    uint64_t nulls
    uint64_t totals[4]
    uint64_t most
    uint32_t* event
    uint32_t* other


cdef struct Survey:
    # What one pass over a log tells; `bits` is all addresses or-ed together.
    uint64_t low
    uint64_t high
    uint64_t bits
    uint64_t words
    bint leaves


cdef class Outcome:
    cdef Tally tally
    cdef Py_ssize_t samples
    cdef int64_t[::1] sample_event
    cdef uint64_t[::1] sample_count
    cdef uint64_t[::1] sample_bytes
    cdef uint32_t[::1] events
    cdef uint32_t[::1] others
    cdef readonly object live


cdef Survey survey(const uint8_t[::1] kind, const uint64_t[::1] address,
                   const uint64_t[::1] size) noexcept nogil

cdef int check_events(const uint8_t[::1] kind, const uint64_t[::1] address,
                      Py_ssize_t other) except -1


cdef inline void note_peak(Tally* tally, Py_ssize_t event) noexcept nogil:
    if tally.nbytes > tally.peak_bytes:
        tally.peak_bytes = tally.nbytes
        tally.peak_bytes_event = event
    if tally.count > tally.peak_count:
        tally.peak_count = tally.count
        tally.peak_count_event = event


cdef inline void note(Tally* tally, int kind, Py_ssize_t event, uint32_t other) noexcept nogil:
    """Count an anomaly, and keep it if it is one of the first; `other` is an event plus one."""
    cdef uint64_t row = tally.totals[kind]
    tally.totals[kind] += 1
    if row < tally.most:
        tally.event[kind * tally.most + row] = <uint32_t>event
        tally.other[kind * tally.most + row] = other
