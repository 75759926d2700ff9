# cython: embedsignature=False
"""The loops over sorted columns of addresses and sizes."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy


def copy_without(
    const uint64_t[::1] source, const int64_t[::1] rows, uint64_t[::1] out
):
    cdef Py_ssize_t n = source.shape[0], gone = rows.shape[0], i, begin = 0, filled = 0
    for i in range(gone):
        if rows[i] < begin or rows[i] >= n:
            raise ValueError("rows are sorted and lie in the column")
        begin = rows[i] + 1
    if out.shape[0] != n - gone:
        raise ValueError("what is left does not fit")
    if out.shape[0] == 0:
        return
    with nogil:
        begin = 0
        for i in range(gone + 1):
            n = (rows[i] if i < gone else source.shape[0]) - begin
            if n > 0:
                memcpy(&out[filled], &source[begin], n * sizeof(uint64_t))
            filled += n
            begin += n + 1
