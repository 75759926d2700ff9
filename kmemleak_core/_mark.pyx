# cython: embedsignature=False
"""Marking: turns references into counts, breadth-first from the roots as kmemleak's gray list."""

import numpy as np

from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ._index cimport NONE, ROW_BITS, ROW_MASK, AddressIndex
from ._scan cimport ImageView, _Pass


cdef extern from "_memory.h" nogil:
    void kml_prefer_huge(void* data, size_t nbytes)


cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* address) noexcept nogil


cdef enum:
    # References are taken so many at a time: their cache misses overlap instead of adding up.
    BATCH = 256
    # So are the gray rows whose references they are.
    ROWS = 64
    # How far ahead in the gray list an object's range, then its memory, are asked for.
    AHEAD_RANGES = 32
    AHEAD_MEMORY = 16
    # After one row in so many was met with few others waiting, chains are worth preparing for.
    CHAINED = 32
    # In an object's mark: the kinds of pointer seen (1 start, 2 interior, 4 past the end),
    # whether one reference would make it gray, and whether one waits to do so.
    KINDS = 7
    WHITE = 8
    LATE = 16


cdef class _Mark:
    # The state of one marking. Where no object wants two references and none is surplus for
    # another, a byte an object is all there is to touch; else `count` is kept as well.
    cdef const int32_t[::1] min_count
    cdef const int32_t[::1] excess
    cdef const uint32_t[::1] order
    cdef int32_t[::1] count
    cdef uint8_t[::1] marks
    cdef bint simple
    cdef uint32_t* gray
    cdef Py_ssize_t head, tail
    # As long as only pointers to starts count, what other pointers lead to waits here, each
    # object once.
    cdef bint starts_only
    cdef uint32_t* late
    cdef Py_ssize_t waiting

    def __cinit__(self, const int32_t[::1] min_count, const int32_t[::1] excess,
                  const uint32_t[::1] order):
        cdef Py_ssize_t i, row, n = min_count.shape[0]
        cdef bint wrong = False, simple = excess is None
        cdef uint8_t[::1] marks = np.empty(n, dtype=np.uint8)
        if order is not None and order.shape[0] != n or (
                excess is not None and excess.shape[0] != n):
            raise ValueError("the columns of the objects differ in length")
        self.min_count = min_count
        self.excess = excess
        self.order = order
        self.marks = marks
        self.gray = <uint32_t*>malloc((n + 1) * sizeof(uint32_t))
        if self.gray == NULL:
            raise MemoryError
        kml_prefer_huge(self.gray, n * sizeof(uint32_t))
        with nogil:
            for i in range(n):
                simple &= min_count[i] <= 1
                marks[i] = (min_count[i] > 0) * WHITE
            if order is not None:
                for i in range(n):
                    wrong |= order[i] >= n
            if excess is not None:
                for i in range(n):
                    wrong |= excess[i] >= n
        if wrong:
            raise ValueError("a reference names an object that is not in the table")
        self.simple = simple
        self.count = np.zeros(0 if simple else n, dtype=np.int32)
        with nogil:
            for i in range(n):
                row = order[i] if order is not None else i
                if min_count[row] == 0:
                    self.push(<uint32_t>row)

    def __dealloc__(self):
        free(self.gray)
        free(self.late)

    cdef inline void push(self, uint32_t row) noexcept nogil:
        self.gray[self.tail] = row
        self.tail += 1

    cdef void refer(self, const uint32_t* targets, const uint32_t* sources,
                    Py_ssize_t count) noexcept nogil:
        # Takes references in their order; sources[i] is the row that holds one, NONE for a root.
        cdef Py_ssize_t i, tail = self.tail
        cdef uint32_t row
        cdef uint8_t mark
        cdef uint8_t* marks
        cdef uint32_t* gray
        if not self.simple:
            for i in range(count):
                # Whose start it is not does not count, nor is it missed: others are marked again.
                if not self.starts_only or targets[i] <= ROW_MASK:
                    self.refer_once(targets[i], sources[i])
            return
        if self.starts_only:
            self.refer_to_starts(targets, count)
            return
        if count:
            marks = &self.marks[0]
            gray = self.gray
            for i in range(count):
                row = targets[i] & ROW_MASK
                mark = marks[row]
                marks[row] = (mark | <uint8_t>(1 << (targets[i] >> ROW_BITS))) & KINDS
                # Without a branch: which objects are new is what nobody can foretell.
                gray[tail] = row
                tail += (mark & WHITE) != 0
            self.tail = tail

    cdef void refer_to_starts(self, const uint32_t* targets, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i, tail = self.tail, waiting = self.waiting
        cdef uint32_t row
        cdef uint8_t mark, start
        cdef uint8_t* marks = &self.marks[0]
        for i in range(count):
            row = targets[i] & ROW_MASK
            mark = marks[row]
            start = targets[i] <= ROW_MASK
            # Without a branch, as above: white ends with a start, and waits but once without.
            self.gray[tail] = row
            tail += start & ((mark & WHITE) != 0)
            self.late[waiting] = row
            waiting += (start ^ 1) & ((mark & (WHITE | LATE)) == WHITE)
            mark = (mark | <uint8_t>(1 << (targets[i] >> ROW_BITS))) & <uint8_t>~(start * WHITE)
            marks[row] = mark | <uint8_t>((start ^ 1) * LATE)
        self.tail = tail
        self.waiting = waiting

    cdef void take_late(self) noexcept nogil:
        # From here on every pointer counts.
        cdef Py_ssize_t i
        cdef uint32_t row
        self.starts_only = False
        for i in range(self.waiting):
            row = self.late[i]
            if self.marks[row] & WHITE:
                self.marks[row] &= KINDS
                self.push(row)

    cdef inline void refer_once(self, uint32_t target, uint32_t source) noexcept nogil:
        cdef uint32_t row = target & ROW_MASK
        cdef int32_t wanted = self.min_count[row], other
        self.marks[row] |= <uint8_t>(1 << (target >> ROW_BITS))
        if wanted < 0:
            return
        if self.count[row] < wanted:
            self.bump(row)
        elif self.excess is not None:
            # Surplus: it counts for another object, but never one's own.
            other = self.excess[row]
            if other >= 0 and <uint32_t>other != source:
                self.bump(<uint32_t>other)

    cdef inline void bump(self, uint32_t row) noexcept nogil:
        cdef int32_t wanted = self.min_count[row]
        if self.count[row] >= wanted:
            return
        self.count[row] += 1
        if self.count[row] == wanted:
            self.marks[row] &= KINDS
            self.push(row)

    cdef void start(self, const uint32_t[::1] roots) noexcept nogil:
        cdef uint32_t nobody[BATCH]
        cdef Py_ssize_t i, at = 0, size
        for i in range(BATCH):
            nobody[i] = NONE
        while at < roots.shape[0]:
            size = min(roots.shape[0] - at, <Py_ssize_t>BATCH)
            for i in range(at, at + size):
                prefetch(&self.marks[roots[i] & ROW_MASK])
            self.refer(&roots[at], nobody, size)
            at += size

    cdef void take_modified(self, const uint8_t[::1] modified) noexcept nogil:
        # What is white still but has changed since is gray after all, in the order of allocation.
        cdef Py_ssize_t i, row
        for i in range(modified.shape[0]):
            row = self.order[i] if self.order is not None else i
            if modified[row] and self.marks[row] & WHITE:
                self.marks[row] &= KINDS
                if not self.simple:
                    self.count[row] = self.min_count[row]
                self.push(<uint32_t>row)

    cdef void follow(self) noexcept nogil:
        pass

    cdef set_apart(self):
        # Begins with pointers to starts.
        cdef Py_ssize_t n = self.min_count.shape[0]
        self.starts_only = True
        if self.simple:
            self.late = <uint32_t*>malloc((n + 1) * sizeof(uint32_t))
            if self.late == NULL:
                raise MemoryError

    cdef run(self, const uint32_t[::1] roots, const uint8_t[::1] modified, _Mark starts):
        # `starts` is this marking itself, or where counts matter another one of the same.
        cdef Py_ssize_t i, first = 0, n = self.min_count.shape[0]
        cdef const int32_t[::1] min_count = self.min_count
        cdef uint8_t[::1] marks = self.marks
        cdef int32_t[::1] count
        if modified is not None and modified.shape[0] != n:
            raise ValueError("the columns of the objects differ in length")
        if modified is not None and starts is not None:
            raise ValueError("what has changed is gray for no pointer's sake: nothing is possible")
        _check(roots, n)
        if starts is not None:
            starts.set_apart()
        if n:
            with nogil:
                if starts is not None:
                    starts.start(roots)
                    starts.follow()
                    first = starts.tail
                    starts.take_late()
                if starts is not self:
                    self.start(roots)
                self.follow()
                if modified is not None:
                    self.take_modified(modified)
                    self.follow()
        possible = None if starts is None else self.beyond(starts, first)
        if self.simple:
            self.count = count = np.empty(n, dtype=np.int32)
            with nogil:
                for i in range(n):
                    count[i] = (min_count[i] == 1) & ((marks[i] & WHITE) == 0)
        with nogil:
            for i in range(n):
                marks[i] &= KINDS
        return np.asarray(self.count), np.asarray(marks), possible

    cdef beyond(self, _Mark starts, Py_ssize_t first):
        # What is gray, but not by pointers to starts alone, by rising row.
        cdef Py_ssize_t i, count = 0
        cdef uint32_t row
        cdef uint32_t[::1] rows = np.empty(self.tail - (first if starts is self else 0), np.uint32)
        with nogil:
            if starts is self:
                for i in range(first, self.tail):
                    rows[count] = self.gray[i]
                    count += 1
            else:
                for i in range(self.tail):
                    row = self.gray[i]
                    rows[count] = row
                    count += (starts.marks[row] & WHITE) != 0
        return np.sort(np.asarray(rows)[:count])


cdef _check(const uint32_t[::1] targets, Py_ssize_t n):
    cdef uint32_t top = 0
    cdef Py_ssize_t i
    with nogil:
        for i in range(targets.shape[0]):
            top = max(top, targets[i] & ROW_MASK)
    if targets.shape[0] and top >= n:
        raise ValueError("a reference names an object that is not in the table")


cdef class _ListMark(_Mark):
    # Follows reference lists.
    cdef const int64_t[::1] offsets
    cdef const uint32_t[::1] targets
    # Where a row has but one reference, that one; NONE elsewhere. NULL until it is wanted.
    cdef uint32_t* only

    def __dealloc__(self):
        free(self.only)

    cdef bint prepare_chains(self) noexcept nogil:
        cdef Py_ssize_t i, n = self.offsets.shape[0] - 1
        self.only = <uint32_t*>malloc(n * sizeof(uint32_t))
        if self.only == NULL:
            return False
        kml_prefer_huge(self.only, n * sizeof(uint32_t))
        for i in range(n):
            self.only[i] = NONE
            if self.offsets[i + 1] == self.offsets[i] + 1:
                self.only[i] = self.targets[self.offsets[i]]
        return True

    cdef void follow_chains(self) noexcept nogil:
        # A list's elements lead from one to the next: nothing can be asked for ahead, so that as
        # little as possible is read, and nothing that waits for something else.
        cdef uint32_t row, target
        cdef int64_t at
        while self.head < self.tail and self.tail - self.head < ROWS:
            row = self.gray[self.head]
            self.head += 1
            target = self.only[row]
            if target != NONE:
                prefetch(self.only + (target & ROW_MASK))
                self.refer(&target, &row, 1)
                continue
            for at in range(self.offsets[row], self.offsets[row + 1]):
                target = self.targets[at]
                prefetch(self.only + (target & ROW_MASK))
                self.refer(&target, &row, 1)

    cdef void follow(self) noexcept nogil:
        cdef uint32_t batch[BATCH]
        cdef uint32_t sources[BATCH]
        cdef uint32_t row, target
        cdef int64_t at
        cdef Py_ssize_t filled, last, chained = 0
        # Rows of the gray list whose offsets, and whose lists, were asked for.
        cdef Py_ssize_t offsets_until = self.head, lists_until = self.head
        cdef const int64_t* offsets = &self.offsets[0]
        cdef const uint32_t* targets = &self.targets[0] if self.targets.shape[0] else NULL
        cdef const uint8_t* marks = &self.marks[0]
        cdef const uint32_t* gray = self.gray
        cdef bint simple = self.simple, narrow
        # Some rows at a time, in stages that each ask for the memory that a later one reads.
        while self.head < self.tail:
            while offsets_until < min(self.tail, self.head + 4 * ROWS):
                prefetch(offsets + gray[offsets_until])
                offsets_until += 1
            while lists_until < min(self.tail, self.head + 2 * ROWS):
                row = gray[lists_until]
                prefetch(targets + offsets[row])
                prefetch(targets + offsets[row + 1])
                lists_until += 1
            filled = 0
            last = min(self.tail, self.head + ROWS)
            # Few rows wait: a new one is up next, and its offsets are wanted as soon as its mark.
            narrow = self.tail - self.head < ROWS
            if narrow:
                chained += last - self.head
                if chained > ROWS + self.marks.shape[0] / CHAINED and (
                        self.only != NULL or self.prepare_chains()):
                    self.follow_chains()
                    offsets_until = max(offsets_until, self.head)
                    lists_until = max(lists_until, self.head)
                    continue
            while self.head < last:
                row = gray[self.head]
                self.head += 1
                for at in range(offsets[row], offsets[row + 1]):
                    target = targets[at]
                    prefetch(marks + (target & ROW_MASK))
                    if narrow:
                        prefetch(offsets + (target & ROW_MASK))
                    if not simple:
                        prefetch(&self.count[0] + (target & ROW_MASK))
                        sources[filled] = row
                    batch[filled] = target
                    filled += 1
                    if filled == BATCH:
                        self.refer(batch, sources, filled)
                        filled = 0
            self.refer(batch, sources, filled)


def mark(const int64_t[::1] offsets, const uint32_t[::1] targets, const int32_t[::1] min_count,
         const uint32_t[::1] roots, *, const int32_t[::1] excess=None,
         const uint32_t[::1] order=None, const uint8_t[::1] modified=None, bint apart=False):
    """Count references from the roots on; see the stub."""
    cdef Py_ssize_t i, n = min_count.shape[0]
    cdef bint wrong = False
    cdef _ListMark state, starts = None
    if offsets.shape[0] != n + 1:
        raise ValueError("the columns of the objects differ in length")
    with nogil:
        for i in range(n):
            wrong |= offsets[i] > offsets[i + 1]
    if wrong or offsets[0] != 0 or offsets[n] != targets.shape[0]:
        raise ValueError("the offsets do not fit the targets")
    _check(targets, n)
    state = _ListMark(min_count, excess, order)
    state.offsets = offsets
    state.targets = targets
    if apart:
        starts = state if state.simple else _ListMark(min_count, excess, order)
        starts.offsets = offsets
        starts.targets = targets
    return state.run(roots, modified, starts)


cdef class _GrayPass(_Pass):
    # Hands what it finds to a marking at once.
    cdef _Mark state

    cdef int emit(self, Py_ssize_t count) noexcept nogil:
        self.state.refer(self.targets, self.sources, count)
        return 0

    cdef void expect(self, Py_ssize_t r) noexcept nogil:
        # Asks for the memory of a range that is soon scanned.
        cdef Py_ssize_t e = self.view.find(self.start[r], self.hint)
        cdef uint64_t offset, end
        if e == self.view.extent_count or self.start[r] < self.view.extents[e].start:
            return
        offset = self.start[r] - self.view.extents[e].start
        end = min(self.view.extents[e].end - self.view.extents[e].start, offset + 4 * 64)
        while offset < end:
            prefetch(self.view.extents[e].data + offset)
            offset += 64


cdef class _GrayMark(_Mark):
    # Scans gray objects themselves: nothing is kept but the marks.
    # Nothing in it can fail: a pass that keeps nothing allocates nothing.
    cdef _GrayPass scan
    cdef const int64_t[::1] first_range

    cdef watch(self, _GrayPass scan, const int64_t[::1] first_range):
        scan.state = self
        self.scan = scan
        self.first_range = first_range

    cdef inline Py_ssize_t range_of(self, Py_ssize_t row) noexcept nogil:
        return self.first_range[row] if self.first_range is not None else row

    cdef void follow(self) noexcept nogil:
        cdef Py_ssize_t row, ahead
        while True:
            while self.head < self.tail:
                row = self.gray[self.head]
                self.head += 1
                if self.head + AHEAD_RANGES < self.tail:
                    ahead = self.range_of(self.gray[self.head + AHEAD_RANGES])
                    if ahead < self.scan.start.shape[0]:
                        prefetch(&self.scan.start[0] + ahead)
                        prefetch(&self.scan.size[0] + ahead)
                if self.head + AHEAD_MEMORY < self.tail:
                    ahead = self.range_of(self.gray[self.head + AHEAD_MEMORY])
                    if ahead < self.scan.start.shape[0]:
                        self.scan.expect(ahead)
                self.scan.scan(self.range_of(row), self.range_of(row + 1))
            if self.scan.pending == 0:
                return
            self.scan.flush()


def mark_by_scanning(ImageView view, AddressIndex index, const uint64_t[::1] start,
                     const uint64_t[::1] size, const int64_t[::1] owner,
                     const int64_t[::1] first_range, const int32_t[::1] min_count,
                     const uint32_t[::1] roots, *, int step, uint64_t mask=UINT64_MAX,
                     const int32_t[::1] excess=None, const uint32_t[::1] order=None,
                     const uint8_t[::1] modified=None, bint apart=False):
    """Count references from the roots on, scanning what becomes gray; see the stub."""
    cdef Py_ssize_t i, n = min_count.shape[0]
    cdef bint wrong = False
    cdef _GrayMark state = _GrayMark(min_count, excess, order), starts = None
    if len(index) != n:
        raise ValueError("the columns of the objects differ in length")
    if first_range is None:
        wrong = start.shape[0] != n
    else:
        if first_range.shape[0] != n + 1:
            raise ValueError("the columns of the objects differ in length")
        with nogil:
            for i in range(n):
                wrong |= first_range[i] > first_range[i + 1]
        wrong |= first_range[0] != 0 or first_range[n] != start.shape[0]
    if wrong:
        raise ValueError("the ranges do not fit the objects")
    state.watch(_GrayPass(view, index, start, size, owner, step, mask), first_range)
    if apart and state.simple:
        starts = state
    elif apart:
        starts = _GrayMark(min_count, excess, order)
        starts.watch(_GrayPass(view, index, start, size, owner, step, mask), first_range)
    try:
        count, held, possible = state.run(roots, modified, starts)
        return count, held, possible, state.scan.counters()
    finally:
        state.scan.state = None  # the two hold each other
        if starts is not None:
            starts.scan.state = None
