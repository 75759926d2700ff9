# cython: embedsignature=False
# Address arithmetic wraps around on purpose: one comparison tests both bounds.
# cython: overflowcheck=False, cdivision=True
"""The loop that classifies the first words of objects: pointer, zero, small number, text, other."""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t

import numpy as np

from ._scan cimport ImageView, kml_filter


cdef extern from *:
    """
    #define kmemleak_swap64(v) __builtin_bswap64(v)
    #define kmemleak_prefetch(p) __builtin_prefetch((p), 0, 3)
    """
    uint64_t kmemleak_swap64(uint64_t) nogil
    void kmemleak_prefetch(const void*) nogil

cdef extern from "_simd.h" nogil:
    uint64_t kml_load(const kml_filter* f, const uint8_t* p)

cdef enum:
    # The numbers of shapes.WordKind.
    ABSENT = 0
    MISSING = 1
    ZERO = 2
    OBJECT = 3
    POINTER = 4
    INT = 5
    TEXT = 6
    DATA = 7

    COLUMNS = 8
    # Objects whose words are looked up together, so that the misses of the searches overlap.
    BATCH = 64
    # Numbers below this are small.
    SMALL = 1 << 16
    # So many printable characters at least are text.
    LEAST_TEXT = 4


cdef struct Batch:
    Py_ssize_t extent[BATCH]            # of each object's start, or the next one
    uint8_t* kinds                      # COLUMNS of each object
    uint64_t words[BATCH * COLUMNS]
    Py_ssize_t pending                  # How many words are looked up, and of each
    uint32_t place[BATCH * COLUMNS]     # where it stands among the words,
    uint64_t value[BATCH * COLUMNS]     # what it is,
    size_t row[BATCH * COLUMNS]         # the last object that starts at or below it.


def classify_words(
    ImageView view not None,
    const uint64_t[::1] starts not None,
    const uint64_t[::1] sizes not None,
    const uint64_t[::1] address not None,
    const uint64_t[::1] size not None,
):
    cdef Py_ssize_t n = address.shape[0], i = 0
    if starts.shape[0] != sizes.shape[0] or n != size.shape[0]:
        raise ValueError("columns of different lengths")
    kinds_array = np.zeros((n, COLUMNS), np.uint8)
    cdef uint8_t[:, ::1] kinds = kinds_array
    cdef Batch batch
    with nogil:
        while i < n:
            batch.kinds = &kinds[i, 0]
            _classify(
                view, starts, sizes, &address[i], &size[i], min(n - i, <Py_ssize_t>BATCH), &batch
            )
            i += BATCH
    return kinds_array


cdef void _classify(
    ImageView view, const uint64_t[::1] starts, const uint64_t[::1] sizes,
    const uint64_t* address, const uint64_t* size, Py_ssize_t count, Batch* batch,
) noexcept nogil:
    """Classify the objects of a batch; the tests run from the strongest to the weakest sign."""
    cdef Py_ssize_t n = starts.shape[0], extent = 0, i, k
    cdef uint64_t low = UINT64_MAX, span = 0, word
    cdef kml_filter reader
    cdef uint8_t* kind
    reader.mask = UINT64_MAX
    reader.word_size = view.word_size
    reader.swapped = view.swapped
    if n:
        low = starts[0]
        span = starts[n - 1] + sizes[n - 1] - low
    batch.pending = 0
    for i in range(count):
        extent = batch.extent[i] = view.find(address[i], extent)
        if extent < view.extent_count and view.extents[extent].start <= address[i]:
            kmemleak_prefetch(view.extents[extent].data + (address[i] - view.extents[extent].start))
    for i in range(count):
        _read(view, batch.extent[i], &reader, address[i], size[i], i * COLUMNS, batch)
    for i in range(count * COLUMNS):
        word = batch.words[i]
        if batch.kinds[i] == DATA and word - low < span:
            batch.place[batch.pending] = <uint32_t>i
            batch.value[batch.pending] = word
            batch.pending += 1
    _look_up(starts, batch)
    for i in range(batch.pending):
        if batch.value[i] - starts[batch.row[i]] < sizes[batch.row[i]]:
            batch.kinds[batch.place[i]] = OBJECT
    for i in range(count):
        kind = batch.kinds + i * COLUMNS
        for k in range(COLUMNS):
            if kind[k] == DATA:
                kind[k] = _weak_kind(view, batch.words[i * COLUMNS + k])
        # A string's last bytes alone look like a number. Backwards: what was a number before.
        for k in range(COLUMNS - 1, 0, -1):
            if (
                kind[k - 1] == TEXT and (kind[k] == INT or kind[k] == DATA)
                and _is_text(view, batch.words[i * COLUMNS + k - 1], view.word_size)
                and _is_text(view, batch.words[i * COLUMNS + k], 1)
            ):
                kind[k] = TEXT


cdef void _read(
    ImageView view, Py_ssize_t extent, const kml_filter* reader, uint64_t address, uint64_t size,
    Py_ssize_t at, Batch* batch,
) noexcept nogil:
    """Read an object's words: DATA for now, unless they are zero or not there."""
    cdef uint64_t width = <uint64_t>view.word_size
    cdef uint64_t wanted = min(size // width, <uint64_t>COLUMNS), held = 0, k
    cdef const uint8_t* data = NULL
    if extent < view.extent_count and view.extents[extent].start <= address:
        data = view.extents[extent].data + (address - view.extents[extent].start)
        held = (view.extents[extent].end - address) // width
    for k in range(wanted):
        if k >= held:
            batch.kinds[at + k] = MISSING
            continue
        batch.words[at + k] = kml_load(reader, data + k * width)
        batch.kinds[at + k] = DATA if batch.words[at + k] else ZERO


cdef void _look_up(const uint64_t[::1] starts, Batch* batch) noexcept nogil:
    """Find the last start at or below each value, all searches a step at a time."""
    cdef size_t left = <size_t>starts.shape[0], half
    cdef Py_ssize_t i
    for i in range(batch.pending):
        batch.row[i] = 0
    while left > 1:
        half = left // 2
        for i in range(batch.pending):
            # Without a branch, of which every other one would be guessed wrong.
            batch.row[i] += half * (starts[batch.row[i] + half] <= batch.value[i])
        left -= half


cdef uint8_t _weak_kind(ImageView view, uint64_t word) noexcept nogil:
    """Tell small numbers, other pointers, text and data apart."""
    cdef Py_ssize_t extent
    cdef uint64_t top = UINT64_MAX >> (64 - 8 * view.word_size)
    if word < SMALL or word > top - SMALL:
        return INT
    if view.word_size == 8 and word >> 32 < SMALL and <uint32_t>word < SMALL:
        return INT
    extent = view.find(word, 0)
    if extent < view.extent_count and view.extents[extent].start <= word:
        return POINTER
    return TEXT if _is_text(view, word, LEAST_TEXT) else DATA


cdef bint _is_text(ImageView view, uint64_t word, int least) noexcept nogil:
    """Whether a word is so many printable characters or more, then nothing but zeros."""
    cdef int run = 0
    cdef uint8_t c
    cdef uint64_t one = 1
    cdef bint host_is_little = (<uint8_t*>&one)[0] == 1
    # The byte that lies first in memory becomes the lowest one.
    if view.swapped == host_is_little:
        word = kmemleak_swap64(word) >> (64 - 8 * view.word_size)
    while run < view.word_size:
        c = word & 0xFF
        if (c < 0x20 or c >= 0x7F) and c not in (0x09, 0x0A, 0x0D):
            break
        word >>= 8
        run += 1
    return run >= least and not word
