"""The table of live objects as C sees it.

Hold `lock` around every cdef call, and never call Python with it held. None of them needs the GIL.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t


cdef struct Record:
    # One slot. A free one has sequence 0, and the next free slot + 1 for an address.
    uint64_t address
    uint64_t size
    uint64_t sequence
    uint32_t checksum
    int32_t min_count
    int32_t count
    uint32_t birth
    uint32_t trace
    uint16_t flags
    uint16_t sightings


cdef struct Block:
    # A run of the index: entries sorted by start; `slots` lies behind `starts` in one allocation.
    uint64_t* starts
    uint32_t* slots
    uint32_t count
    uint32_t room


cdef struct Place:
    # An entry of a block of the index; block -1 is before all of them.
    Py_ssize_t block
    Py_ssize_t entry


# What `add` returns when it can do nothing.
cdef enum Refusal:
    NO_MEMORY = -0x7FFFFFFFFFFFFFFF
    OUTSIDE = -0x7FFFFFFFFFFFFFFE


cdef class Slab:
    cdef char* data
    cdef readonly size_t reserved
    cdef readonly size_t committed

    cdef int grow(self) noexcept nogil


cdef class ObjectStore:
    cdef cython.pymutex lock
    cdef Slab slab
    # Slots [0, used) were ever in use; they never move.
    cdef Record* rows
    cdef uint64_t used
    cdef uint64_t free_slot
    cdef uint64_t sequence
    cdef Py_ssize_t live
    cdef uint64_t low
    cdef uint64_t high
    # The index: firsts[i] is blocks[i].starts[0].
    cdef uint64_t* firsts
    cdef Block* blocks
    cdef Py_ssize_t block_count
    cdef Py_ssize_t block_room
    cdef size_t entry_room
    # Where the last call ended: the next one is often beside it.
    cdef Place last

    # The new slot; or -1 - slot of the lowest object that is in the way; or a Refusal.
    cdef int64_t add(self, uint64_t address, uint64_t size, int32_t min_count, uint16_t flags,
                     uint32_t birth, uint32_t trace) noexcept nogil
    # Slot of the object that holds the address, or (exact) starts there; -1 if there is none.
    cdef int64_t look(self, uint64_t address, bint exact) noexcept nogil
    # Whether the slot held that object (any, for sequence 0), which is gone now.
    cdef bint drop(self, uint64_t slot, uint64_t sequence) noexcept nogil
    cdef bint holds(self, uint64_t slot, uint64_t sequence) noexcept nogil

    cdef void locate(self, uint64_t address) noexcept nogil
    # Asks for the cache lines that calls with those addresses will read; guesses where they lie.
    cdef void foresee(self, const uint64_t* address, Py_ssize_t count,
                      Place* guess) noexcept nogil
    cdef int enter(self, uint64_t address, uint32_t slot) noexcept nogil
    cdef void leave(self) noexcept nogil
    cdef int open_block(self, Py_ssize_t at, uint32_t room) noexcept nogil
    cdef void close_block(self, Py_ssize_t at) noexcept nogil
    cdef int split(self, Py_ssize_t at) noexcept nogil
    cdef void join(self, Py_ssize_t at) noexcept nogil
    cdef int set_room(self, Block* block, uint32_t room) noexcept nogil
