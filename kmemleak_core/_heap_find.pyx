# cython: embedsignature=False
# Addresses wrap around and divisors are never 0: checked arithmetic would only need the GIL.
# cython: overflowcheck=False, cdivision=True
"""The searches for an allocator's structures: self-linked words, mappings, free lists."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ._heap cimport Cursor, align_up, at, load, prefetch, reset
from ._scan cimport ImageView

# Why a free list ended.
LIST_END = 0
LIST_LOOP = 1
LIST_BAD = 2
LIST_FULL = 3

cdef enum:
    END = 0
    LOOP = 1
    BAD = 2
    FULL = 3

    IS_MMAPPED = 2
    FLAG_BITS = 7


def find_linked(
    ImageView image not None, uint64_t start, uint64_t end, uint64_t step,
    uint64_t first, uint64_t first_delta, uint64_t second, uint64_t second_delta,
    Py_ssize_t limit,
):
    cdef uint64_t low, high, p, reach, mask
    cdef Py_ssize_t i = image.find(start, 0), count = 0
    cdef const uint8_t* data
    cdef int word = image.word_size
    cdef bint swapped = image.swapped
    cdef uint64_t[16] hits
    cdef int met
    reach = (first if first > second else second) + word
    mask = ~<uint64_t>0 if word == 8 else 0xffffffff
    found = []
    while i < image.extent_count and image.extents[i].start < end and count < limit:
        low = align_up(image.extents[i].start if image.extents[i].start > start else start, step)
        high = image.extents[i].end if image.extents[i].end < end else end
        data = image.extents[i].data
        p = low
        while True:
            met = 0
            with nogil:
                while p < high and high - p >= reach and met < 16:
                    if (load(data + (p - image.extents[i].start) + first, word, swapped)
                            == ((p + first_delta) & mask)
                            and load(data + (p - image.extents[i].start) + second, word, swapped)
                            == ((p + second_delta) & mask)):
                        hits[met] = p
                        met += 1
                    p += step
            found.extend([hits[k] for k in range(met)])
            count += met
            if met < 16 or count >= limit:
                break
        i += 1
    return found[:limit]


def find_mapped(
    ImageView image not None, uint64_t start, uint64_t end, uint64_t page, uint64_t trailer,
    int align, uint64_t[::1] base, uint64_t[::1] chunk, uint64_t[::1] length,
):
    cdef Py_ssize_t count = 0
    # Not 0 where a page start does not make an aligned address behind the header (i386).
    cdef uint64_t shift
    if align not in (8, 16):
        raise ValueError("malloc's alignment is 8 or 16")
    shift = align_up(<uint64_t>(2 * image.word_size), <uint64_t>align)
    shift -= <uint64_t>(2 * image.word_size)
    if page < 4096 or page & (page - 1):
        raise ValueError("a page is a power of two, at least 4096 bytes")
    if chunk.shape[0] != base.shape[0] or length.shape[0] != base.shape[0]:
        raise ValueError("arrays of one length are wanted")
    if base.shape[0] == 0:
        return 0
    with nogil:
        count = _find_mapped(
            image, start, end, page, trailer, shift, &base[0], &chunk[0], &length[0], base.shape[0])
    return count


cdef Py_ssize_t _find_mapped(
    ImageView image, uint64_t start, uint64_t end, uint64_t page, uint64_t trailer,
    uint64_t shift, uint64_t* base, uint64_t* chunk, uint64_t* length, Py_ssize_t capacity,
) noexcept nogil:
    cdef Cursor cursor
    cdef uint64_t p = align_up(start, page), total, raw, previous
    cdef int word = image.word_size
    cdef bint swapped = image.swapped
    cdef const uint8_t* data
    cdef Py_ssize_t count = 0
    # Since 2.43 the lowest bit of the offset says that huge pages back the mapping.
    cdef uint64_t offset_mask = ~<uint64_t>1 if trailer else ~<uint64_t>0
    reset(&cursor)
    while p >= start and p < end and count < capacity:
        data = at(image, &cursor, p, 2 * word + shift)
        if data == NULL:
            cursor.index = image.find(p, cursor.index)
            if cursor.index >= image.extent_count:
                break
            if image.extents[cursor.index].start <= p:
                p += page
            else:
                p = align_up(image.extents[cursor.index].start, page)
            reset(&cursor)
            continue
        previous = load(data + shift, word, swapped) & offset_mask
        raw = load(data + shift + word, word, swapped)
        total = (raw & ~<uint64_t>FLAG_BITS) + trailer + shift
        if (previous != shift or (raw & FLAG_BITS) != IS_MMAPPED or total < page
                or total & (page - 1) or total > end - p):
            p += page
            continue
        base[count] = p
        chunk[count] = _aligned_chunk(image, cursor, p, total, trailer, shift, offset_mask)
        length[count] = total
        count += 1
        p += total
    return count


cdef uint64_t _aligned_chunk(
    ImageView image, Cursor cursor, uint64_t p, uint64_t total, uint64_t trailer,
    uint64_t shift, uint64_t offset_mask,
) noexcept nogil:
    """Return the chunk that memalign made inside a mapping, the first one if it did not."""
    cdef uint64_t found = p + shift, step = 32, c, raw
    cdef int word = image.word_size, _turn
    cdef bint swapped = image.swapped
    cdef uint64_t header = <uint64_t>(2 * word)
    cdef const uint8_t* data
    while step < total:
        c = align_up(p + header, step) - header
        for _turn in range(2):
            if c > p + shift and c - p < total - header:
                data = at(image, &cursor, c, header)
                if data != NULL:
                    raw = load(data + word, word, swapped)
                    if ((raw & FLAG_BITS) == IS_MMAPPED
                            and (load(data, word, swapped) & offset_mask) == c - p
                            and (raw & ~<uint64_t>FLAG_BITS) + trailer == total - (c - p)):
                        found = c
            c += step
        step <<= 1
    return found


def follow(
    ImageView image not None, const uint64_t[::1] heads, uint64_t link, bint mangled,
    uint64_t[::1] out, int64_t[::1] ends, uint8_t[::1] stops,
):
    cdef Py_ssize_t lists = heads.shape[0], capacity = out.shape[0]
    cdef uint64_t* met
    cdef uint32_t* whose
    cdef uint64_t[::1] nodes, marks
    if ends.shape[0] != lists or stops.shape[0] != lists:
        raise ValueError("arrays of one length are wanted")
    if lists == 0:
        return
    if capacity == 0:
        raise ValueError("there is no room for a node")
    nodes, marks = heads.copy(), heads.copy()
    # Nodes as they are met and whose they are, then the lists that go on.
    met = <uint64_t*>malloc(
        <size_t>capacity * (sizeof(uint64_t) + sizeof(uint32_t))
        + <size_t>lists * sizeof(uint32_t))
    if met == NULL:
        raise MemoryError
    whose = <uint32_t*>(met + capacity)
    with nogil:
        follow_together(
            image, nodes, marks, link, mangled, met, whose, whose + capacity, out, ends, stops)
    free(met)


cdef void follow_together(
    ImageView image, uint64_t[::1] nodes, uint64_t[::1] marks, uint64_t link, bint mangled,
    uint64_t* met, uint32_t* whose, uint32_t* active,
    uint64_t[::1] out, int64_t[::1] ends, uint8_t[::1] stops,
) noexcept nogil:
    # A list is a chain of cache misses. All lists go on by one node at a time, so that as many
    # misses as there are lists overlap.
    cdef Cursor cursor
    cdef const uint8_t* data
    cdef Py_ssize_t lists = nodes.shape[0], left = lists, kept, k, filled = 0, turn = 0, lap = 1
    cdef uint64_t node, place
    cdef uint32_t i
    reset(&cursor)
    for k in range(lists):
        active[k] = <uint32_t>k
        marks[k] = 0
        ends[k] = 0
    while left > 0:
        kept = 0
        turn += 1
        for k in range(left):
            i = active[k]
            node = nodes[i]
            stops[i] = END
            if node == 0:
                continue
            if node == marks[i]:
                stops[i] = LOOP
                continue
            if filled == out.shape[0]:
                stops[i] = FULL
                continue
            place = node + link
            data = at(image, &cursor, place, image.word_size) if place >= link else NULL
            if data == NULL:
                stops[i] = BAD
                continue
            met[filled] = node
            whose[filled] = i
            filled += 1
            ends[i] += 1
            if turn == lap:
                # Brent: a loop meets the node that was marked last.
                marks[i] = node
            node = load(data, image.word_size, image.swapped)
            if mangled:
                node ^= place >> 12
            nodes[i] = node
            data = at(image, &cursor, node + link, 1)
            if data != NULL:
                prefetch(data)
            active[kept] = i
            kept += 1
        left = kept
        if turn == lap:
            lap *= 2
    # Now list by list.
    for k in range(lists):
        nodes[k] = <uint64_t>(ends[k - 1] if k > 0 else 0)
        ends[k] += <int64_t>nodes[k]
    for k in range(filled):
        i = whose[k]
        out[<Py_ssize_t>nodes[i]] = met[k]
        nodes[i] += 1
