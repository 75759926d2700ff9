"""Turns SLUB's freelists into marks on the free slots of slabs, and the others into addresses."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._scan cimport ImageView

import numpy as np

cdef extern from *:
    """
    #define KML_BSWAP64(x) __builtin_bswap64(x)
    #define KML_PREFETCH(x) __builtin_prefetch(x)
    """
    uint64_t KML_BSWAP64(uint64_t) noexcept nogil
    void KML_PREFETCH(const void*) noexcept nogil

#: How a freelist can end.
OK = 0
OUTSIDE = 1  # it leads out of its slab
ASKEW = 2  # it leads between two slots
TWICE = 3  # it leads to a slot that is free already
ABSENT = 4  # it leads through memory that the image lacks

cdef enum:
    _OK = 0
    _OUTSIDE = 1
    _ASKEW = 2
    _TWICE = 3
    _ABSENT = 4
    # Lists that are followed side by side: each step of one waits for memory.
    _LANES = 16


cdef struct Lane:
    Py_ssize_t list
    uint64_t base, stride, slots, offset, key
    uint64_t where  # of the pointer to the next object, which lies at `link`
    const uint8_t* link
    uint8_t* free


cdef class Slabs:
    # Columns of n slabs; slab k has slots [first[k], first[k + 1]) of all.
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t slots
    cdef const uint64_t[::1] base
    cdef const uint32_t[::1] stride
    cdef const int64_t[::1] first
    cdef uint8_t[::1] free

    def __cinit__(self, base, stride, slots):
        cdef Py_ssize_t k
        cdef const uint32_t[::1] sizes = np.ascontiguousarray(stride, np.uint32)
        cdef const uint64_t[::1] bases = np.ascontiguousarray(base, np.uint64)
        counts = np.asarray(slots, np.int64)
        if not bases.shape[0] == sizes.shape[0] == counts.size:
            raise ValueError("the columns of the slabs differ in length")
        if counts.size and counts.min() < 0:
            raise ValueError("a slab has fewer than no slots")
        for k in range(sizes.shape[0]):
            if sizes[k] == 0:
                raise ValueError("a slab's slots are of no size")
        self.count = counts.size
        self.base = bases
        self.stride = sizes
        self.first = np.concatenate(([0], np.cumsum(counts)))
        self.slots = self.first[self.count]
        self.free = np.zeros(self.slots, np.uint8)

    def walk(self, ImageView view, head, slab, offset, random, bint swab):
        cdef const uint64_t[::1] heads = np.ascontiguousarray(head, np.uint64)
        cdef const int64_t[::1] slabs = np.ascontiguousarray(slab, np.int64)
        cdef const uint32_t[::1] offsets = np.ascontiguousarray(offset, np.uint32)
        cdef const uint64_t[::1] keys = np.ascontiguousarray(random, np.uint64)
        cdef Py_ssize_t i, n = heads.shape[0]
        if not n == slabs.shape[0] == offsets.shape[0] == keys.shape[0]:
            raise ValueError("the columns of the freelists differ in length")
        if view.word_size != 8:
            raise ValueError("pointers of 8 bytes are wanted")
        for i in range(n):
            if not 0 <= slabs[i] < self.count:
                raise ValueError("a freelist's slab does not exist")
        length = np.zeros(n, np.int64)
        problem = np.zeros(n, np.uint8)
        cdef int64_t[::1] lengths = length
        cdef uint8_t[::1] problems = problem
        cdef Lane[_LANES] lanes
        cdef Lane* lane
        cdef Py_ssize_t hint = 0, active = 0, following = 0, k, j
        cdef uint64_t at
        cdef int ended
        with nogil:
            while True:
                while active < _LANES and following < n:
                    if heads[following]:
                        lane = &lanes[active]
                        k = slabs[following]
                        lane.list = following
                        lane.base = self.base[k]
                        lane.stride = self.stride[k]
                        lane.slots = self.first[k + 1] - self.first[k]
                        lane.offset = offsets[following]
                        lane.key = keys[following]
                        lane.free = &self.free[0] + self.first[k] if lane.slots else NULL
                        ended = self.step(view, lane, heads[following], &hint,
                                          &lengths[following])
                        if ended == _OK:
                            active += 1
                        else:
                            problems[following] = ended
                    following += 1
                if active == 0:
                    break
                j = 0
                while j < active:
                    lane = &lanes[j]
                    memcpy(&at, lane.link, 8)
                    if view.swapped:
                        at = KML_BSWAP64(at)
                    if lane.key:
                        at ^= lane.key ^ (KML_BSWAP64(lane.where) if swab else lane.where)
                    ended = _OK
                    if at:
                        ended = self.step(view, lane, at, &hint, &lengths[lane.list])
                        if ended == _OK:
                            j += 1
                            continue
                    problems[lane.list] = ended
                    active -= 1
                    lanes[j] = lanes[active]
        return length, problem

    cdef int step(self, ImageView view, Lane* lane, uint64_t at, Py_ssize_t* hint,
                  int64_t* length) noexcept nogil:
        # Every step marks a slot that was not: a list ends after as many as its slab has.
        cdef uint64_t away = at - lane.base, slot = away // lane.stride
        cdef Py_ssize_t e
        if slot >= lane.slots:
            return _OUTSIDE
        if slot * lane.stride != away:
            return _ASKEW
        if lane.free[slot]:
            return _TWICE
        lane.free[slot] = 1
        length[0] += 1
        lane.where = at + lane.offset
        e = view.find(lane.where, hint[0])
        if e == view.extent_count or view.extents[e].start > lane.where \
                or view.extents[e].end - lane.where < 8:
            return _ABSENT
        hint[0] = e
        lane.link = view.extents[e].data + (lane.where - view.extents[e].start)
        KML_PREFETCH(lane.link)
        return _OK

    def forget(self):
        self.free[:] = 0

    def mark(self, slot):
        cdef const int64_t[::1] slots = np.ascontiguousarray(slot, np.int64)
        cdef Py_ssize_t i, marked = 0
        for i in range(slots.shape[0]):
            if 0 <= slots[i] < self.slots and not self.free[slots[i]]:
                self.free[slots[i]] = 1
                marked += 1
        return marked

    def find(self, address):
        cdef const uint64_t[::1] wanted = np.ascontiguousarray(address, np.uint64)
        cdef Py_ssize_t i, low, high, middle
        cdef uint64_t away, slot
        found = np.full(wanted.shape[0], -1, np.int64)
        cdef int64_t[::1] out = found
        with nogil:
            for i in range(wanted.shape[0]):
                low = 0
                high = self.count
                while low < high:
                    middle = (low + high) >> 1
                    if self.base[middle] <= wanted[i]:
                        low = middle + 1
                    else:
                        high = middle
                if low == 0:
                    continue
                low -= 1
                away = wanted[i] - self.base[low]
                slot = away // self.stride[low]
                if slot < <uint64_t>(self.first[low + 1] - self.first[low]) \
                        and slot * self.stride[low] == away:
                    out[i] = self.first[low] + <int64_t>slot
        return found

    def allocated(self):
        cdef Py_ssize_t k, n = 0
        cdef int64_t i, begin, end
        cdef uint64_t at
        with nogil:
            for i in range(self.slots):
                n += not self.free[i]
        address = np.empty(n, np.uint64)
        count = np.zeros(self.count, np.int64)
        cdef uint64_t[::1] addresses = address
        cdef int64_t[::1] counts = count
        n = 0
        with nogil:
            for k in range(self.count):
                begin = self.first[k]
                end = self.first[k + 1]
                at = self.base[k]
                for i in range(begin, end):
                    if not self.free[i]:
                        addresses[n] = at
                        n += 1
                        counts[k] += 1
                    at += self.stride[k]
        return address, count

    def free_slots(self):
        return np.asarray(self.free).view(bool)
