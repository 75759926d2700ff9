# cython: embedsignature=False
"""The engine: finds the words of an image that point into objects, and marks from the roots."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef class ImageView:

    def __cinit__(self, segments, int word_size, bint big_endian):
        cdef Py_ssize_t i, n = len(segments)
        cdef const uint8_t[::1] data
        cdef uint64_t address
        self.extents = <Extent*>malloc((n + 1) * sizeof(Extent))
        if self.extents == NULL:
            raise MemoryError
        self.word_size = word_size
        self.swapped = big_endian != _host_is_big_endian()
        keep = []
        for i in range(n):
            address, data = segments[i]
            if data.shape[0] == 0:
                raise ValueError("an empty segment")
            if i and address < self.extents[i - 1].end:
                raise ValueError("segments are not sorted or overlap")
            self.extents[i].start = address
            self.extents[i].end = address + <uint64_t>data.shape[0]
            if self.extents[i].end <= address:
                raise ValueError("a segment leaves the address space")
            self.extents[i].data = &data[0]
            keep.append(data)
        self.extent_count = n
        self.keep = keep

    def __dealloc__(self):
        free(self.extents)

    cdef Py_ssize_t find(self, uint64_t address, Py_ssize_t hint) noexcept nogil:
        cdef Py_ssize_t low, high, middle
        if 0 <= hint < self.extent_count and self.extents[hint].start <= address:
            if address < self.extents[hint].end:
                return hint
            if hint + 1 == self.extent_count or address < self.extents[hint + 1].end:
                return hint + 1
        low = 0
        high = self.extent_count
        while low < high:
            middle = (low + high) >> 1
            if self.extents[middle].end <= address:
                low = middle + 1
            else:
                high = middle
        return low

    cdef uint64_t gather(self, uint64_t address, void* out, uint64_t size) noexcept nogil:
        cdef uint64_t done = 0, part
        cdef Py_ssize_t i = self.find(address, 0)
        while done < size and i < self.extent_count and self.extents[i].start <= address:
            part = self.extents[i].end - address
            if part > size - done:
                part = size - done
            memcpy(<uint8_t*>out + done, self.extents[i].data + (address - self.extents[i].start),
                   part)
            done += part
            address += part
            i += 1
        return done


cdef bint _host_is_big_endian() noexcept:
    cdef uint64_t one = 1
    return (<uint8_t*>&one)[0] == 0
