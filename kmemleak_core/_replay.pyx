# cython: embedsignature=False
# Addresses wrap around and shifts are never too far: checked arithmetic would only need the GIL.
# cython: overflowcheck=False, cdivision=True
"""The loops over an allocation log: its live set backwards, and everything else forwards."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

import numpy as np

cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/mman.h>
    #define replay_prefetch(p) __builtin_prefetch((p), 1, 3)
    #define replay_low_bit(v) __builtin_ctzll(v)
    #define replay_unlikely(x) __builtin_expect(!!(x), 0)
    #define replay_rotate(v, n) ((v) >> (n) | (v) << (-(n) & 63))

    /* Zeroed memory, of which only what is touched exists. */
    static void *replay_reserve(size_t size, int huge)
    {
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return NULL;
    #ifdef MADV_HUGEPAGE
        if (huge)
            madvise(memory, size, MADV_HUGEPAGE);
    #endif
        return memory;
    }
    """
    void replay_prefetch(const void*) nogil
    int replay_low_bit(uint64_t) nogil
    bint replay_unlikely(bint) nogil
    uint64_t replay_rotate(uint64_t, int) nogil
    void* replay_reserve(size_t, bint) nogil
    int munmap(void*, size_t) nogil

# Kinds of events.
ALLOC = 0
FREE = 1
FREE_PART = 2
RESIZE = 3

# Kinds of anomalies.
OVERLAP = 0
DOUBLE_FREE = 1
INTERIOR_FREE = 2
UNKNOWN_FREE = 3

# Events of one log: their numbers plus one are kept in 32 bits.
MOST_EVENTS = (1 << 32) - 2

cdef enum:
    # log2 of granules in a region, and of the most regions that a span may have.
    REGION_BITS = 18
    SPAN_BITS = 26
    # Events whose table lines are fetched ahead.
    BATCH = 256
    # The granules of objects are claimed word by word: so many words an event are still fast.
    WORDS = 32
    # A table may take so many bytes at once, and so many more for each event.
    TABLE_BYTES = 1 << 27
    EVENT_BYTES = 64

cdef uint64_t REGION = <uint64_t>1 << REGION_BITS
cdef uint64_t ONES = <uint64_t>0xFFFFFFFFFFFFFFFF
# No sum of so many words overflows.
cdef uint64_t HUGE = 0x80000000
# The upper half of an entry: the object's size, or one of these.
cdef uint64_t FREED = 0xFFFFFFFF
cdef uint64_t LARGE = 0xFFFFFFFE


cdef struct Granules:
    # The addresses of a log as slots: small numbers, 0 for the null pointer. A region of
    # 2**REGION_BITS granules gets slots when it is first met, so that a sparse span costs nothing;
    # `top` tells how far its slots are from its granules, plus one.
    uint64_t base
    int shift
    uint64_t last
    uint64_t regions
    uint32_t* top
    uint32_t used
    uint32_t room
    bint full


cdef uint8_t kinds_of(const uint8_t[::1] kind) noexcept nogil:
    """Return all kinds or-ed together: up to 3 there is none above."""
    cdef uint8_t kinds = 0
    cdef Py_ssize_t i
    for i in range(kind.shape[0]):
        kinds |= kind[i]
    return kinds


cdef Survey survey(const uint8_t[::1] kind, const uint64_t[::1] address,
                   const uint64_t[::1] size) noexcept nogil:
    """Find the bounds of a log; without sizes, those of the addresses only."""
    cdef Survey found
    cdef uint64_t a, length, last, low = ONES, high = 0, bits = 0, words = 0
    cdef bint leaves = False
    cdef Py_ssize_t i
    for i in range(address.shape[0]):
        a = address[i]
        length = size[i] if size.shape[0] and a and kind[i] != E_FREE else 0
        last = a + length - (length != 0)
        bits |= a
        # The null pointer is no bound.
        low = min(low, a - 1)
        high = max(high, last)
        leaves |= last < a or last >= ONES - 1
        words += min(length >> 6, HUGE)
    found.low = low + 1
    found.high = high
    found.bits = bits
    found.words = words
    found.leaves = leaves
    return found


