# cython: embedsignature=False
"""The loop over a kernel's compressed table of symbols."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy, memset

cdef enum:
    TOKENS = 256
    # KSYM_NAME_LEN is 512 at most; no token is longer than a name.
    LONGEST = 4096
    # Most tokens are shorter: they are copied whole, without a call.
    SHORT = 16

cdef struct Token:
    uint32_t size
    const uint8_t* text
    uint8_t[SHORT] short


def measure(
    const uint8_t[::1] names, Py_ssize_t count, const uint8_t[::1] tokens,
    const uint16_t[::1] index,
):
    cdef Token[TOKENS] table
    cdef Py_ssize_t i = 0, total = 1, whole, left
    cdef const uint8_t* at
    cdef const uint8_t* end
    _read_tokens(tokens, index, table)
    if names.shape[0] == 0 or count <= 0:
        return 0, total
    with nogil:
        at = &names[0]
        end = at + names.shape[0]
        while i < count:
            left = _name_length(&at, end)
            if left <= 0 or left > end - at:
                break
            whole = 0
            while left > 0:
                whole += table[at[0]].size
                at += 1
                left -= 1
            # The first character is the symbol's kind; a NUL takes its place behind the name.
            if whole < 2 or whole > LONGEST:
                break
            total += whole
            i += 1
    return i, total


def decode(
    const uint8_t[::1] names, const uint8_t[::1] tokens, const uint16_t[::1] index,
    uint8_t[::1] text, uint32_t[::1] start, uint8_t[::1] kind,
):
    cdef Token[TOKENS] table
    cdef Token* token
    cdef Py_ssize_t count = start.shape[0], i = 0, left, skip
    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef uint8_t* out
    cdef uint8_t* begin
    cdef uint8_t* full
    if kind.shape[0] != count or text.shape[0] < 1:
        raise ValueError("arrays of one length are wanted")
    _read_tokens(tokens, index, table)
    text[0] = 0
    if count == 0:
        return 1
    if names.shape[0] == 0:
        raise ValueError("the names end early")
    with nogil:
        at = &names[0]
        end = at + names.shape[0]
        out = &text[1]
        full = &text[0] + text.shape[0]
        while i < count:
            left = _name_length(&at, end)
            if left <= 0 or left > end - at:
                break
            begin = out
            skip = 1
            while left > 0:
                token = &table[at[0]]
                at += 1
                left -= 1
                if <Py_ssize_t>token.size < skip:
                    continue
                # There is room for the NUL too.
                if <Py_ssize_t>token.size >= full - out + skip:
                    break
                if skip:
                    kind[i] = token.text[0]
                    memcpy(out, token.text + 1, token.size - 1)
                    out += token.size - 1
                    skip = 0
                elif token.size <= SHORT and full - out >= SHORT:
                    memcpy(out, token.short, SHORT)
                    out += token.size
                else:
                    memcpy(out, token.text, token.size)
                    out += token.size
            if left > 0 or out == begin:
                break
            start[i] = <uint32_t>(begin - &text[0])
            out[0] = 0
            out += 1
            i += 1
    if i < count:
        raise ValueError("a name is damaged, or there is no room for it")
    return out - &text[0]


cdef inline Py_ssize_t _name_length(
    const uint8_t** at, const uint8_t* end
) noexcept nogil:
    """Return how many tokens make the name at `at`, which moves on to the first; -1 at the end."""
    cdef Py_ssize_t length
    if at[0] >= end:
        return -1
    length = at[0][0]
    at[0] += 1
    # Since 6.1 a length of 128 and more takes two bytes (commit 73bbb94466fd); no name had one.
    if length & 0x80:
        if at[0] >= end:
            return -1
        length = (length & 0x7f) | (<Py_ssize_t>at[0][0] << 7)
        at[0] += 1
    return length


cdef int _read_tokens(
    const uint8_t[::1] tokens, const uint16_t[::1] index, Token* table
) except -1:
    cdef Py_ssize_t i, room
    cdef const void* nul
    if index.shape[0] != TOKENS:
        raise ValueError("there are 256 tokens")
    for i in range(TOKENS):
        room = tokens.shape[0] - index[i]
        nul = NULL
        if room > 0:
            table[i].text = &tokens[index[i]]
            nul = memchr(table[i].text, 0, <size_t>room)
        if nul == NULL:
            raise ValueError("a token lies outside the table")
        table[i].size = <uint32_t>(<const uint8_t*>nul - table[i].text)
        if table[i].size > LONGEST:
            raise ValueError("a token is longer than any name")
        memset(table[i].short, 0, SHORT)
        memcpy(table[i].short, table[i].text, min(table[i].size, <uint32_t>SHORT))
    return 0
