# cython: embedsignature=False
"""Keeps the live objects of one address space: by address, by slot, in allocation order."""

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset


cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/mman.h>
    #include <sys/resource.h>
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif

    /* Address space that becomes memory by kmt_commit; NULL if there is not so much. */
    static char* kmt_reserve(size_t size) {
        void* data = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                          -1, 0);
        return data == MAP_FAILED ? NULL : (char*)data;
    }
    static int kmt_commit(char* data, size_t size) {
        return mprotect(data, size, PROT_READ | PROT_WRITE);
    }
    static void kmt_release(char* data, size_t size) {
        munmap(data, size);
    }
    /* How much address space one table may take where the process has a limit. */
    static size_t kmt_share(void) {
        struct rlimit limit;
        if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return (size_t)-1;
        return (size_t)limit.rlim_cur / 16;
    }
    static inline void kmt_prefetch(const void* address) { __builtin_prefetch(address); }
    """
    char* kmt_reserve(size_t size) nogil
    int kmt_commit(char* data, size_t size) nogil
    void kmt_release(char* data, size_t size) nogil
    size_t kmt_share() nogil
    void kmt_prefetch(const void* address) nogil


RECORD = np.dtype([
    ("address", np.uint64), ("size", np.uint64), ("sequence", np.uint64),
    ("checksum", np.uint32), ("min_count", np.int32), ("count", np.int32),
    ("birth", np.uint32), ("trace", np.uint32), ("flags", np.uint16), ("sightings", np.uint16),
])
assert RECORD.itemsize == sizeof(Record) == 48
# What callers may write: the other fields are the table's own.
_WRITABLE = ("checksum", "min_count", "count", "birth", "trace", "flags", "sightings")

cdef enum:
    # Entries of a block at most; the unit of its growth, which is what it wastes; bytes of an
    # entry, a start and a slot.
    BLOCK = 512
    STEP = 64
    ENTRY = 12
    # Records become memory in such portions; bulk calls hold the lock for so many rows.
    PORTION = 65536
    ROWS = 4096
    AHEAD = 16

# The engine's tables end there too.
cdef size_t MOST_OBJECTS = 1 << 30


cdef class Slab:
    # The records' memory. It grows in place, so that views of it stay true, and it outlives the
    # table as long as there are any.

    def __cinit__(self, size_t objects):
        cdef size_t size = (objects * sizeof(Record) + PORTION - 1) // PORTION * PORTION
        while size > kmt_share() and size > PORTION:
            size = (size // 2 + PORTION - 1) // PORTION * PORTION
        self.data = kmt_reserve(size)
        while self.data == NULL and size > PORTION:
            size = (size // 2 + PORTION - 1) // PORTION * PORTION
            self.data = kmt_reserve(size)
        if self.data == NULL:
            raise MemoryError
        self.reserved = size

    def __dealloc__(self):
        if self.data != NULL:
            kmt_release(self.data, self.reserved)

    cdef int grow(self) noexcept nogil:
        if self.committed == self.reserved or kmt_commit(self.data + self.committed, PORTION):
            return -1
        self.committed += PORTION
        return 0


cdef class _View:
    # The part of a slab that was in use when the view was made, for numpy.
    cdef Slab slab
    cdef Py_ssize_t nbytes

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.slab.data, self.nbytes, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


cdef inline Py_ssize_t rank(const uint64_t* keys, Py_ssize_t count, uint64_t value) noexcept nogil:
    # How many keys are at most the value. Without a branch on the comparison: it would be
    # mispredicted half the time.
    cdef Py_ssize_t low = 0, half
    while count:
        half = (count + 1) >> 1
        low += half & -<Py_ssize_t>(keys[low + half - 1] <= value)
        count -= half
    return low


cdef inline Py_ssize_t rank_in_block(const uint64_t* keys, Py_ssize_t count,
                                     uint64_t value) noexcept nogil:
    # The same, for keys that are not in the cache: each step compares keys that lie apart,
    # whose cache misses overlap, where halving would wait for one after the other.
    cdef Py_ssize_t low = 0, i, stride = 64, found
    while stride:
        found = 0
        i = low + stride
        while i <= count and i <= low + 8 * stride:
            found += keys[i - 1] <= value
            i += stride
        low += found * stride
        stride >>= 3
    return low


cdef inline uint64_t extent(uint64_t size) noexcept nogil:
    return size if size else 1


cdef class ObjectStore:

    def __cinit__(self, size_t limit=1 << 28):
        if limit == 0 or limit > MOST_OBJECTS:
            raise ValueError("a table holds between 1 and 2**30 objects")
        self.slab = Slab(limit)
        self.rows = <Record*>self.slab.data
        self.low = UINT64_MAX
        self.last.block = -1

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.block_count):
            free(self.blocks[i].starts)
        free(self.firsts)
        free(self.blocks)

    # The index. A full block is split in halves, neighbours that fill half a block together are
    # joined: hundreds of calls lie between two changes of the upper level, whatever the order.

    cdef void locate(self, uint64_t address) noexcept nogil:
        # Sets `last` to the last entry that starts at or before the address.
        cdef Py_ssize_t b = self.last.block, e = self.last.entry, count
        cdef const uint64_t* starts
        if not (0 <= b < self.block_count and self.firsts[b] <= address
                and (b + 1 == self.block_count or address < self.firsts[b + 1])):
            b = rank(self.firsts, self.block_count, address) - 1
            e = -1
        self.last.block = b
        self.last.entry = -1
        if b < 0:
            return
        starts = self.blocks[b].starts
        count = self.blocks[b].count
        if not (0 <= e < count and starts[e] <= address
                and (e + 1 == count or address < starts[e + 1])):
            e = rank_in_block(starts, count, address) - 1
        self.last.entry = e

    cdef void foresee(self, const uint64_t* address, Py_ssize_t count,
                      Place* guess) noexcept nogil:
        # Stage by stage for all, so that the cache misses of many calls overlap. A guess may be
        # off by then, by what the calls before have moved: `locate` checks it.
        cdef Py_ssize_t i, b
        cdef const Block* block
        for i in range(count):
            b = rank(self.firsts, self.block_count, address[i]) - 1
            guess[i].block = b
            guess[i].entry = -1
            if b >= 0:
                block = &self.blocks[b]
                kmt_prefetch(block.starts + block.count // 2)
                kmt_prefetch(block.starts + block.count // 4)
                kmt_prefetch(block.starts + block.count // 4 * 3)
        for i in range(count):
            if guess[i].block >= 0:
                block = &self.blocks[guess[i].block]
                guess[i].entry = rank_in_block(block.starts, block.count, address[i]) - 1
                kmt_prefetch(block.slots + guess[i].entry)
        for i in range(count):
            if guess[i].block >= 0:
                block = &self.blocks[guess[i].block]
                kmt_prefetch(&self.rows[block.slots[guess[i].entry]])

    cdef int set_room(self, Block* block, uint32_t room) noexcept nogil:
        cdef uint64_t* starts = <uint64_t*>malloc(room * <size_t>ENTRY)
        if starts == NULL:
            return -1
        memcpy(starts, block.starts, block.count * sizeof(uint64_t))
        memcpy(starts + room, block.slots, block.count * sizeof(uint32_t))
        free(block.starts)
        self.entry_room += room
        self.entry_room -= block.room
        block.starts = starts
        block.slots = <uint32_t*>(starts + room)
        block.room = room
        return 0

    cdef int open_block(self, Py_ssize_t at, uint32_t room) noexcept nogil:
        cdef Py_ssize_t more
        cdef void* data
        cdef Block block
        if self.block_count == self.block_room:
            more = self.block_room + self.block_room // 4 + 16
            data = realloc(self.firsts, more * sizeof(uint64_t))
            if data == NULL:
                return -1
            self.firsts = <uint64_t*>data
            data = realloc(self.blocks, more * sizeof(Block))
            if data == NULL:
                return -1
            self.blocks = <Block*>data
            self.block_room = more
        block.starts = <uint64_t*>malloc(room * <size_t>ENTRY)
        if block.starts == NULL:
            return -1
        block.slots = <uint32_t*>(block.starts + room)
        block.count = 0
        block.room = room
        memmove(self.firsts + at + 1, self.firsts + at,
                (self.block_count - at) * sizeof(uint64_t))
        memmove(self.blocks + at + 1, self.blocks + at, (self.block_count - at) * sizeof(Block))
        self.blocks[at] = block
        self.block_count += 1
        self.entry_room += room
        return 0

    cdef void close_block(self, Py_ssize_t at) noexcept nogil:
        self.entry_room -= self.blocks[at].room
        free(self.blocks[at].starts)
        self.block_count -= 1
        memmove(self.firsts + at, self.firsts + at + 1,
                (self.block_count - at) * sizeof(uint64_t))
        memmove(self.blocks + at, self.blocks + at + 1, (self.block_count - at) * sizeof(Block))

    cdef int split(self, Py_ssize_t at) noexcept nogil:
        cdef uint32_t kept = BLOCK // 2, moved = BLOCK - kept
        cdef Block* left
        cdef Block* right
        if self.open_block(at + 1, moved) < 0:
            return -1
        left = &self.blocks[at]
        right = &self.blocks[at + 1]
        memcpy(right.starts, left.starts + kept, moved * sizeof(uint64_t))
        memcpy(right.slots, left.slots + kept, moved * sizeof(uint32_t))
        right.count = moved
        left.count = kept
        self.firsts[at + 1] = right.starts[0]
        # If there is no memory for it, the block just stays long.
        self.set_room(left, kept + STEP)
        return 0

    cdef void join(self, Py_ssize_t at) noexcept nogil:
        cdef Block* left = &self.blocks[at]
        cdef Block* right = &self.blocks[at + 1]
        cdef uint32_t count = left.count + right.count
        if left.room < count and self.set_room(left, count) < 0:
            return
        memcpy(left.starts + left.count, right.starts, right.count * sizeof(uint64_t))
        memcpy(left.slots + left.count, right.slots, right.count * sizeof(uint32_t))
        left.count = count
        self.close_block(at + 1)

    cdef int enter(self, uint64_t address, uint32_t slot) noexcept nogil:
        # Puts an entry behind `last`, which `locate` found, and moves `last` there.
        cdef Py_ssize_t b = self.last.block, e = self.last.entry + 1
        cdef Block* block
        if b < 0:
            b = 0
            if self.block_count == 0 and self.open_block(0, STEP) < 0:
                return -1
        if self.blocks[b].count == BLOCK:
            if e == BLOCK and b + 1 == self.block_count:
                # Behind everything: ascending addresses leave full blocks behind.
                if self.open_block(b + 1, STEP) < 0:
                    return -1
                b += 1
                e = 0
            elif e == BLOCK and self.blocks[b + 1].count < BLOCK:
                b += 1
                e = 0
            else:
                if self.split(b) < 0:
                    return -1
                if e > self.blocks[b].count:
                    e -= self.blocks[b].count
                    b += 1
        block = &self.blocks[b]
        if block.count == block.room:
            if self.set_room(block, min(block.room + STEP, <uint32_t>BLOCK)) < 0:
                return -1
        memmove(block.starts + e + 1, block.starts + e, (block.count - e) * sizeof(uint64_t))
        memmove(block.slots + e + 1, block.slots + e, (block.count - e) * sizeof(uint32_t))
        block.starts[e] = address
        block.slots[e] = slot
        block.count += 1
        if e == 0:
            self.firsts[b] = address
        self.last.block = b
        self.last.entry = e
        return 0

    cdef void leave(self) noexcept nogil:
        # Takes the entry at `last` out.
        cdef Py_ssize_t b = self.last.block, e = self.last.entry
        cdef Block* block = &self.blocks[b]
        block.count -= 1
        if block.count == 0:
            self.close_block(b)
            return
        memmove(block.starts + e, block.starts + e + 1, (block.count - e) * sizeof(uint64_t))
        memmove(block.slots + e, block.slots + e + 1, (block.count - e) * sizeof(uint32_t))
        if e == 0:
            self.firsts[b] = block.starts[0]
        if block.count < BLOCK // 4:
            if b + 1 < self.block_count and block.count + (block + 1).count <= BLOCK // 2:
                self.join(b)
            elif b > 0 and block.count + (block - 1).count <= BLOCK // 2:
                self.join(b - 1)
                return
        if block.room - block.count >= 2 * STEP:
            self.set_room(block, (block.count + STEP - 1) // STEP * STEP)

    # The records.

    cdef int64_t add(self, uint64_t address, uint64_t size, int32_t min_count, uint16_t flags,
                     uint32_t birth, uint32_t trace) noexcept nogil:
        cdef uint64_t length = extent(size), following = 0, slot
        cdef Block* block
        cdef Record* record
        cdef int64_t other = -1
        if address >= UINT64_MAX - length:
            return OUTSIDE
        self.low = min(self.low, address)
        self.high = max(self.high, address + length)
        self.locate(address)
        if self.last.block >= 0:
            block = &self.blocks[self.last.block]
            slot = block.slots[self.last.entry]
            if address - block.starts[self.last.entry] < extent(self.rows[slot].size):
                return -1 - <int64_t>slot
            if self.last.entry + 1 < block.count:
                following = block.starts[self.last.entry + 1]
                other = block.slots[self.last.entry + 1]
        if other < 0 and self.last.block + 1 < self.block_count:
            following = self.firsts[self.last.block + 1]
            other = self.blocks[self.last.block + 1].slots[0]
        if other >= 0 and following - address < length:
            return -1 - other
        # The chain of free slots lies where callers can write: what it says is checked.
        slot = self.free_slot - 1 if self.free_slot else self.used
        if self.free_slot and (slot >= self.used or self.rows[slot].sequence):
            self.free_slot = 0
            slot = self.used
        if (slot + 1) * sizeof(Record) > self.slab.committed and self.slab.grow() < 0:
            return NO_MEMORY
        if self.enter(address, <uint32_t>slot) < 0:
            return NO_MEMORY
        record = &self.rows[slot]
        if slot == self.used:
            self.used += 1
        else:
            self.free_slot = record.address
        self.live += 1
        self.sequence += 1
        record.address = address
        record.size = size
        record.sequence = self.sequence
        record.checksum = 0
        record.min_count = min_count
        record.count = 0
        record.birth = birth
        record.trace = trace
        record.flags = flags
        record.sightings = 0
        return <int64_t>slot

    cdef int64_t look(self, uint64_t address, bint exact) noexcept nogil:
        cdef Block* block
        cdef uint64_t past
        cdef uint32_t slot
        self.locate(address)
        if self.last.block < 0:
            return -1
        block = &self.blocks[self.last.block]
        slot = block.slots[self.last.entry]
        past = address - block.starts[self.last.entry]
        if past and (exact or past >= extent(self.rows[slot].size)):
            return -1
        return slot

    cdef bint holds(self, uint64_t slot, uint64_t sequence) noexcept nogil:
        cdef uint64_t held = self.rows[slot].sequence if slot < self.used else 0
        return held != 0 and (held == sequence or sequence == 0)

    cdef bint drop(self, uint64_t slot, uint64_t sequence) noexcept nogil:
        cdef Record* record
        if not self.holds(slot, sequence):
            return False
        record = &self.rows[slot]
        if self.look(record.address, True) != <int64_t>slot:
            return False
        self.leave()
        memset(record, 0, sizeof(Record))
        record.address = self.free_slot
        self.free_slot = slot + 1
        self.live -= 1
        return True

    # What Python sees. One at a time:

    def insert(self, uint64_t address, uint64_t size, int32_t min_count=1, uint16_t flags=0,
               uint32_t birth=0, uint32_t trace=0):
        """Add an object; see the stub."""
        cdef int64_t slot
        with self.lock:
            slot = self.add(address, size, min_count, flags, birth, trace)
        if slot <= OUTSIDE:
            refuse(self, slot, address, size)
        return slot

    def find(self, uint64_t address):
        """Find the object that holds an address; see the stub."""
        cdef int64_t slot
        with self.lock:
            slot = self.look(address, False)
        return slot

    def exact(self, uint64_t address):
        """Find the object that starts at an address; see the stub."""
        cdef int64_t slot
        with self.lock:
            slot = self.look(address, True)
        return slot

    def remove(self, uint64_t slot, uint64_t sequence=0):
        """Remove the object in a slot; see the stub."""
        cdef bint done
        with self.lock:
            done = self.drop(slot, sequence)
        if not done:
            raise LookupError(f"slot {slot} does not hold that object")

    def discard(self, uint64_t address):
        """Remove the object that starts at an address; see the stub."""
        cdef int64_t slot
        cdef bint done
        with self.lock:
            slot = self.look(address, True)
            done = slot >= 0 and self.drop(<uint64_t>slot, 0)
        return done

    def sequence_of(self, uint64_t slot):
        """Return the sequence number of a slot's object; see the stub."""
        cdef uint64_t sequence
        with self.lock:
            sequence = self.rows[slot].sequence if slot < self.used else 0
        return sequence

    def alive(self, uint64_t slot, uint64_t sequence):
        """Tell whether a slot still holds that object; see the stub."""
        cdef bint held
        with self.lock:
            held = sequence != 0 and self.holds(slot, sequence)
        return held

    def at(self, uint64_t address, bint exact=False):
        """Copy the record of the object that holds an address; see the stub."""
        cdef Record found
        cdef int64_t slot
        with self.lock:
            slot = self.look(address, exact)
            if slot >= 0:
                found = self.rows[slot]
        if slot < 0:
            return None
        return slot, np.frombuffer((<char*>&found)[:sizeof(Record)], dtype=RECORD)[0]

    def set_min_count(self, uint64_t slot, int32_t min_count, uint64_t sequence=0):
        """Paint an object; see the stub."""
        cdef bint done
        with self.lock:
            done = self.holds(slot, sequence)
            if done:
                self.rows[slot].min_count = min_count
        if not done:
            raise LookupError(f"slot {slot} does not hold that object")

    def change_flags(self, uint64_t slot, uint16_t set=0, uint16_t clear=0, uint64_t sequence=0):
        """Set and clear an object's flags; see the stub."""
        cdef bint done
        cdef uint16_t flags = 0
        with self.lock:
            done = self.holds(slot, sequence)
            if done:
                flags = (self.rows[slot].flags & ~clear) | set
                self.rows[slot].flags = flags
        if not done:
            raise LookupError(f"slot {slot} does not hold that object")
        return flags

    # Many at a time:

    def insert_many(self, const uint64_t[:] address, const uint64_t[:] size, min_count=1,
                    flags=0, birth=0, trace=0):
        """Add objects; see the stub."""
        cdef Py_ssize_t n = address.shape[0], i = 0, until
        cdef const int32_t[:] min_counts = _column(min_count, np.int32, n)
        cdef const uint16_t[:] flag_words = _column(flags, np.uint16, n)
        cdef const uint32_t[:] births = _column(birth, np.uint32, n)
        cdef const uint32_t[:] traces = _column(trace, np.uint32, n)
        cdef int64_t slot = 0
        cdef Place guess[AHEAD]
        cdef bint scattered = False
        if size.shape[0] != n:
            raise ValueError("the columns of the objects differ in length")
        for i in range(n):
            if address[i] >= UINT64_MAX - extent(size[i]):
                refuse(self, OUTSIDE, address[i], size[i])
        slots = np.empty(n, dtype=np.int64)
        cdef int64_t[::1] out = slots
        i = 0
        with nogil:
            while i < n and slot != NO_MEMORY:
                until = min(n, i + <Py_ssize_t>ROWS)
                with self.lock:
                    while i < until:
                        if i % AHEAD == 0:
                            scattered = foresee_rows(self, address, i, until, guess)
                        if scattered:
                            self.last = guess[i % AHEAD]
                        slot = self.add(address[i], size[i], min_counts[i], flag_words[i],
                                        births[i], traces[i])
                        if slot == NO_MEMORY:
                            break
                        out[i] = slot
                        i += 1
        if slot == NO_MEMORY:
            refuse(self, NO_MEMORY, address[i], size[i])
        return slots

    def remove_many(self, const uint64_t[:] address):
        """Remove the objects that start at addresses; see the stub."""
        cdef Py_ssize_t n = address.shape[0], i = 0, until
        cdef int64_t slot
        cdef Place guess[AHEAD]
        cdef bint scattered = False
        removed = np.zeros(n, dtype=np.bool_)
        cdef uint8_t[::1] out = removed.view(np.uint8)
        with nogil:
            while i < n:
                until = min(n, i + <Py_ssize_t>ROWS)
                with self.lock:
                    while i < until:
                        if i % AHEAD == 0:
                            scattered = foresee_rows(self, address, i, until, guess)
                        if scattered:
                            self.last = guess[i % AHEAD]
                        slot = self.look(address[i], True)
                        out[i] = slot >= 0 and self.drop(<uint64_t>slot, 0)
                        i += 1
        return removed

    def alive_many(self, const uint32_t[:] slot, const uint64_t[:] sequence):
        """Tell which slots still hold those objects; see the stub."""
        return write_rows(self, slot, sequence, 0, 0, None, 0, 0)

    def records_of(self, const uint32_t[:] slot):
        """Copy records; see the stub."""
        cdef Py_ssize_t n = slot.shape[0], i = 0, until
        copies = np.zeros(n, dtype=RECORD)
        cdef uint8_t[::1] rows = copies.view(np.uint8)
        with nogil:
            while i < n:
                until = min(n, i + <Py_ssize_t>ROWS)
                with self.lock:
                    while i < until:
                        if slot[i] < self.used:
                            (<Record*>&rows[0])[i] = self.rows[slot[i]]
                        i += 1
        return copies

    def write(self, str field, const uint32_t[:] slot, const uint64_t[:] sequence, values):
        """Write a field of the objects that are still there; see the stub."""
        if field not in _WRITABLE:
            raise ValueError(f"{field!r} is not one of {', '.join(_WRITABLE)}")
        dtype, offset = RECORD.fields[field][:2]
        column = np.ascontiguousarray(_column(values, dtype, slot.shape[0]))
        if column.dtype != dtype:
            raise ValueError(f"{field} is {dtype}, not {column.dtype}")
        return write_rows(self, slot, sequence, dtype.itemsize, offset, column.view(np.uint8), 0, 0)

    def change_flags_many(self, const uint32_t[:] slot, const uint64_t[:] sequence,
                          uint16_t set=0, uint16_t clear=0):
        """Set and clear flags of the objects that are still there; see the stub."""
        return write_rows(self, slot, sequence, 0, 0, None, set, clear)

    # The whole table. Arrays are made before the lock is taken, a little longer than it needs.

    def snapshot(self):
        """Copy the objects' addresses, sizes and slots; see the stub."""
        cdef Py_ssize_t room, done = -1, b, e, at
        cdef uint64_t[::1] addresses, sizes
        cdef uint32_t[::1] slots
        cdef Block* block
        while done < 0:
            room = len(self) + len(self) // 64 + STEP
            address, size = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.uint64)
            slot = np.empty(room, dtype=np.uint32)
            addresses, sizes, slots = address, size, slot
            with nogil, self.lock:
                at = 0
                if self.live <= room:
                    for b in range(self.block_count):
                        block = &self.blocks[b]
                        memcpy(&addresses[at], block.starts, block.count * sizeof(uint64_t))
                        memcpy(&slots[at], block.slots, block.count * sizeof(uint32_t))
                        for e in range(block.count):
                            if e + AHEAD < block.count:
                                kmt_prefetch(&self.rows[block.slots[e + AHEAD]].size)
                            sizes[at + e] = self.rows[block.slots[e]].size
                        at += block.count
                    done = at
        return address[:done], size[:done], slot[:done]

    def snapshot_records(self):
        """Copy the objects' slots and records; see the stub."""
        cdef Py_ssize_t room, done = -1, b, e, at
        cdef uint32_t[::1] slots
        cdef uint8_t[::1] rows
        cdef Record* out
        cdef Block* block
        while done < 0:
            room = len(self) + len(self) // 64 + STEP
            slot, record = np.empty(room, dtype=np.uint32), np.empty(room, dtype=RECORD)
            slots, rows = slot, record.view(np.uint8)
            out = <Record*>&rows[0]
            with nogil, self.lock:
                at = 0
                if self.live <= room:
                    for b in range(self.block_count):
                        block = &self.blocks[b]
                        memcpy(&slots[at], block.slots, block.count * sizeof(uint32_t))
                        for e in range(block.count):
                            if e + AHEAD < block.count:
                                kmt_prefetch(&self.rows[block.slots[e + AHEAD]])
                            out[at + e] = self.rows[block.slots[e]]
                        at += block.count
                    done = at
        return slot[:done], record[:done]

    def in_allocation_order(self):
        """Return the slots sorted by sequence; see the stub."""
        cdef Py_ssize_t room, done = -1, at
        cdef uint64_t[::1] sequences
        cdef uint32_t[::1] slots
        cdef uint64_t i, before = 0
        cdef bint sorted_already = True
        while done < 0:
            room = len(self) + len(self) // 64 + STEP
            sequence, slot = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.uint32)
            sequences, slots = sequence, slot
            with nogil, self.lock:
                at = 0
                if self.live <= room:
                    for i in range(self.used):
                        if self.rows[i].sequence and at < room:
                            sequences[at] = self.rows[i].sequence
                            slots[at] = <uint32_t>i
                            at += 1
                    done = at
        for at in range(done):
            sorted_already = sorted_already and before < sequences[at]
            before = sequences[at]
        if sorted_already:
            return slot[:done]
        return slot[:done][np.argsort(sequence[:done], kind="stable")]

    def clear(self):
        """Remove every object; see the stub."""
        cdef Py_ssize_t i
        with nogil, self.lock:
            for i in range(self.block_count):
                free(self.blocks[i].starts)
            free(self.firsts)
            free(self.blocks)
            self.firsts = NULL
            self.blocks = NULL
            self.block_count = self.block_room = 0
            self.entry_room = 0
            memset(self.rows, 0, self.used * sizeof(Record))
            self.used = self.free_slot = 0
            self.live = 0

    @property
    def records(self):
        """The slots that were ever in use, as an array over the table's own memory."""
        cdef _View view = _View.__new__(_View)
        cdef Py_ssize_t used
        with self.lock:
            used = self.used
        view.slab = self.slab
        view.nbytes = used * sizeof(Record)
        return np.ndarray((used,), dtype=RECORD, buffer=view)

    @property
    def min_address(self):
        """Lowest address that was ever inserted; 2**64 - 1 before the first."""
        cdef uint64_t value
        with self.lock:
            value = self.low
        return value

    @property
    def max_address(self):
        """Highest end of an object that was ever inserted; 0 before the first."""
        cdef uint64_t value
        with self.lock:
            value = self.high
        return value

    @property
    def last_sequence(self):
        """The sequence number that the newest object got; 0 before the first."""
        cdef uint64_t value
        with self.lock:
            value = self.sequence
        return value

    @property
    def limit(self):
        """How many objects there is address space for."""
        return self.slab.reserved // sizeof(Record)

    @property
    def nbytes(self):
        """Bytes of records and index."""
        cdef size_t value
        with self.lock:
            value = (self.slab.committed + self.entry_room * <size_t>ENTRY
                     + self.block_room * (sizeof(Block) + sizeof(uint64_t)))
        return value

    def __len__(self):
        cdef Py_ssize_t live
        with self.lock:
            live = self.live
        return live


