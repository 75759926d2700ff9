# cython: embedsignature=False
# Addresses wrap around and shifts are never too far: checked arithmetic would only need the GIL.
# cython: overflowcheck=False, cdivision=True
"""The loop over any allocation log, also where objects overlap or are freed in part."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ._replay cimport (
    A_DOUBLE, A_INTERIOR, A_OVERLAP, A_UNKNOWN, E_ALLOC, E_FREE, E_FREE_PART, Outcome, Survey,
    Tally, check_events, note, note_peak, survey,
)

import numpy as np

cdef extern from *:
    """
    #define replay_prefetch(p) __builtin_prefetch((p), 1, 3)
    #define replay_low_bit(v) __builtin_ctzll(v)
    #define replay_high_bit(v) (63 - __builtin_clzll(v))
    """
    void replay_prefetch(const void*) nogil
    int replay_low_bit(uint64_t) nogil
    int replay_high_bit(uint64_t) nogil

cdef enum:
    # Events whose places are fetched ahead.
    AHEAD = 16

cdef uint64_t ONES = <uint64_t>0xFFFFFFFFFFFFFFFF


cdef struct Places:
    # Which of `count` sorted addresses an object starts at: a bit each, and in the levels above a
    # bit for every word that is not 0.
    uint64_t* levels[7]
    int height


def replay_places(const uint8_t[::1] kind not None, const uint64_t[::1] address not None,
                  const uint64_t[::1] size not None, const uint64_t[::1] places not None,
                  const uint32_t[::1] place not None, const uint32_t[::1] right not None,
                  Py_ssize_t samples, Py_ssize_t most):
    """See _replay_places.pyi."""
    cdef Outcome out = Outcome(kind.shape[0], samples, most)
    cdef Places starts
    cdef Py_ssize_t n = kind.shape[0], m = places.shape[0]
    cdef Survey seen
    check_events(kind, address, size.shape[0])
    check_events(kind, address, place.shape[0])
    if n == 0:
        return out
    if m == 0 or m >> 32:
        raise ValueError(f"{m} addresses")
    seen = survey(kind, address, size)
    if seen.leaves:
        raise ValueError("an object leaves the address space")
    if np.asarray(place).max() >= m or (right.shape[0] and np.asarray(right).max() >= m):
        raise ValueError("a place beyond the addresses")
    if np.count_nonzero(np.asarray(kind) == E_FREE_PART) != right.shape[0]:
        raise ValueError("partial frees have one right place each")
    birth = np.zeros(m, dtype=np.uint32)
    length = np.zeros(m, dtype=np.uint64)
    ended = np.zeros(m, dtype=np.uint32)
    if not open_places(&starts, m):
        close_places(&starts)
        raise MemoryError
    cdef uint32_t[::1] births = birth, ends = ended
    cdef uint64_t[::1] lengths = length
    try:
        with nogil:
            walk_places(&starts, births, lengths, ends, kind, address, size, places, place,
                        right, out)
        live = np.flatnonzero(np.unpackbits(
            np.asarray(<uint8_t[:(m + 63) // 64 * 8]><uint8_t*>starts.levels[0]), count=m,
            bitorder="little"))
    finally:
        close_places(&starts)
    rows = live[np.argsort(birth[live], kind="stable")]
    out.live = birth[rows].astype(np.int64), np.asarray(places)[rows], length[rows]
    return out


cdef void walk_places(Places* starts, uint32_t[::1] birth, uint64_t[::1] length,
                      uint32_t[::1] ended, const uint8_t[::1] kind, const uint64_t[::1] address,
                      const uint64_t[::1] size, const uint64_t[::1] places,
                      const uint32_t[::1] place, const uint32_t[::1] right,
                      Outcome out) noexcept nogil:
    """Replay any events. Of each place: its object, and the event plus one that ended the last."""
    cdef Tally* tally = &out.tally
    cdef Py_ssize_t sample, i, begin = 0, end, part = 0
    cdef int64_t at, p
    cdef uint64_t a, low, old_end, wanted
    for sample in range(out.samples):
        end = out.sample_event[sample] + 1
        for i in range(begin, end):
            a = address[i]
            p = place[i]
            if i + AHEAD < place.shape[0]:
                at = place[i + AHEAD]
                replay_prefetch(&birth[at])
                replay_prefetch(&length[at])
                replay_prefetch(&ended[at])
                replay_prefetch(&places[at])
            if kind[i] == E_FREE_PART:
                part += 1
            if a == 0:
                tally.nulls += 1
                continue
            if kind[i] == E_ALLOC:
                make_room(starts, birth, length, ended, places, tally, i, p, size[i])
                birth[p] = <uint32_t>i
                appear(starts, length, tally, p, size[i])
            else:
                at = p if is_set(starts, p) else holder(starts, length, places, p, a)
                if at < 0:
                    note(tally, A_DOUBLE if ended[p] and kind[ended[p] - 1] in
                         (E_FREE, E_FREE_PART) else A_UNKNOWN, i, ended[p])
                elif kind[i] == E_FREE_PART:
                    low = places[at]
                    old_end = low + length[at]
                    wanted = length[at]
                    vanish(starts, length, tally, at)
                    ended[p] = <uint32_t>(i + 1)
                    if low == old_end and size[i] == 0:
                        appear(starts, length, tally, at, 0)
                    if low < a:
                        appear(starts, length, tally, at, a - low)
                    if wanted and size[i] < old_end - a:
                        birth[right[part - 1]] = birth[at]
                        appear(starts, length, tally, right[part - 1], old_end - a - size[i])
                elif at != p:
                    note(tally, A_INTERIOR, i, birth[at] + 1)
                elif kind[i] == E_FREE:
                    vanish(starts, length, tally, p)
                    ended[p] = <uint32_t>(i + 1)
                else:
                    vanish(starts, length, tally, p)
                    make_room(starts, birth, length, ended, places, tally, i, p, size[i])
                    appear(starts, length, tally, p, size[i])
            note_peak(tally, i)
        begin = end
        out.sample_count[sample] = tally.count
        out.sample_bytes[sample] = tally.nbytes


cdef inline void appear(Places* starts, uint64_t[::1] length, Tally* tally, uint64_t place,
                        uint64_t size) noexcept nogil:
    length[place] = size
    set_place(starts, place)
    tally.count += 1
    tally.nbytes += size


cdef inline void vanish(Places* starts, uint64_t[::1] length, Tally* tally,
                        uint64_t place) noexcept nogil:
    clear_place(starts, place)
    tally.count -= 1
    tally.nbytes -= length[place]


cdef inline int64_t holder(Places* starts, uint64_t[::1] length, const uint64_t[::1] places,
                           uint64_t place, uint64_t address) noexcept nogil:
    """Return the place of the object that holds an address, or −1."""
    cdef int64_t at = before(starts, place)
    if at >= 0 and address - places[at] < max(length[at], <uint64_t>1):
        return at
    return -1


cdef void make_room(Places* starts, uint32_t[::1] birth, uint64_t[::1] length,
                    uint32_t[::1] ended, const uint64_t[::1] places, Tally* tally,
                    Py_ssize_t event, uint64_t place, uint64_t size) noexcept nogil:
    """End the objects over which a newer one comes, and note each."""
    cdef uint64_t end = places[place] + max(size, <uint64_t>1)
    cdef int64_t at = holder(starts, length, places, place, places[place])
    if at < 0:
        at = after(starts, place)
    while at >= 0 and places[at] < end:
        note(tally, A_OVERLAP, event, birth[at] + 1)
        vanish(starts, length, tally, at)
        ended[at] = <uint32_t>(event + 1)
        at = after(starts, place)


cdef bint open_places(Places* starts, uint64_t count) noexcept nogil:
    cdef int level
    starts.height = 0
    for level in range(7):
        starts.levels[level] = NULL
    while True:
        count = (count + 63) >> 6
        starts.levels[starts.height] = <uint64_t*>calloc(count, sizeof(uint64_t))
        if starts.levels[starts.height] == NULL:
            return False
        starts.height += 1
        if count == 1:
            return True


cdef void close_places(Places* starts) noexcept nogil:
    cdef int level
    for level in range(7):
        free(starts.levels[level])


cdef inline bint is_set(Places* starts, uint64_t place) noexcept nogil:
    return starts.levels[0][place >> 6] >> (place & 63) & 1


cdef inline void set_place(Places* starts, uint64_t place) noexcept nogil:
    cdef int level
    for level in range(starts.height):
        starts.levels[level][place >> 6] |= <uint64_t>1 << (place & 63)
        place >>= 6


cdef inline void clear_place(Places* starts, uint64_t place) noexcept nogil:
    cdef int level
    for level in range(starts.height):
        starts.levels[level][place >> 6] &= ~(<uint64_t>1 << (place & 63))
        if starts.levels[level][place >> 6]:
            return
        place >>= 6


cdef int64_t before(Places* starts, uint64_t place) noexcept nogil:
    """Return the last set place up to one, or −1."""
    cdef int level
    cdef uint64_t word, mask = ONES >> (63 - (place & 63))
    for level in range(starts.height):
        word = starts.levels[level][place >> 6] & mask
        if word:
            place = (place >> 6) << 6 | <uint64_t>replay_high_bit(word)
            while level:
                level -= 1
                place = place << 6 | <uint64_t>replay_high_bit(starts.levels[level][place])
            return <int64_t>place
        place >>= 6
        mask = (<uint64_t>1 << (place & 63)) - 1
    return -1


cdef int64_t after(Places* starts, uint64_t place) noexcept nogil:
    """Return the first set place behind one, or −1."""
    cdef int level
    cdef uint64_t word
    for level in range(starts.height):
        # Twice: a shift by 64 is none.
        word = starts.levels[level][place >> 6] & (ONES << (place & 63) << 1)
        if word:
            place = (place >> 6) << 6 | <uint64_t>replay_low_bit(word)
            while level:
                level -= 1
                place = place << 6 | <uint64_t>replay_low_bit(starts.levels[level][place])
            return <int64_t>place
        place >>= 6
    return -1
