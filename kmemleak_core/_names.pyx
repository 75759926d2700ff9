# cython: embedsignature=False
# A hash wraps around.
# cython: overflowcheck=False
"""The loop that turns names in a text into numbers, to be found by."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    LONGEST = 512


def hash_names(const uint8_t[::1] text, const int64_t[::1] start, uint32_t[::1] out):
    cdef Py_ssize_t n = start.shape[0], size = text.shape[0], i
    if out.shape[0] != n:
        raise ValueError("arrays of one length are wanted")
    with nogil:
        for i in range(n):
            if 0 <= start[i] < size:
                out[i] = _hash(&text[start[i]], size - start[i])
            else:
                out[i] = 0


def hash_name(const uint8_t[::1] name):
    if name.shape[0] == 0:
        return _hash(NULL, 0)
    return _hash(&name[0], name.shape[0])


cdef inline uint32_t _hash(const uint8_t* name, Py_ssize_t most) noexcept nogil:
    """FNV-1a of a name up to its NUL; of a long one, of its beginning."""
    cdef uint32_t value = 2166136261
    cdef Py_ssize_t i
    if most > LONGEST:
        most = LONGEST
    for i in range(most):
        if name[i] == 0:
            break
        value = (value ^ name[i]) * <uint32_t>16777619
    return value