cdef bint open_granules(Granules* map, Survey* seen, uint64_t room) noexcept nogil:
    """Prepare slots for what a survey saw; False if its span is too sparse for a table."""
    map.used = 0
    map.full = False
    map.shift = replay_low_bit(seen.bits | 1 << 12)
    map.base = seen.low
    map.last = (seen.high - seen.low) >> map.shift
    map.regions = (map.last >> REGION_BITS) + 1
    map.top = NULL
    if map.regions > (<uint64_t>1 << SPAN_BITS):
        return False
    room >>= REGION_BITS
    # One region is slot 0's.
    map.room = <uint32_t>min(map.regions, room, (<uint64_t>1 << (32 - REGION_BITS)) - 1)
    map.top = <uint32_t*>replay_reserve((map.regions + 1) * sizeof(uint32_t), False)
    return map.top != NULL


cdef void close_granules(Granules* map) noexcept nogil:
    if map.top != NULL:
        munmap(map.top, (map.regions + 1) * sizeof(uint32_t))


cdef inline uint64_t slots_of(Granules* map) noexcept nogil:
    return (<uint64_t>map.room + 1) << REGION_BITS


cdef inline uint64_t granule_of(Granules* map, uint64_t address) noexcept nogil:
    """Return the number of a granule; one behind all for an address that has none."""
    # Rotated, what is not aligned becomes huge, as what is out of bounds is.
    cdef uint64_t granule = replay_rotate(address - map.base, map.shift)
    return granule if granule <= map.last else map.regions << REGION_BITS


cdef inline uint32_t slot_of(Granules* map, uint64_t address) noexcept nogil:
    """Return the slot of an address; a region gets its slots here."""
    cdef uint64_t granule = granule_of(map, address)
    cdef uint32_t shift = map.top[granule >> REGION_BITS]
    if replay_unlikely(shift == 0):
        shift = number_region(map, granule >> REGION_BITS, address)
        if shift == 0:
            return 0
    return <uint32_t>granule + shift - 1


cdef uint32_t number_region(Granules* map, uint64_t region, uint64_t address) noexcept nogil:
    """Give a region its slots; 0 for the null pointer, and where there is no room."""
    if address == 0:
        return 0
    if region == map.regions or map.used == map.room:
        map.full = True
        return 0
    map.used += 1
    # One more: 0 is a region that has none yet.
    map.top[region] = ((map.used - <uint32_t>region) << REGION_BITS) + 1
    return map.top[region]


def live_set(const uint8_t[::1] kind not None, const uint64_t[::1] address not None):
    """See _replay.pyi."""
    cdef Survey seen
    cdef Py_ssize_t first
    cdef uint32_t[::1] room
    if check_events(kind, address, kind.shape[0]) > E_FREE:
        return None
    # What nearly all logs are: a program's, on an allocator that aligns to 16 bytes.
    seen.low = seen.bits = 16
    seen.high = (<uint64_t>1 << 47) - 1
    # Filled from the end on; what is never touched takes no memory. One more: see `collect`.
    found = np.empty(kind.shape[0] + 1, dtype=np.uint32)
    room = found
    with nogil:
        first = walk_back(&seen, kind, address, room)
        if first < 0:
            seen = survey(kind, address, address[:0])
            first = walk_back(&seen, kind, address, room)
    return None if first < 0 else found[first:]


cdef Py_ssize_t walk_back(Survey* seen, const uint8_t[::1] kind, const uint64_t[::1] address,
                          uint32_t[::1] found) noexcept nogil:
    """Find allocations that are the last event at their address, from the last on.

    Returns the place in `found` of the first; −1 if a table cannot do it.
    """
    cdef Granules map
    cdef uint64_t* bits = NULL
    cdef uint64_t size
    cdef Py_ssize_t first = -1
    if open_granules(&map, seen, (TABLE_BYTES + EVENT_BYTES * kind.shape[0]) << 3):
        size = slots_of(&map) >> 3
        bits = <uint64_t*>replay_reserve(size, True)
        if bits != NULL:
            first = collect(&map, bits, kind, address, found)
            munmap(bits, size)
    close_granules(&map)
    return first


