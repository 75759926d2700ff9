# cython: embedsignature=False
# Numbers are checked before a walk: checked arithmetic would only need the GIL.
# cython: overflowcheck=False
"""The loops over a reference graph: parts, strong components, floods, searches."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

cdef extern from *:
    """
    #define kmemleak_prefetch(p) __builtin_prefetch((p), 0, 3)
    #define kmemleak_popcount(v) __builtin_popcountll(v)
    """
    void kmemleak_prefetch(const void*) nogil
    int kmemleak_popcount(uint64_t) nogil

cdef enum:
    # Low bits of a target: the row. The others are the kind of pointer.
    ROW_BITS = 30
    ROW = (1 << ROW_BITS) - 1
    # Of how many references of a row the targets are fetched before they are looked at.
    ENTRY = 8
    # How many rows lie between two steps of fetching.
    AHEAD = 16

cdef uint64_t HASH = 0x9E3779B97F4A7C15


def subgraph(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    const int64_t[::1] rows not None,
    bint starts_only=False,
):
    # The whole graph can be much larger than its part: only what is read of it is checked.
    cdef Py_ssize_t n = _row_count(offsets), m = rows.shape[0]
    _check_rows(rows, n, True)
    # A bit for each row that is kept; how many are kept before each 64 of them.
    kept_array = np.zeros((n >> 6) + 1, np.uint64)
    before_array = np.empty((n >> 6) + 1, np.uint32)
    inner_offsets_array = np.empty(m + 1, np.int64)
    cdef uint64_t[::1] kept = kept_array
    cdef uint32_t[::1] before = before_array
    cdef int64_t[::1] inner_offsets = inner_offsets_array
    cdef uint32_t[::1] inner
    cdef int64_t count
    with nogil:
        _number(rows, kept, before)
        count = _count_references(offsets, rows, targets.shape[0])
    if count >= 0:
        inner_array = np.empty(count, np.uint32)
        inner = inner_array
        with nogil:
            count = _copy_inner(
                offsets, targets, rows, kept, before, inner_offsets, inner,
                ROW if starts_only else ~<uint32_t>0,
            )
    if count < 0:
        raise ValueError("offsets that do not rise, or references that lead out of the graph")
    return inner_offsets_array, inner_array[:count].copy()


def holders(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    const int64_t[::1] wanted not None,
    uint32_t kind,
):
    cdef Py_ssize_t n = _row_count(offsets), i, row = 0, count = 0
    cdef int64_t k, total = targets.shape[0]
    cdef uint32_t low = kind << ROW_BITS, target, span = 0
    cdef bint sound
    _check_rows(wanted, ROW, True)
    if kind > 3:
        raise ValueError(f"there are no references of kind {kind}")
    if wanted.shape[0]:
        span = <uint32_t>wanted[wanted.shape[0] - 1] + 1
    # A bit for each row that is wanted: few enough to stay near, whichever are asked for.
    bits_array = np.zeros((span >> 6) + 1, np.uint64)
    rows_array = np.empty(n, np.int64)
    cdef uint64_t[::1] bits = bits_array
    cdef int64_t[::1] rows = rows_array
    with nogil:
        for i in range(wanted.shape[0]):
            bits[wanted[i] >> 6] |= <uint64_t>1 << (wanted[i] & 63)
        sound = offsets[0] == 0 and offsets[n] == total
        for i in range(n):
            sound &= offsets[i] <= offsets[i + 1]
        if sound:
            for k in range(total):
                target = targets[k] - low
                if target < span and bits[target >> 6] >> (target & 63) & 1:
                    # Which row that is in is looked for where it matters.
                    while offsets[row + 1] <= k:
                        row += 1
                    if not count or rows[count - 1] != row:
                        rows[count] = row
                        count += 1
    if not sound:
        raise ValueError("offsets that do not rise, or do not fit the references")
    return rows_array[:count].copy()


def reverse(const int64_t[::1] offsets not None, const uint32_t[::1] targets not None):
    cdef Py_ssize_t n = _checked(offsets, targets), i
    cdef int64_t k, total = 0, here
    ends_array = np.zeros(n + 1, np.int64)
    sources_array = np.empty(targets.shape[0], np.uint32)
    cdef int64_t[::1] ends = ends_array
    cdef uint32_t[::1] sources = sources_array
    with nogil:
        for k in range(targets.shape[0]):
            if k + AHEAD < targets.shape[0]:
                kmemleak_prefetch(&ends[targets[k + AHEAD] & ROW])
            ends[targets[k] & ROW] += 1
        # From how many there are to where each row's begin, which placing moves to their end.
        for i in range(n):
            here = ends[i]
            ends[i] = total
            total += here
        for i in range(n):
            for k in range(offsets[i], offsets[i + 1]):
                if k + 2 * AHEAD < targets.shape[0]:
                    kmemleak_prefetch(&ends[targets[k + 2 * AHEAD] & ROW])
                here = ends[targets[k] & ROW]
                ends[targets[k] & ROW] += 1
                sources[here] = <uint32_t>i | (targets[k] & ~<uint32_t>ROW)
        for i in range(n, 0, -1):
            ends[i] = ends[i - 1]
        ends[0] = 0
    return ends_array, sources_array


def strong_components(
    const int64_t[::1] offsets not None, const uint32_t[::1] targets not None
):
    cdef Py_ssize_t n = _checked(offsets, targets)
    label_array = np.zeros(n, np.uint32)
    stack_array = np.empty(n, np.uint32)
    at_array = np.empty(n, np.int64)
    cdef uint32_t[::1] label = label_array
    cdef uint32_t[::1] stack = stack_array
    cdef int64_t[::1] at = at_array
    cdef Py_ssize_t count = 0
    if n:
        with nogil:
            count = _components(
                n, &offsets[0], &targets[0] if targets.shape[0] else NULL,
                &label[0], &stack[0], &at[0],
            )
    return label_array, count


def flood(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    const int64_t[::1] starts not None,
):
    cdef Py_ssize_t n = _checked(offsets, targets)
    _check_rows(starts, n, False)
    origin_array = np.full(n, -1, np.int32)
    queue_array = np.empty(n, np.uint32)
    cdef int32_t[::1] origin = origin_array
    cdef uint32_t[::1] queue = queue_array
    if n:
        with nogil:
            _flood(
                n, &offsets[0], &targets[0] if targets.shape[0] else NULL, starts,
                &origin[0], &queue[0], False,
            )
    return origin_array


def unfold(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    const int64_t[::1] starts not None,
    const int64_t[::1] group not None,
    const uint8_t[::1] counted not None,
    Py_ssize_t groups,
    Py_ssize_t capacity,
    Py_ssize_t deepest,
):
    cdef Py_ssize_t n = _checked(offsets, targets), i, tail = 0, size = 1, slot, depth
    cdef Py_ssize_t count = groups
    cdef int32_t above, at
    cdef uint32_t row
    _check_rows(starts, n, False)
    _check_rows(group, groups, False)
    if group.shape[0] != n or counted.shape[0] != n or not 0 <= groups <= 1 << 20 or (
            not 0 <= capacity <= 1 << 24):
        raise ValueError("columns that do not fit the graph, or too many groups")
    while size < 2 * capacity + 2:
        size *= 2
    capacity += groups
    before_array = np.full(n, -1, np.int32)
    queue_array = np.empty(n, np.uint32)
    node_array = np.full(n, -1, np.int32)
    rest_array = np.zeros(n, np.uint8)
    parent_array = np.full(capacity, -1, np.int32)
    of_array = np.arange(capacity, dtype=np.int32)
    slots_array = np.full(size, -1, np.int32)
    cdef int32_t[::1] before = before_array
    cdef uint32_t[::1] queue = queue_array
    cdef int32_t[::1] node = node_array
    cdef uint8_t[::1] rest = rest_array
    cdef int32_t[::1] parent = parent_array
    cdef int32_t[::1] of = of_array
    cdef int32_t[::1] slots = slots_array
    if n:
        with nogil:
            tail = _flood(
                n, &offsets[0], &targets[0] if targets.shape[0] else NULL, starts,
                &before[0], &queue[0], True,
            )
            # What a row hangs on comes before it.
            for i in range(tail):
                row = queue[i]
                if before[row] == <int32_t>row:
                    node[row] = <int32_t>group[row]
                    continue
                above = node[before[row]]
                if above < 0 or not counted[row]:
                    continue
                at = above
                depth = 0
                while at >= groups and of[at] != group[row]:
                    at = parent[at]
                    depth += 1
                if at >= groups:
                    node[row] = at  # more of the same, on a list or in turns
                    continue
                slot = (<uint64_t>above * 4096 + <uint64_t>group[row]) * HASH >> 32 & (size - 1)
                while slots[slot] >= 0 and not (
                        parent[slots[slot]] == above and of[slots[slot]] == group[row]):
                    slot = (slot + 1) & (size - 1)
                if slots[slot] >= 0:
                    node[row] = slots[slot]
                elif count < capacity and depth < deepest:
                    slots[slot] = <int32_t>count
                    parent[count] = above
                    of[count] = <int32_t>group[row]
                    node[row] = <int32_t>count
                    count += 1
                else:
                    node[row] = above
                    rest[row] = 1
    return node_array, rest_array, parent_array[:count].copy(), of_array[:count].copy()


def search(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    int64_t start,
    const uint8_t[::1] barred not None,
):
    cdef Py_ssize_t n = _checked(offsets, targets), head = 0, tail = 1
    cdef int64_t k
    cdef uint32_t row, target
    if not 0 <= start < n or barred.shape[0] != n:
        raise ValueError(f"row {start}, or what is barred, is not of a graph of {n}")
    before_array = np.full(n, -1, np.int32)
    depth_array = np.full(n, -1, np.int32)
    queue_array = np.empty(n, np.uint32)
    cdef int32_t[::1] before = before_array
    cdef int32_t[::1] depth = depth_array
    cdef uint32_t[::1] queue = queue_array
    with nogil:
        queue[0] = <uint32_t>start
        depth[start] = 0
        while head < tail:
            row = queue[head]
            head += 1
            for k in range(offsets[row], offsets[row + 1]):
                target = targets[k] & ROW
                if depth[target] < 0 and not barred[target]:
                    depth[target] = depth[row] + 1
                    before[target] = <int32_t>row
                    queue[tail] = target
                    tail += 1
    return before_array, depth_array


cdef Py_ssize_t _row_count(const int64_t[::1] offsets) except -1:
    cdef Py_ssize_t n = offsets.shape[0] - 1
    if n < 0 or n > ROW:
        raise ValueError(f"{n + 1} offsets: a graph has fewer than 2**30 rows, and one more offset")
    return n


cdef Py_ssize_t _checked(const int64_t[::1] offsets, const uint32_t[::1] targets) except -1:
    """Return the number of rows of a graph in which nothing leads out of its arrays."""
    cdef Py_ssize_t n = _row_count(offsets), i
    cdef int64_t total = targets.shape[0]
    cdef bint sound
    cdef uint32_t last = 0
    with nogil:
        sound = offsets[0] == 0 and offsets[n] == total
        for i in range(n):
            sound &= offsets[i] <= offsets[i + 1]
        for i in range(total):
            if targets[i] & ROW > last:
                last = targets[i] & ROW
    if not sound or total and last >= n:
        raise ValueError("offsets that do not rise, or references that lead out of the graph")
    return n


cdef int _check_rows(const int64_t[::1] rows, Py_ssize_t n, bint rising) except -1:
    cdef Py_ssize_t i
    cdef bint sound = True
    with nogil:
        for i in range(rows.shape[0]):
            sound &= 0 <= rows[i] < n
            if rising and i:
                sound &= rows[i - 1] < rows[i]
    if not sound:
        raise ValueError(f"rows that are not in a graph of {n}, or do not rise")
    return 0


cdef void _number(
    const int64_t[::1] rows, uint64_t[::1] kept, uint32_t[::1] before
) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t total = 0
    for i in range(rows.shape[0]):
        kept[rows[i] >> 6] |= <uint64_t>1 << (rows[i] & 63)
    for i in range(kept.shape[0]):
        before[i] = total
        total += <uint32_t>kmemleak_popcount(kept[i])


cdef int64_t _count_references(
    const int64_t[::1] offsets, const int64_t[::1] rows, int64_t total
) noexcept nogil:
    """Return how many references the rows hold, or -1 where offsets do not rise."""
    cdef Py_ssize_t i, m = rows.shape[0]
    cdef int64_t begin, end = 0, count = 0
    for i in range(m):
        if i + AHEAD < m:
            kmemleak_prefetch(&offsets[rows[i + AHEAD]])
        begin = offsets[rows[i]]
        if begin < end:
            return -1
        end = offsets[rows[i] + 1]
        if end < begin or end > total:
            return -1
        count += end - begin
    return count


cdef int64_t _copy_inner(
    const int64_t[::1] offsets, const uint32_t[::1] targets, const int64_t[::1] rows,
    const uint64_t[::1] kept, const uint32_t[::1] before, int64_t[::1] inner_offsets,
    uint32_t[::1] inner, uint32_t highest,
) noexcept nogil:
    """Copy the references to rows that are kept; return their number, -1 if one leads out.

    Only targets up to `highest` are.
    """
    cdef Py_ssize_t i, m = rows.shape[0], n = offsets.shape[0] - 1
    cdef int64_t k, count = 0
    cdef uint32_t row
    cdef uint64_t bit, bits
    for i in range(m):
        if i + AHEAD < m and offsets[rows[i + AHEAD]] < targets.shape[0]:
            kmemleak_prefetch(&targets[offsets[rows[i + AHEAD]]])
        inner_offsets[i] = count
        for k in range(offsets[rows[i]], offsets[rows[i] + 1]):
            row = targets[k] & ROW
            if row >= n:
                return -1
            bits = kept[row >> 6]
            bit = <uint64_t>1 << (row & 63)
            if bits & bit and targets[k] <= highest:
                inner[count] = before[row >> 6] + <uint32_t>kmemleak_popcount(bits & (bit - 1))
                count += 1
    inner_offsets[m] = count
    return count


cdef Py_ssize_t _components(
    Py_ssize_t n, const int64_t* offsets, const uint32_t* targets,
    uint32_t* label, uint32_t* stack, int64_t* at,
) noexcept nogil:
    # D. J. Pearce, "A space-efficient algorithm for finding strongly connected components"
    # (2016): one number a row instead of Tarjan's two. It is 0 while the row is not visited;
    # then the least number of an open row that it leads to; and once its component is complete
    # one that counts down from n, which no open row's number reaches. A row is on the path that
    # is walked, or waits for its component's root: both stacks share one array, from either end.
    # `at` holds, for each row on the path, where it stands in its references, times two, plus
    # whether it can still be a root.
    cdef Py_ssize_t first, depth, waiting = n
    cdef int64_t edge, end
    cdef uint32_t row, target, number = 1, component = <uint32_t>n
    for first in range(n):
        if label[first]:
            continue
        row = <uint32_t>first
        depth = 0
        stack[0] = row
        at[0] = offsets[row] << 1 | 1
        label[row] = number
        number += 1
        while True:
            edge = at[depth] >> 1
            if edge < offsets[row + 1]:
                target = targets[edge] & ROW
                if not label[target]:
                    depth += 1
                    row = target
                    stack[depth] = row
                    at[depth] = offsets[row] << 1 | 1
                    label[row] = number
                    number += 1
                    # What it refers to is fetched while the first of that is visited.
                    end = min(offsets[row + 1], offsets[row] + ENTRY)
                    for edge in range(offsets[row], end):
                        kmemleak_prefetch(&label[targets[edge] & ROW])
                    continue
                # Now, or by what was found while it was visited: the reference stays the one
                # looked at until its target is done.
                if label[target] < label[row]:
                    label[row] = label[target]
                    at[depth] &= ~<int64_t>1
                at[depth] += 2
                continue
            if at[depth] & 1:
                number -= 1
                while waiting < n and label[row] <= label[stack[waiting]]:
                    label[stack[waiting]] = component
                    waiting += 1
                    number -= 1
                label[row] = component
                component -= 1
                if depth == 0:
                    break
                depth -= 1
            else:
                # It waits where the path's end was, or further: never in the path's way.
                depth -= 1
                waiting -= 1
                stack[waiting] = row
            row = stack[depth]
    for first in range(n):
        label[first] = <uint32_t>n - label[first]
    return n - <Py_ssize_t>component


cdef Py_ssize_t _flood(
    Py_ssize_t n, const int64_t* offsets, const uint32_t* targets, const int64_t[::1] starts,
    int32_t* origin, uint32_t* queue, bint parents,
) noexcept nogil:
    # Returns how many rows were reached. What is told of each is the start that leads to it, or
    # the row before it.
    cdef Py_ssize_t head = 0, tail = 0, i
    cdef int64_t k
    cdef uint32_t row, target, ahead
    for i in range(starts.shape[0]):
        row = <uint32_t>starts[i]
        if origin[row] < 0:
            origin[row] = <int32_t>row
            queue[tail] = row
            tail += 1
    while head < tail:
        row = queue[head]
        head += 1
        # What is in the queue is known: rows far ahead have their place in the references
        # fetched, nearer ones the references, the nearest the rows that these lead to.
        if head + 3 * AHEAD < tail:
            kmemleak_prefetch(&offsets[queue[head + 3 * AHEAD]])
            kmemleak_prefetch(&targets[offsets[queue[head + 2 * AHEAD]]])
            ahead = queue[head + AHEAD]
            for k in range(offsets[ahead], min(offsets[ahead + 1], offsets[ahead] + ENTRY)):
                kmemleak_prefetch(&origin[targets[k] & ROW])
        for k in range(offsets[row], offsets[row + 1]):
            target = targets[k] & ROW
            if origin[target] < 0:
                origin[target] = <int32_t>row if parents else origin[row]
                queue[tail] = target
                tail += 1
    return tail
