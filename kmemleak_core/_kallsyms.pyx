# cython: embedsignature=False
"""The loop over a kernel's compressed table of symbols."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy

cdef enum:
    TOKENS = 256
    # KSYM_NAME_LEN is 512 at most; no token is longer than a name.
    LONGEST = 4096


def measure(
    const uint8_t[::1] names, Py_ssize_t count, const uint8_t[::1] tokens,
    const uint16_t[::1] index,
):
    cdef uint32_t[TOKENS] length
    cdef Py_ssize_t at = 0, end = names.shape[0], i, left, whole, total = 1
    _token_lengths(tokens, index, length)
    for i in range(count):
        left = _name_length(names, &at)
        if left <= 0 or left > end - at:
            return i, total
        whole = 0
        while left > 0:
            whole += length[names[at]]
            at += 1
            left -= 1
        # The first character is the symbol's kind; a NUL takes its place behind the name.
        if whole < 2 or whole > LONGEST:
            return i, total
        total += whole
    return count, total


def decode(
    const uint8_t[::1] names, const uint8_t[::1] tokens, const uint16_t[::1] index,
    uint8_t[::1] text, uint32_t[::1] start, uint8_t[::1] kind,
):
    cdef uint32_t[TOKENS] length
    cdef Py_ssize_t count = start.shape[0], at = 0, end = names.shape[0], i, left, room
    cdef Py_ssize_t filled = 1, begin
    cdef uint32_t piece
    cdef uint8_t token
    if kind.shape[0] != count or text.shape[0] < 1:
        raise ValueError("arrays of one length are wanted")
    _token_lengths(tokens, index, length)
    text[0] = 0
    for i in range(count):
        left = _name_length(names, &at)
        if left <= 0 or left > end - at:
            raise ValueError("the names end early")
        begin = filled
        while left > 0:
            token = names[at]
            piece = length[token]
            room = text.shape[0] - filled
            # One byte more: a kind goes, a NUL comes, but the kind is written first.
            if <Py_ssize_t>piece > room:
                raise ValueError("the names do not fit")
            if piece:
                memcpy(&text[filled], &tokens[index[token]], piece)
            filled += piece
            at += 1
            left -= 1
        if filled - begin < 2:
            raise ValueError("a symbol has no name")
        kind[i] = text[begin]
        start[i] = <uint32_t>begin
        _drop_first(text, begin, filled)
    return filled


cdef void _drop_first(uint8_t[::1] text, Py_ssize_t begin, Py_ssize_t end) noexcept:
    """Move a name one byte down, over its kind, and end it with a NUL."""
    cdef Py_ssize_t i
    for i in range(begin, end - 1):
        text[i] = text[i + 1]
    text[end - 1] = 0


cdef Py_ssize_t _name_length(const uint8_t[::1] names, Py_ssize_t* at) noexcept:
    """Return how many tokens make the name at `at`, which moves on to the first; -1 at the end."""
    cdef Py_ssize_t length
    if at[0] >= names.shape[0]:
        return -1
    length = names[at[0]]
    at[0] += 1
    # Since 6.1 a length of 128 and more takes two bytes (commit 73bbb94466fd); no name had one.
    if length & 0x80:
        if at[0] >= names.shape[0]:
            return -1
        length = (length & 0x7f) | (<Py_ssize_t>names[at[0]] << 7)
        at[0] += 1
    return length


cdef int _token_lengths(
    const uint8_t[::1] tokens, const uint16_t[::1] index, uint32_t* length
) except -1:
    cdef Py_ssize_t i, room
    cdef const void* nul
    if index.shape[0] != TOKENS:
        raise ValueError("there are 256 tokens")
    for i in range(TOKENS):
        room = tokens.shape[0] - index[i]
        nul = NULL
        if room > 0:
            nul = memchr(&tokens[index[i]], 0, <size_t>room)
        if nul == NULL:
            raise ValueError("a token lies outside the table")
        length[i] = <uint32_t>(<const uint8_t*>nul - &tokens[index[i]])
        if length[i] > LONGEST:
            raise ValueError("a token is longer than any name")
    return 0