cdef int refuse(ObjectStore store, int64_t why, uint64_t address, uint64_t size) except -1:
    if why == OUTSIDE:
        raise ValueError(f"object {address:#x} (size {size}) leaves the address space")
    raise MemoryError(f"no memory for the record of object {address:#x}: "
                      f"the table holds {len(store)} of at most {store.limit}")


cdef bint foresee_rows(ObjectStore store, const uint64_t[:] address, Py_ssize_t i,
                       Py_ssize_t until, Place* guess) noexcept nogil:
    # Foresees the next rows, unless they lie where the table is at work already.
    cdef uint64_t soon[AHEAD]
    cdef Py_ssize_t at, count = min(until - i, <Py_ssize_t>AHEAD), b = store.last.block
    cdef uint64_t low = UINT64_MAX, high = 0
    for at in range(count):
        soon[at] = address[i + at]
        low = min(low, soon[at])
        high = max(high, soon[at])
    if 0 <= b < store.block_count and store.firsts[b] <= low:
        if b + 1 == store.block_count or high < store.firsts[b + 1]:
            return False
    store.foresee(soon, count, guess)
    return True


cdef object write_rows(ObjectStore store, const uint32_t[:] slot, const uint64_t[:] sequence,
                       Py_ssize_t width, Py_ssize_t offset, const uint8_t[::1] values,
                       uint16_t set, uint16_t clear):
    # Says which objects are still there; writes `width` bytes at `offset` into these, and flags.
    cdef Py_ssize_t n = slot.shape[0], i = 0, until
    cdef Record* record
    if sequence.shape[0] != n:
        raise ValueError("the columns differ in length")
    written = np.zeros(n, dtype=np.bool_)
    cdef uint8_t[::1] out = written.view(np.uint8)
    with nogil:
        while i < n:
            until = min(n, i + <Py_ssize_t>ROWS)
            with store.lock:
                while i < until:
                    if sequence[i] and store.holds(slot[i], sequence[i]):
                        record = &store.rows[slot[i]]
                        record.flags = (record.flags & ~clear) | set
                        if width:
                            memcpy(<char*>record + offset, &values[i * width], width)
                        out[i] = 1
                    i += 1
    return written


def _column(value, dtype, Py_ssize_t n):
    """Turn a number into a column of it; check the length of a column."""
    if not isinstance(value, np.ndarray):
        value = np.broadcast_to(np.array([value], dtype=dtype), n)
    if value.shape != (n,):
        raise ValueError("the columns of the objects differ in length")
    return value
