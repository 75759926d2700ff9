# cython: embedsignature=False
# Addresses wrap around on purpose: checked arithmetic would only need the GIL.
# cython: overflowcheck=False
"""The loops over a kernel's structures: members of many at a time, and the links of lists."""

import numpy as np

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from ._heap cimport Cursor, at, load, prefetch, reset
from ._scan cimport ImageView

# How a walk along a list ended.
LIST_ENDED = 0
LIST_LOOPS = 1
LIST_LEAVES = 2
LIST_TOO_LONG = 3

cdef enum:
    ENDED = 0
    LOOPS = 1
    LEAVES = 2
    TOO_LONG = 3
    NO_MEMORY = 4

    # Structures that are fetched ahead before any of their members is read.
    BLOCK = 64
    LINE = 64
    # Elements that there is room for at first.
    ROOM = 1 << 10


cdef struct Buffer:
    uint64_t* data
    Py_ssize_t size
    Py_ssize_t room


def read_members(
    ImageView view not None, const uint64_t[::1] address, const uint64_t[::1] offset,
    const uint8_t[::1] size, uint64_t[:, ::1] values, uint8_t[:, ::1] present
):
    cdef Py_ssize_t n = address.shape[0], members = offset.shape[0], first, last, i, k
    cdef uint64_t low = ~<uint64_t>0, high = 0
    cdef const uint8_t* p
    cdef const uint8_t* found[BLOCK]
    cdef Cursor cursor
    if (size.shape[0] != members or values.shape[0] != members or present.shape[0] != members
            or values.shape[1] != n or present.shape[1] != n):
        raise ValueError("the arrays have different shapes")
    for k in range(members):
        if size[k] not in (1, 2, 4, 8):
            raise ValueError("a number has 1, 2, 4 or 8 bytes")
        if offset[k] > <uint64_t>1 << 32:
            raise ValueError("an offset beyond any structure")
        low = min(low, offset[k])
        high = max(high, offset[k] + size[k])
    if members == 0:
        return
    with nogil:
        reset(&cursor)
        first = 0
        while first < n:
            last = min(first + BLOCK, n)
            for i in range(first, last):
                p = at(view, &cursor, address[i] + low, high - low)
                found[i - first] = p
                if p != NULL:
                    for k in range(members):
                        prefetch(p + (offset[k] - low))
            for k in range(members):
                for i in range(first, last):
                    p = found[i - first]
                    if p != NULL:
                        values[k, i] = number(p + (offset[k] - low), size[k], view.swapped)
                        present[k, i] = 1
                    else:
                        present[k, i] = gather_number(
                            view, address[i] + offset[k], size[k], &values[k, i])
            first = last


def read_bytes(
    ImageView view not None, const uint64_t[::1] address, uint8_t[:, ::1] out,
    uint8_t[::1] present
):
    cdef Py_ssize_t n = address.shape[0], i, first, last
    cdef uint64_t size = <uint64_t>out.shape[1], line
    cdef const uint8_t* found[BLOCK]
    cdef const uint8_t* p
    cdef Cursor cursor
    if out.shape[0] != n or present.shape[0] != n:
        raise ValueError("the arrays have different shapes")
    if n == 0 or size == 0:
        present[:] = 1
        return
    with nogil:
        reset(&cursor)
        first = 0
        while first < n:
            last = min(first + BLOCK, n)
            for i in range(first, last):
                p = at(view, &cursor, address[i], size)
                found[i - first] = p
                if p != NULL:
                    line = 0
                    # The processor fetches the rest of what is longer by itself.
                    while line < size and line < 8 * LINE:
                        prefetch(p + line)
                        line += LINE
            for i in range(first, last):
                p = found[i - first]
                if p != NULL:
                    memcpy(&out[i, 0], p, size)
                    present[i] = 1
                elif size <= ~address[i] and view.gather(address[i], &out[i, 0], size) == size:
                    present[i] = 1
                else:
                    memset(&out[i, 0], 0, size)
                    present[i] = 0
            first = last


