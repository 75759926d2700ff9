# cython: embedsignature=False
# Numbers are checked before a walk: checked arithmetic would only need the GIL.
# cython: overflowcheck=False
"""The loops that find who holds whom alone: immediate dominators, and what adds up below them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

cdef extern from *:
    """
    #define kmemleak_prefetch(p) __builtin_prefetch((p), 0, 3)
    """
    void kmemleak_prefetch(const void*) nogil

cdef enum:
    # Low bits of a target: the row. The others are the kind of pointer.
    ROW = (1 << 30) - 1
    # Of how many references of a row the targets are fetched before they are looked at.
    ENTRY = 8
    # How many rows, or references, lie between two steps of fetching.
    AHEAD = 8

cdef uint32_t NONE = 0xFFFFFFFF
# Not settled yet; more than any node's number.
cdef uint32_t BUSY = 0xFFFFFFFE


cdef struct Link:
    # A visited node in the forest of those that are done: one that stands above it, and the least
    # semidominator from it up to below that one.
    uint32_t above
    uint32_t least


cdef class _Walk:
    # Nodes go by their numbers in the order of a depth-first walk; 0 is the super-root.
    cdef const int64_t[::1] offsets
    cdef const uint32_t[::1] targets
    cdef const int64_t[::1] root_offsets
    cdef const uint32_t[::1] root_targets
    cdef const uint32_t[::1] group
    cdef Py_ssize_t groups
    # Roots in the order of their groups.
    cdef const int64_t[::1] in_order
    # By row: its number; 0 as long as it has none, NONE where it takes no part.
    cdef uint32_t[::1] number
    # By number: the node, and the number of the one that it was first reached from.
    cdef uint32_t[::1] node
    cdef uint32_t[::1] parent
    # By number: at first the least number of those that refer to it and were visited before it.
    cdef uint32_t[::1] semi
    # By number: how many references from later ones it has, then where they begin.
    cdef int64_t[::1] place
    cdef uint32_t[::1] later

    cdef uint32_t visit(self, int64_t* at, int64_t* until) noexcept nogil:
        """Number what the roots lead to; return how many numbers there are.

        For each row on the path from a root, `at` and `until` hold which of its references are
        still to be followed.
        """
        cdef uint32_t n = <uint32_t>self.number.shape[0]
        cdef uint32_t roots = <uint32_t>self.group.shape[0]
        cdef uint32_t count = 1, above = 0, i, root, v, target, row
        cdef int64_t edge, end, ahead
        cdef Py_ssize_t depth
        cdef const uint32_t* lists
        cdef const uint32_t* of_rows = NULL
        cdef const uint32_t* of_roots = NULL
        if self.targets.shape[0]:
            of_rows = &self.targets[0]
        if self.root_targets.shape[0]:
            of_roots = &self.root_targets[0]
        self.node[0] = n + roots + <uint32_t>self.groups
        self.parent[0] = 0
        self.semi[0] = 0
        for i in range(roots):
            root = <uint32_t>self.in_order[i]
            if i == 0 or self.group[root] != self.group[self.in_order[i - 1]]:
                self.add(count, n + roots + self.group[root], 0)
                above = count
                count += 1
            self.add(count, n + root, above)
            v = count
            count += 1
            depth = 0
            lists = of_roots
            edge = self.root_offsets[root]
            end = self.root_offsets[root + 1]
            while True:
                if edge == end:
                    if depth == 0:
                        break
                    depth -= 1
                    v = self.parent[v]
                    edge = at[depth]
                    end = until[depth]
                    if depth == 0:
                        lists = of_roots
                    continue
                row = lists[edge] & ROW
                edge += 1
                target = self.number[row]
                if target == 0:
                    self.add(count, row, v)
                    self.number[row] = count
                    if self.offsets[row] != self.offsets[row + 1]:
                        at[depth] = edge
                        until[depth] = end
                        depth += 1
                        v = count
                        lists = of_rows
                        edge = self.offsets[row]
                        end = self.offsets[row + 1]
                        # What it refers to is fetched while the first of that is visited.
                        for ahead in range(edge, min(end, edge + ENTRY)):
                            kmemleak_prefetch(&self.number[of_rows[ahead] & ROW])
                            kmemleak_prefetch(&self.offsets[of_rows[ahead] & ROW])
                    count += 1
                elif target < v:
                    self.place[target] += 1
                elif target > v and target != NONE and self.semi[target] > v:
                    self.semi[target] = v
        return count

    cdef inline void add(self, uint32_t count, uint32_t node, uint32_t parent) noexcept nogil:
        self.node[count] = node
        self.parent[count] = parent
        self.semi[count] = parent

    cdef int64_t make_places(self, uint32_t count) noexcept nogil:
        cdef int64_t total = 0, here
        cdef uint32_t v
        for v in range(count):
            here = self.place[v]
            self.place[v] = total
            total += here
        self.place[count] = total
        return total

    cdef void sort_later(self, uint32_t count) noexcept nogil:
        """List, for each number, the later ones that refer to it; places move to their ends."""
        cdef uint32_t n = <uint32_t>self.number.shape[0]
        cdef uint32_t v, node, target
        cdef int64_t edge, begin, end
        cdef const uint32_t* lists
        for v in range(1, count):
            if v + 4 * AHEAD < count and self.node[v + 4 * AHEAD] < n:
                kmemleak_prefetch(&self.offsets[self.node[v + 4 * AHEAD]])
            if v + 2 * AHEAD < count and self.node[v + 2 * AHEAD] < n:
                begin = self.offsets[self.node[v + 2 * AHEAD]]
                if begin < self.targets.shape[0]:
                    kmemleak_prefetch(&self.targets[begin])
            if v + AHEAD < count and self.node[v + AHEAD] < n:
                begin = self.offsets[self.node[v + AHEAD]]
                end = min(self.offsets[self.node[v + AHEAD] + 1], begin + ENTRY)
                for edge in range(begin, end):
                    kmemleak_prefetch(&self.number[self.targets[edge] & ROW])
            node = self.node[v]
            if node < n:
                lists = &self.targets[0] if self.targets.shape[0] else NULL
                begin, end = self.offsets[node], self.offsets[node + 1]
            elif node - n < self.group.shape[0]:
                lists = &self.root_targets[0] if self.root_targets.shape[0] else NULL
                begin, end = self.root_offsets[node - n], self.root_offsets[node - n + 1]
            else:
                continue
            for edge in range(begin, end):
                target = self.number[lists[edge] & ROW]
                if target < v:
                    self.later[self.place[target]] = v
                    self.place[target] += 1

    cdef void find_semidominators(self, uint32_t count, Link* link, uint32_t* path) noexcept nogil:
        cdef uint32_t w = count - 1, least, found
        cdef int64_t edge = self.place[count]
        while w > 0:
            least = self.semi[w]
            # Its references begin where those of the number before it end.
            while edge > self.place[w - 1]:
                edge -= 1
                if edge >= 4 * AHEAD:
                    kmemleak_prefetch(&link[self.later[edge - 4 * AHEAD]])
                found = _least(link, path, self.later[edge], w)
                if found < least:
                    least = found
            self.semi[w] = least
            link[w].above = self.parent[w]
            link[w].least = least
            w -= 1

    cdef void find_dominators(self, uint32_t count, Link* tree, uint32_t* depth) noexcept nogil:
        # The dominator of w is the nearest one above its parent, in the tree of those that are
        # found, whose number is no more than its semidominator's (Georgiadis, "Linear-time
        # algorithms for dominators and related problems", 2005). One step up can be followed by
        # arbitrarily many: each node also has a jump to one far above (E. W. Myers, "An
        # applicative random-access stack", 1983), so that their number grows with the depth's
        # logarithm. `above` is the dominator, `least` the jump.
        cdef uint32_t w, v, semi, jump
        tree[0].above = tree[0].least = depth[0] = 0
        for w in range(1, count):
            v = self.parent[w]
            semi = self.semi[w]
            while v > semi:
                v = tree[v].least if tree[v].least >= semi else tree[v].above
            jump = tree[v].least
            tree[w].above = v
            depth[w] = depth[v] + 1
            if depth[v] - depth[jump] == depth[jump] - depth[tree[jump].least]:
                tree[w].least = tree[jump].least
            else:
                tree[w].least = v


cdef inline uint32_t _least(Link* link, uint32_t* path, uint32_t v, uint32_t w) noexcept nogil:
    """Return the least semidominator from v up to below w or, where that is later, its branch."""
    cdef Py_ssize_t length = 0
    cdef uint32_t above = link[v].above, least
    if above <= w:
        return link[v].least
    while link[above].above > w:
        path[length] = v
        length += 1
        v = above
        above = link[v].above
    # `above` is the topmost: what is below it is told of it, and stands below its parent.
    least = link[above].least
    above = link[above].above
    while True:
        if link[v].least > least:
            link[v].least = least
        least = link[v].least
        link[v].above = above
        if length == 0:
            return least
        length -= 1
        v = path[length]


def dominators(
    const int64_t[::1] offsets not None,
    const uint32_t[::1] targets not None,
    const int64_t[::1] root_offsets not None,
    const uint32_t[::1] root_targets not None,
    const uint32_t[::1] group not None,
    *,
    const uint8_t[::1] among=None,
):
    cdef Py_ssize_t n = _checked(offsets, targets, -1)
    cdef Py_ssize_t roots = _checked(root_offsets, root_targets, n)
    cdef Py_ssize_t groups = _groups(group, roots), nodes = n + roots + groups + 1, i
    cdef _Walk walk = _Walk()
    cdef uint32_t count = 0, v
    cdef uint32_t[::1] found
    if among is not None and among.shape[0] != n:
        raise ValueError("the rows that take part are not told for each row")
    walk.offsets, walk.targets, walk.group, walk.groups = offsets, targets, group, groups
    walk.in_order = np.argsort(group, kind="stable")
    walk.root_offsets, walk.root_targets = root_offsets, root_targets
    walk.number = number = np.zeros(n, np.uint32)
    walk.node = order = np.empty(nodes, np.uint32)
    walk.parent = np.empty(nodes, np.uint32)
    walk.semi = np.empty(nodes, np.uint32)
    walk.place = np.zeros(nodes + 1, np.int64)
    # Where the walk stands in the references of each row on its path; links when that is done.
    cdef int64_t[::1] link_memory = np.empty(nodes, np.int64)
    cdef int64_t[::1] until = np.empty(nodes, np.int64)
    cdef Link* link = <Link*>&link_memory[0]
    with nogil:
        if among is not None:
            for i in range(n):
                if not among[i]:
                    walk.number[i] = NONE
        count = walk.visit(&link_memory[0], &until[0])
        i = walk.make_places(count)
    until = None
    walk.later = np.empty(i, np.uint32)
    cdef uint32_t[::1] path = np.empty(count, np.uint32)
    with nogil:
        walk.sort_later(count)
        walk.find_semidominators(count, link, &path[0])
    walk.later = None
    walk.place = None
    walk.number = None
    del number
    with nogil:
        walk.find_dominators(count, link, &path[0])
    walk.parent = None
    walk.semi = None
    idom = np.full(nodes, NONE, np.uint32)
    found = idom
    with nogil:
        for v in range(1, count):
            found[walk.node[v]] = walk.node[link[v].above]
    return idom, order[:count]


def nearest(const uint32_t[::1] idom not None, const uint8_t[::1] marked not None):
    cdef Py_ssize_t nodes = idom.shape[0], i
    cdef bint sound = marked.shape[0] == nodes
    cdef uint32_t at, result, above
    if not sound:
        raise ValueError("nodes are not marked one by one")
    array = np.full(nodes, BUSY, np.uint32)
    cdef uint32_t[::1] found = array
    # Every node on the way up to one that is settled is visited once more, and then settled too.
    cdef uint8_t[::1] seen = np.zeros(nodes, np.uint8)
    with nogil:
        for i in range(nodes):
            at = <uint32_t>i
            while found[at] == BUSY and not marked[at] and idom[at] != NONE:
                if seen[at] or idom[at] >= nodes:
                    sound = False
                    break
                seen[at] = 1
                at = idom[at]
            if not sound:
                break
            if found[at] != BUSY:
                result = found[at]
            else:
                result = at if marked[at] else NONE
                found[at] = result
            at = <uint32_t>i
            while found[at] == BUSY:
                above = idom[at]
                found[at] = result
                at = above
    if not sound:
        raise ValueError("a tree that leads out of its nodes, or in circles")
    return array


def add_up(
    const uint32_t[::1] idom not None,
    const uint32_t[::1] order not None,
    const uint64_t[::1] size not None,
):
    cdef Py_ssize_t nodes = idom.shape[0], count = order.shape[0], n = size.shape[0], i
    cdef uint32_t node
    _check_tree(idom, order)
    if n > nodes:
        raise ValueError("more sizes than nodes")
    nbytes_array = np.zeros(nodes, np.uint64)
    objects_array = np.zeros(nodes, np.uint32)
    cdef uint64_t[::1] nbytes = nbytes_array
    cdef uint32_t[::1] objects = objects_array
    with nogil:
        for i in range(count - 1, -1, -1):
            if i >= 2 * AHEAD:
                kmemleak_prefetch(&idom[order[i - 2 * AHEAD]])
                kmemleak_prefetch(&nbytes[order[i - 2 * AHEAD]])
                kmemleak_prefetch(&objects[order[i - 2 * AHEAD]])
            node = order[i]
            if node < n:
                nbytes[node] += size[node]
                objects[node] += 1
            if i:
                nbytes[idom[node]] += nbytes[node]
                objects[idom[node]] += objects[node]
    return nbytes_array, objects_array


def spans(const uint32_t[::1] idom not None, const uint32_t[::1] order not None):
    cdef Py_ssize_t nodes = idom.shape[0], count = order.shape[0], i
    cdef uint32_t node
    _check_tree(idom, order)
    first_array = np.zeros(nodes, np.uint32)
    behind_array = np.zeros(nodes, np.uint32)
    cdef uint32_t[::1] first = first_array
    cdef uint32_t[::1] behind = behind_array
    # By node: where the next of those right below it begins.
    cdef uint32_t[::1] free = np.zeros(nodes, np.uint32)
    with nogil:
        # How many nodes are below each, itself with them.
        for i in range(count - 1, -1, -1):
            behind[order[i]] += 1
            if i:
                behind[idom[order[i]]] += behind[order[i]]
        for i in range(count):
            node = order[i]
            if i:
                first[node] = free[idom[node]]
                free[idom[node]] += behind[node]
            behind[node] += first[node]
            free[node] = first[node] + 1
    return first_array, behind_array


cdef int _check_tree(const uint32_t[::1] idom, const uint32_t[::1] order) except -1:
    cdef Py_ssize_t nodes = idom.shape[0], count = order.shape[0], i
    cdef bint sound = count <= nodes
    with nogil:
        for i in range(count):
            sound &= order[i] < nodes
        for i in range(1, count):
            sound = sound and idom[order[i]] < nodes
    if not sound:
        raise ValueError("a tree that leads out of its nodes")
    return 0


cdef Py_ssize_t _checked(
    const int64_t[::1] offsets, const uint32_t[::1] targets, Py_ssize_t rows
) except -1:
    """Return the number of lists, in which nothing leads out of the rows; −1: they are the rows."""
    cdef Py_ssize_t n = offsets.shape[0] - 1, i
    cdef int64_t total = targets.shape[0]
    cdef bint sound
    cdef uint32_t last = 0
    if n < 0 or n > ROW:
        raise ValueError(f"{n + 1} offsets: a graph has fewer than 2**30 rows, and one more offset")
    with nogil:
        sound = offsets[0] == 0 and offsets[n] == total
        for i in range(n):
            sound &= offsets[i] <= offsets[i + 1]
        for i in range(total):
            if targets[i] & ROW > last:
                last = targets[i] & ROW
    if not sound or total and last >= (n if rows < 0 else rows):
        raise ValueError("offsets that do not rise, or references that lead out of the graph")
    return n


cdef Py_ssize_t _groups(const uint32_t[::1] group, Py_ssize_t roots) except -1:
    cdef Py_ssize_t i, groups = 0
    for i in range(group.shape[0]):
        groups = max(groups, <Py_ssize_t>group[i] + 1)
    if group.shape[0] != roots or groups > roots:
        raise ValueError(f"each of {roots} roots has a group, numbered from 0 on without gaps")
    return groups
