# cython: embedsignature=False
"""The loop over the records of BTF, whose lengths depend on their kinds."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    KINDS = 128
    UNKNOWN = 0xffffffff


def index(
    const uint32_t[::1] words, const uint32_t[::1] extra, const uint32_t[::1] each,
    uint32_t[::1] out,
):
    cdef Py_ssize_t count = 0, capacity = out.shape[0]
    cdef uint64_t at = 0, end = <uint64_t>words.shape[0], length
    cdef uint32_t info, kind
    if extra.shape[0] != KINDS or each.shape[0] != KINDS:
        raise ValueError("there are 128 kinds")
    with nogil:
        while end - at >= 3 and count < capacity:
            info = words[at + 1]
            kind = (info >> 24) & 0x7f
            if extra[kind] == UNKNOWN:
                break
            length = 3 + extra[kind] + <uint64_t>each[kind] * (info & 0xffffff)
            if length > end - at:
                break
            out[count] = <uint32_t>at
            count += 1
            at += length
    return count, at