def follow_list(
    ImageView view not None, uint64_t first, uint64_t offset, uint64_t end, Py_ssize_t most
):
    cdef Buffer out = Buffer(NULL, 0, 0)
    cdef Cursor cursor
    cdef uint64_t stop = 0
    cdef int state
    reset(&cursor)
    try:
        with nogil:
            state = walk(view, &cursor, first, offset, end, most, &out, &stop)
        if state == NO_MEMORY:
            raise MemoryError
        return copied(&out), state, stop
    finally:
        free(out.data)


def follow_lists(
    ImageView view not None, const uint64_t[::1] first, uint64_t offset,
    const uint64_t[::1] end, Py_ssize_t most
):
    cdef Py_ssize_t n = first.shape[0], i
    cdef Buffer out = Buffer(NULL, 0, 0)
    cdef Cursor cursor
    cdef uint64_t stop = 0
    cdef int state = ENDED
    if end.shape[0] != n:
        raise ValueError("the arrays have different shapes")
    offsets = np.zeros(n + 1, np.int64)
    states = np.full(n, TOO_LONG, np.uint8)
    cdef int64_t[::1] bounds = offsets
    cdef uint8_t[::1] how = states
    reset(&cursor)
    try:
        with nogil:
            for i in range(n):
                state = walk(view, &cursor, first[i], offset, end[i], most - out.size, &out, &stop)
                if state == NO_MEMORY:
                    break
                how[i] = <uint8_t>state
                bounds[i + 1] = out.size
        if state == NO_MEMORY:
            raise MemoryError
        return copied(&out), offsets, states
    finally:
        free(out.data)


cdef object copied(Buffer* buffer):
    found = np.empty(buffer.size, np.uint64)
    cdef uint64_t[::1] out = found
    if buffer.size:
        memcpy(&out[0], buffer.data, buffer.size * sizeof(uint64_t))
    return found


cdef int walk(
    ImageView view, Cursor* cursor, uint64_t first, uint64_t offset, uint64_t end,
    Py_ssize_t most, Buffer* out, uint64_t* stop
) noexcept nogil:
    """Append a list's elements, each once; return how it ended, and where."""
    cdef Py_ssize_t base = out.size, taken = 0, lap = 1, i
    cdef uint64_t here = first, mark = first, link
    cdef uint8_t word = <uint8_t>view.word_size
    cdef int state = ENDED
    cdef const uint8_t* p
    while here != end:
        # Brent's: a mark that moves ahead by powers of two is met again in any loop.
        if taken and here == mark:
            state = LOOPS
            break
        if taken == lap:
            mark = here
            lap *= 2
            taken = 0
        p = at(view, cursor, here + offset, word)
        if p != NULL:
            link = load(p, word, view.swapped)
        elif not gather_number(view, here + offset, word, &link):
            state = LEAVES
            break
        if out.size - base >= most:
            state = TOO_LONG
            break
        if out.size == out.room and not grow(out):
            return NO_MEMORY
        out.data[out.size] = here
        out.size += 1
        taken += 1
        here = link
    if state == LOOPS:
        # `taken` links lead from the mark back to it: from where the loop begins, all repeats.
        i = base
        while i + taken < out.size and out.data[i] != out.data[i + taken]:
            i += 1
        out.size = i + taken
        here = out.data[i]
    stop[0] = here
    return state


cdef bint grow(Buffer* out) noexcept nogil:
    cdef Py_ssize_t room = 2 * out.room if out.room else ROOM
    cdef uint64_t* data = <uint64_t*>realloc(out.data, room * sizeof(uint64_t))
    if data == NULL:
        return False
    out.data = data
    out.room = room
    return True


cdef inline uint64_t number(const uint8_t* p, uint8_t size, bint swapped) noexcept nogil:
    cdef uint16_t narrow
    if size == 8 or size == 4:
        return load(p, size, swapped)
    if size == 2:
        memcpy(&narrow, p, 2)
        return <uint16_t>((narrow << 8) | (narrow >> 8)) if swapped else narrow
    return p[0]


cdef uint8_t gather_number(
    ImageView view, uint64_t address, uint8_t size, uint64_t* value
) noexcept nogil:
    """Read a number that may lie across extents; return whether all of it is there."""
    cdef uint8_t buffer[8]
    value[0] = 0
    if address > ~<uint64_t>size or view.gather(address, buffer, size) != size:
        return 0
    value[0] = number(buffer, size, view.swapped)
    return 1
