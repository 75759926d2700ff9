"""Unpacks pages of compressed kernel dumps: LZO1X and Snappy, bounded on both sides.

LZO1X as the kernel's ``Documentation/staging/lzo.rst`` describes its stream (version 0: what
liblzo's and the kernel's ``lzo1x_1_compress`` write); Snappy as its ``format_description.txt``
does.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    RAW = 0
    LZO = 2
    SNAPPY = 4

cdef Py_ssize_t DAMAGED = -1


cdef inline bint _copy_back(uint8_t* out, Py_ssize_t* used, Py_ssize_t room, size_t distance,
                            size_t length) noexcept nogil:
    """Repeat what lies `distance` bytes before the end; False where that cannot be."""
    cdef Py_ssize_t at = used[0]
    cdef uint8_t* target = out + at
    cdef const uint8_t* source
    cdef size_t i
    if distance == 0 or distance > <size_t>at or length > <size_t>(room - at):
        return False
    source = target - distance
    if distance >= length:
        memcpy(target, source, length)
    else:
        for i in range(length):
            target[i] = source[i]
    used[0] = at + <Py_ssize_t>length
    return True


cdef inline bint _copy_in(const uint8_t* data, Py_ssize_t* at, Py_ssize_t size, uint8_t* out,
                          Py_ssize_t* used, Py_ssize_t room, size_t length) noexcept nogil:
    """Copy literals; False where there are not so many, or no room."""
    if length > <size_t>(size - at[0]) or length > <size_t>(room - used[0]):
        return False
    memcpy(out + used[0], data + at[0], length)
    at[0] += <Py_ssize_t>length
    used[0] += <Py_ssize_t>length
    return True


cdef inline bint _long_length(const uint8_t* data, Py_ssize_t* at, Py_ssize_t size,
                              size_t* length) noexcept nogil:
    """Add what follows a length of 0: 255 for each zero, then a byte that is none."""
    while at[0] < size and data[at[0]] == 0:
        length[0] += 255
        at[0] += 1
    if at[0] >= size:
        return False
    length[0] += data[at[0]]
    at[0] += 1
    return True


cdef Py_ssize_t _lzo(const uint8_t* data, Py_ssize_t size, uint8_t* out,
                     Py_ssize_t room) noexcept nogil:
    """Unpack one LZO1X stream; returns the bytes made, or DAMAGED."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t used = 0
    # How many literals the instruction before copied: 0 to 3, 4 for a run of them.
    cdef size_t state = 0
    cdef size_t length, distance, code, next_state
    if size < 3:
        return DAMAGED
    if data[0] > 17:
        length = data[0] - 17
        at = 1
        if not _copy_in(data, &at, size, out, &used, room, length):
            return DAMAGED
        state = length if length < 4 else 4
    while at < size:
        code = data[at]
        at += 1
        if code < 16 and state == 0:
            length = code + 3
            if code == 0:
                length = 18
                if not _long_length(data, &at, size, &length):
                    return DAMAGED
            if not _copy_in(data, &at, size, out, &used, room, length):
                return DAMAGED
            state = 4
            continue
        if code < 16:
            if at >= size:
                return DAMAGED
            length = 3 if state == 4 else 2
            distance = (<size_t>data[at] << 2) + (code >> 2) + (2049 if state == 4 else 1)
            at += 1
            next_state = code & 3
        elif code < 64:
            if code < 32:
                length = code & 7
                distance = 16384 + ((code & 8) << 11)
            else:
                length = code & 31
                distance = 1
            if length == 0:
                length = 7 if code < 32 else 31
                if not _long_length(data, &at, size, &length):
                    return DAMAGED
            length += 2
            if size - at < 2:
                return DAMAGED
            distance += <size_t>(data[at] | data[at + 1] << 8) >> 2
            next_state = data[at] & 3
            at += 2
            if code < 32 and distance == 16384:
                return used
        else:
            if at >= size:
                return DAMAGED
            length = (code >> 5) + 1
            distance = (<size_t>data[at] << 3) + (code >> 2 & 7) + 1
            at += 1
            next_state = code & 3
        if not _copy_back(out, &used, room, distance, length):
            return DAMAGED
        if not _copy_in(data, &at, size, out, &used, room, next_state):
            return DAMAGED
        state = next_state
    return DAMAGED  # without its end


cdef Py_ssize_t _snappy(const uint8_t* data, Py_ssize_t size, uint8_t* out,
                        Py_ssize_t room) noexcept nogil:
    """Unpack one Snappy block; returns the bytes made, or DAMAGED."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t used = 0
    cdef size_t length, distance, code, i, count
    cdef uint64_t announced = 0
    cdef int shift = 0
    while True:
        if at >= size or shift > 28:
            return DAMAGED
        announced |= <uint64_t>(data[at] & 127) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 128:
            break
    while at < size:
        code = data[at]
        at += 1
        if code & 3 == 0:
            length = code >> 2
            if length >= 60:
                count = length - 59
                if <size_t>(size - at) < count:
                    return DAMAGED
                length = 0
                for i in range(count):
                    length |= <size_t>data[at + <Py_ssize_t>i] << 8 * i
                at += <Py_ssize_t>count
            if not _copy_in(data, &at, size, out, &used, room, length + 1):
                return DAMAGED
            continue
        count = 4 if code & 3 == 3 else code & 3
        if <size_t>(size - at) < count:
            return DAMAGED
        distance = 0
        for i in range(count):
            distance |= <size_t>data[at + <Py_ssize_t>i] << 8 * i
        at += <Py_ssize_t>count
        if count == 1:
            length = (code >> 2 & 7) + 4
            distance |= code >> 5 << 8
        else:
            length = (code >> 2) + 1
        if not _copy_back(out, &used, room, distance, length):
            return DAMAGED
    return used if <uint64_t>used == announced else DAMAGED


def unpack_pages(const uint8_t[::1] data, const uint64_t[::1] offset, const uint32_t[::1] size,
                 int method, uint8_t[:, ::1] out, uint8_t[::1] good):
    """See _unpack_pages.pyi."""
    cdef Py_ssize_t i, made
    cdef Py_ssize_t room = out.shape[1]
    cdef Py_ssize_t total = data.shape[0]
    if offset.shape[0] != out.shape[0] or size.shape[0] != out.shape[0] \
            or good.shape[0] != out.shape[0]:
        raise ValueError("columns of different lengths")
    if method not in (RAW, LZO, SNAPPY):
        raise ValueError(f"no such method: {method}")
    if room == 0 or total == 0:
        return
    with nogil:
        for i in range(out.shape[0]):
            good[i] = 0
            if offset[i] > <uint64_t>total or size[i] > <uint64_t>total - offset[i]:
                continue
            # What packing would not make smaller is stored as it is.
            if size[i] == 0 or size[i] > <uint64_t>room:
                continue
            if method == LZO:
                made = _lzo(&data[0] + offset[i], size[i], &out[i, 0], room)
            elif method == SNAPPY:
                made = _snappy(&data[0] + offset[i], size[i], &out[i, 0], room)
            else:
                made = size[i]
                if made == room:
                    memcpy(&out[i, 0], &data[0] + offset[i], room)
            good[i] = made == room