cdef Py_ssize_t collect(Granules* given, uint64_t* bits, const uint8_t[::1] kind,
                        const uint64_t[::1] address, uint32_t[::1] found) noexcept nogil:
    cdef Granules map = given[0]
    cdef uint32_t slots[BATCH]
    cdef Py_ssize_t i, begin, limit = kind.shape[0]
    cdef uint32_t* next = &found[limit]
    cdef uint32_t slot
    cdef uint64_t old
    # Nothing is ever found at the null pointer.
    bits[0] = 1
    while limit > 0:
        begin = max(0, limit - BATCH)
        for i in range(limit - 1, begin - 1, -1):
            slot = slot_of(&map, address[i])
            slots[i - begin] = slot
            replay_prefetch(&bits[slot >> 6])
        if map.full:
            return -1
        for i in range(limit - 1, begin - 1, -1):
            slot = slots[i - begin]
            old = bits[slot >> 6]
            bits[slot >> 6] = old | <uint64_t>1 << (slot & 63)
            # Always written, seldom kept: no branch to guess. Here ALLOC is 0 and FREE is 1.
            next[0] = <uint32_t>i
            next -= ~(old >> (slot & 63) | kind[i]) & 1
        limit = begin
    return next - &found[0] + 1


def replay_granules(const uint8_t[::1] kind not None, const uint64_t[::1] address not None,
                    const uint64_t[::1] size not None, Py_ssize_t samples, Py_ssize_t most):
    """See _replay.pyi."""
    cdef Granules map
    cdef Survey seen
    cdef Outcome out = Outcome(kind.shape[0], samples, most)
    cdef uint64_t* entries = NULL
    cdef uint64_t* bits = NULL
    cdef uint64_t slots, n = kind.shape[0]
    cdef bint regular = False
    if check_events(kind, address, size.shape[0]) > E_FREE:
        return None
    if n == 0:
        return out
    with nogil:
        seen = survey(kind, address, size)
    if seen.leaves:
        raise ValueError("an object leaves the address space")
    if seen.bits == 0:
        out.tally.nulls = n
        return out
    with nogil:
        if open_granules(&map, &seen, (TABLE_BYTES + EVENT_BYTES * n) >> 3) and (
                seen.words >> map.shift <= WORDS * n + 4096):
            slots = slots_of(&map)
            entries = <uint64_t*>replay_reserve(slots * sizeof(uint64_t), n >= 1 << 16)
            bits = <uint64_t*>replay_reserve(slots >> 3, n >= 1 << 16)
            if entries != NULL and bits != NULL:
                regular = walk_granules(&map, entries, bits, kind, address, size, out)
            if entries != NULL:
                munmap(entries, slots * sizeof(uint64_t))
            if bits != NULL:
                munmap(bits, slots >> 3)
        close_granules(&map)
    return out if regular else None


cdef bint walk_granules(Granules* map, uint64_t* entries, uint64_t* bits,
                        const uint8_t[::1] kind, const uint64_t[::1] address,
                        const uint64_t[::1] size, Outcome out) noexcept nogil:
    """Replay frees and allocations that do not overlap; False where anything else is met.

    An entry is a granule's last event plus one and, above that, the size of the object that was
    allocated there or FREED. A bit tells whether an object lies on the granule.
    """
    cdef uint32_t slots[BATCH]
    cdef Tally* tally = &out.tally
    cdef Py_ssize_t sample, begin = 0, end, i, j, limit
    cdef uint64_t length, entry, mark, round = (<uint64_t>1 << map.shift) - 1
    cdef uint32_t slot
    for sample in range(out.samples):
        end = out.sample_event[sample] + 1
        while begin < end:
            limit = min(BATCH, end - begin)
            for j in range(limit):
                slot = slot_of(map, address[begin + j])
                slots[j] = slot
                replay_prefetch(&entries[slot])
                replay_prefetch(&bits[slot >> 6])
            if map.full:
                return False
            for j in range(limit):
                i = begin + j
                slot = slots[j]
                entry = entries[slot]
                mark = entry >> 32
                if slot == 0:
                    tally.nulls += 1
                elif kind[i] == E_ALLOC:
                    length = size[i]
                    if toggle(map, bits, slot, address[i], (length + round + (length == 0))
                              >> map.shift):
                        return False
                    entries[slot] = min(length, LARGE) << 32 | <uint64_t>(i + 1)
                    tally.count += 1
                    tally.nbytes += length
                    note_peak(tally, i)
                elif entry != 0 and mark != FREED:
                    length = mark if mark != LARGE else size[(entry & FREED) - 1]
                    toggle(map, bits, slot, address[i], (length + round + (length == 0))
                           >> map.shift)
                    entries[slot] = FREED << 32 | <uint64_t>(i + 1)
                    tally.count -= 1
                    tally.nbytes -= length
                elif bits[slot >> 6] >> (slot & 63) & 1:
                    return False
                else:
                    note(tally, A_DOUBLE if entry else A_UNKNOWN, i, <uint32_t>entry)
            begin += limit
            if map.full:
                return False
        out.sample_count[sample] = tally.count
        out.sample_bytes[sample] = tally.nbytes
    return True


