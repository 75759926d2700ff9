# cython: embedsignature=False
"""The loops over sorted columns of addresses and sizes."""

from libc.stdint cimport uint64_t


def merge(
    uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count,
    const uint64_t[::1] more_address, const uint64_t[::1] more_usable,
):
    cdef Py_ssize_t j = more_address.shape[0], i = count, k = count + j
    if (count < 0 or k > address.shape[0] or usable.shape[0] != address.shape[0]
            or more_usable.shape[0] != j):
        raise ValueError("the arrays do not fit one another")
    with nogil:
        while j > 0:
            if i > 0 and address[i - 1] > more_address[j - 1]:
                i -= 1
                k -= 1
                address[k] = address[i]
                usable[k] = usable[i]
            else:
                j -= 1
                k -= 1
                address[k] = more_address[j]
                usable[k] = more_usable[j]
    return count + more_address.shape[0]


def remove(
    uint64_t[::1] address, uint64_t[::1] usable, Py_ssize_t count, const uint64_t[::1] gone
):
    cdef Py_ssize_t i, k = 0, j = 0, n = gone.shape[0]
    if not (0 <= count <= address.shape[0] and usable.shape[0] == address.shape[0]):
        raise ValueError("count lies outside the arrays")
    with nogil:
        for i in range(count):
            while j < n and gone[j] < address[i]:
                j += 1
            if j < n and gone[j] == address[i]:
                continue
            address[k] = address[i]
            usable[k] = usable[i]
            k += 1
    return k