cdef inline bint toggle(Granules* map, uint64_t* bits, uint32_t slot, uint64_t address,
                        uint64_t granules) noexcept nogil:
    """Flip the bits of an object's granules; tells whether one was set."""
    cdef uint64_t mask, old
    if (slot & 63) + granules <= 64:
        mask = (ONES >> (64 - granules)) << (slot & 63)
        old = bits[slot >> 6]
        bits[slot >> 6] = old ^ mask
        return (old & mask) != 0
    return toggle_words(map, bits, address, granules)


cdef bint toggle_words(Granules* map, uint64_t* bits, uint64_t address,
                       uint64_t granules) noexcept nogil:
    """Do as `toggle` does, across words and regions."""
    cdef uint64_t slot, step, mask, met = 0
    while granules:
        slot = slot_of(map, address)
        if map.full:
            return True
        # To the region's end; behind it the slots are others.
        step = min(granules, REGION - (slot & (REGION - 1)))
        granules -= step
        address += step << map.shift
        while step:
            if slot & 63 or step < 64:
                mask = min(step, 64 - (slot & 63))
                step -= mask
                mask = (ONES >> (64 - mask)) << (slot & 63)
                met |= bits[slot >> 6] & mask
                bits[slot >> 6] ^= mask
                slot = (slot | 63) + 1
            else:
                met |= bits[slot >> 6]
                bits[slot >> 6] ^= ONES
                slot += 64
                step -= 64
    return met != 0


cdef class Outcome:
    """See _replay.pyi."""

    def __init__(self, Py_ssize_t events, Py_ssize_t samples, Py_ssize_t most):
        if events > MOST_EVENTS:
            raise ValueError(f"{events:,} events are more than {MOST_EVENTS:,}")
        if samples < 1 or most < 0:
            raise ValueError("one sample at least, and no negative number of anomalies")
        self.samples = min(samples, events)
        # The last event of each of equal parts.
        self.sample_event = (np.arange(1, self.samples + 1) * events
                             // max(1, self.samples) - 1).astype(np.int64)
        self.sample_count = np.zeros(self.samples, dtype=np.uint64)
        self.sample_bytes = np.zeros(self.samples, dtype=np.uint64)
        # An entry more: an empty array has no first one to point to.
        self.events = np.zeros(4 * most + 1, dtype=np.uint32)
        self.others = np.zeros(4 * most + 1, dtype=np.uint32)
        self.tally.most = most
        self.tally.event = &self.events[0]
        self.tally.other = &self.others[0]
        self.live = None

    @property
    def count(self):
        return self.tally.count

    @property
    def nbytes(self):
        return self.tally.nbytes

    @property
    def nulls(self):
        return self.tally.nulls

    @property
    def peak_count(self):
        return self.tally.peak_count, self.tally.peak_count_event

    @property
    def peak_bytes(self):
        return self.tally.peak_bytes, self.tally.peak_bytes_event

    @property
    def timeline(self):
        return (np.asarray(self.sample_event), np.asarray(self.sample_count),
                np.asarray(self.sample_bytes))

    @property
    def totals(self):
        return tuple(self.tally.totals[kind] for kind in range(4))

    def anomalies(self, int kind):
        if not 0 <= kind < 4:
            raise ValueError(f"{kind} is no kind of anomaly")
        first = kind * self.tally.most
        last = first + min(self.tally.most, self.tally.totals[kind])
        return (np.asarray(self.events)[first:last].astype(np.int64),
                np.asarray(self.others)[first:last].astype(np.int64) - 1)


cdef int check_events(const uint8_t[::1] kind, const uint64_t[::1] address,
                      Py_ssize_t other) except -1:
    """Check columns, and return their kinds or-ed together."""
    cdef int kinds
    if kind.shape[0] != address.shape[0] or kind.shape[0] != other:
        raise ValueError(f"{kind.shape[0]} kinds, {address.shape[0]} addresses, {other} others")
    if kind.shape[0] > MOST_EVENTS:
        raise ValueError(f"{kind.shape[0]:,} events are more than {MOST_EVENTS:,}")
    kinds = kinds_of(kind)
    if kinds > E_RESIZE:
        raise ValueError("an event of an unknown kind")
    return kinds
