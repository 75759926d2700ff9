"""The graph walks against plain searches: parts of a graph, strong components, floods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kmemleak_core._graph import (
    flood,
    holders,
    reverse,
    search,
    strong_components,
    subgraph,
    unfold,
)

Edges = list[tuple[int, int]]

#: Rows, and references between them: to themselves and several times, too.
GRAPHS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40),
    )
)


def rows_of(n: int, edges: Edges) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Lay references out in compressed rows; the kinds of pointer are all there."""
    out: list[list[int]] = [[] for _ in range(n)]
    for i, (source, target) in enumerate(edges):
        out[source].append(target | i % 3 << 30)
    offsets = np.cumsum([0, *map(len, out)]).astype(np.int64)
    return offsets, np.array([t for o in out for t in o], np.uint32)


def edges_of(offsets: NDArray[np.int64], targets: NDArray[np.uint32]) -> Edges:
    """Return the references in the order of the rows."""
    return [
        (row, target)
        for row in range(offsets.size - 1)
        for target in targets[offsets[row] : offsets[row + 1]].tolist()
    ]


def reach(start: int, edges: Edges) -> set[int]:
    seen, left = {start}, [start]
    while left:
        row = left.pop()
        more = {t for s, t in edges if s == row} - seen
        seen |= more
        left += more
    return seen


def distance(start: int, row: int, edges: Edges) -> int | None:
    seen, steps = {start}, 0
    while row not in seen:
        more = {t for s, t in edges if s in seen} - seen
        if not more:
            return None
        seen |= more
        steps += 1
    return steps


class TestReverse:
    @given(GRAPHS)
    def test_each_row_is_given_who_refers_to_it_and_how(self, graph: tuple[int, Edges]) -> None:
        n, edges = graph
        offsets, targets = rows_of(n, edges)
        low, high = (1 << 30) - 1, 3 << 30
        there = edges_of(offsets, targets)
        back = edges_of(*reverse(offsets, targets))
        expected = sorted((t & low, s | t & high) for s, t in there)
        assert sorted(back) == expected
        assert [(t, s & low) for t, s in back] == sorted((t & low, s) for s, t in there)


class TestStrongComponents:
    @given(GRAPHS)
    def test_rows_share_a_component_exactly_if_they_lead_to_each_other(
        self, case: tuple[int, Edges]
    ) -> None:
        n, edges = case
        label, count = strong_components(*rows_of(n, edges))
        led_to = [reach(row, edges) for row in range(n)]
        for a in range(n):
            for b in range(n):
                assert (label[a] == label[b]) == (a in led_to[b] and b in led_to[a])
        assert sorted(set(label.tolist())) == list(range(count))

    @given(GRAPHS)
    def test_a_component_s_number_is_greater_than_those_it_leads_to(
        self, case: tuple[int, Edges]
    ) -> None:
        n, edges = case
        label, _ = strong_components(*rows_of(n, edges))
        assert all(label[source] >= label[target] for source, target in edges)

    @pytest.mark.parametrize("closed", [True, False])
    def test_a_path_of_any_length_is_walked(self, closed: bool) -> None:
        n = 300_000
        edges = np.arange(n + 1, dtype=np.int64)
        targets = (np.arange(n, dtype=np.uint32) + 1) % np.uint32(n)
        if not closed:
            edges[-1], targets = n - 1, targets[:-1]
        label, count = strong_components(edges, targets)
        assert count == (1 if closed else n)
        assert label[0] == count - 1

    def test_one_reference_a_thousand_times_is_one_reference(self) -> None:
        label, count = strong_components(*rows_of(2, [(0, 1)] * 1000 + [(1, 0)] * 1000))
        assert (label.tolist(), count) == ([0, 0], 1)

    def test_no_rows_have_no_components(self) -> None:
        label, count = strong_components(np.zeros(1, np.int64), np.empty(0, np.uint32))
        assert (label.size, count) == (0, 0)


class TestFlood:
    @given(GRAPHS, st.lists(st.integers(0, 11), max_size=5))
    def test_each_row_is_given_its_nearest_start(
        self, case: tuple[int, Edges], wanted: list[int]
    ) -> None:
        n, edges = case
        starts = [row % n for row in wanted]
        origin = flood(*rows_of(n, edges), np.array(starts, np.int64))
        for row in range(n):
            far = {start: distance(start, row, edges) for start in starts}
            near = [d for d in far.values() if d is not None]
            assert origin[row] == -1 if not near else far[int(origin[row])] == min(near)

    def test_of_equally_near_starts_the_first_wins(self) -> None:
        graph = rows_of(3, [(0, 2), (1, 2)])
        assert flood(*graph, np.array([1, 0])).tolist() == [0, 1, 1]
        assert flood(*graph, np.array([0, 1])).tolist() == [0, 1, 0]

    def test_many_rows_are_reached_in_their_turn(self) -> None:
        # A tree of two branches at each row, below one start.
        n = 1000
        tree = rows_of(n, [(row, 2 * row + i) for row in range(1, n // 2) for i in (0, 1)])
        assert flood(*tree, np.array([1])).tolist() == [-1] + [1] * (n - 1)
        assert flood(*tree, np.array([2, 3]))[8:16].tolist() == [2] * 4 + [3] * 4


class TestSearch:
    @given(GRAPHS, st.integers(0, 11), st.sets(st.integers(0, 11)))
    def test_the_tree_holds_a_shortest_way_to_each_row(
        self, case: tuple[int, Edges], wanted: int, kept_out: set[int]
    ) -> None:
        n, edges = case
        start = wanted % n
        barred = np.array([row in kept_out for row in range(n)], np.uint8)
        open_edges = [(s, t) for s, t in edges if t not in kept_out]
        before, depth = search(*rows_of(n, edges), start, barred)
        for row in range(n):
            far = distance(start, row, open_edges)
            assert depth[row] == (-1 if far is None else far)
            if depth[row] > 0:
                assert depth[before[row]] == depth[row] - 1
                assert (before[row], row) in open_edges
            else:
                assert before[row] == -1

    def test_a_row_that_it_has_not_is_refused(self) -> None:
        with pytest.raises(ValueError, match="row 2"):
            search(*rows_of(2, [(0, 1)]), 2, np.zeros(2, np.uint8))
        with pytest.raises(ValueError, match="barred"):
            search(*rows_of(2, [(0, 1)]), 0, np.zeros(1, np.uint8))


class TestSubgraph:
    @given(GRAPHS, st.sets(st.integers(0, 11)))
    def test_it_holds_the_references_among_its_rows_in_their_order(
        self, case: tuple[int, Edges], wanted: set[int]
    ) -> None:
        n, edges = case
        offsets, targets = rows_of(n, edges)
        rows = sorted(row for row in wanted if row < n)
        inner = subgraph(offsets, targets, np.array(rows, np.int64))
        plain = edges_of(offsets, targets & np.uint32((1 << 30) - 1))
        kept = [(rows.index(s), rows.index(t)) for s, t in plain if s in rows and t in rows]
        assert edges_of(*inner) == kept

    def test_rows_far_apart_are_numbered_through(self) -> None:
        n = 1000
        graph = rows_of(n, [(row, (row + 500) % n) for row in range(n)])
        offsets, targets = subgraph(*graph, np.array([3, 70, 503, 999]))
        assert (offsets.tolist(), targets.tolist()) == ([0, 1, 1, 2, 2], [2, 0])


class TestHostileGraphs:
    @pytest.mark.parametrize(
        ("offsets", "targets"),
        [
            ([], []),
            ([0, 2], [0]),
            ([1, 1], [0]),
            ([0, 2, 1, 2], [0, 1]),
            ([0, -1, 1], [0]),
            ([0, 1], [1]),
            ([0, 1], [(1 << 30) - 1]),
            ([0, 1 << 62], [0]),
        ],
    )
    def test_what_leads_out_of_the_graph_is_refused(
        self, offsets: list[int], targets: list[int]
    ) -> None:
        graph = np.array(offsets, np.int64), np.array(targets, np.uint32)
        rows = np.arange(max(0, len(offsets) - 1))
        with pytest.raises(ValueError, match=r"offsets|out of the graph"):
            strong_components(*graph)
        with pytest.raises(ValueError, match=r"offsets|out of the graph"):
            flood(*graph, rows)
        if offsets != [1, 1]:  # nothing of it is read
            with pytest.raises(ValueError, match=r"offsets|out of the graph"):
                subgraph(*graph, rows)

    @pytest.mark.parametrize("rows", [[2], [-1], [1 << 40]])
    def test_rows_that_it_has_not_are_refused(self, rows: list[int]) -> None:
        graph = rows_of(2, [(0, 1)])
        with pytest.raises(ValueError, match="rows"):
            flood(*graph, np.array(rows))
        with pytest.raises(ValueError, match="rows"):
            subgraph(*graph, np.array(rows))

    @pytest.mark.parametrize("rows", [[1, 0], [1, 1]])
    def test_rows_of_a_part_have_to_rise(self, rows: list[int]) -> None:
        with pytest.raises(ValueError, match="rise"):
            subgraph(*rows_of(2, [(0, 1)]), np.array(rows))


class TestHolders:
    @given(GRAPHS, st.sets(st.integers(0, 11)), st.integers(0, 2))
    def test_rows_that_refer_in_that_way_to_what_is_wanted(
        self, case: tuple[int, Edges], wanted: set[int], kind: int
    ) -> None:
        n, edges = case
        offsets, targets = rows_of(n, edges)
        rows = np.array(sorted(wanted), np.int64)
        expected = {s for i, (s, t) in enumerate(edges) if t in wanted and i % 3 == kind}
        assert holders(offsets, targets, rows, kind).tolist() == sorted(expected)

    def test_offsets_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match="do not rise"):
            holders(np.array([0, 2]), np.zeros(1, np.uint32), np.zeros(1, np.int64), 0)


class TestStartsOnly:
    @given(GRAPHS)
    def test_a_part_can_leave_out_all_but_pointers_to_starts(self, case: tuple[int, Edges]) -> None:
        n, edges = case
        part = subgraph(*rows_of(n, edges), np.arange(n), starts_only=True)
        expected = sorted(edge for i, edge in enumerate(edges) if i % 3 == 0)
        assert sorted(edges_of(*part)) == expected


class TestUnfold:
    """Rows of group g are written as their group: a chain 0 → 1 → 0 leads back to the first."""

    @staticmethod
    def trees(n: int, edges: Edges, groups: list[int], starts: list[int], **limits: int) -> Any:
        node, rest, parent, of = unfold(
            *rows_of(n, edges),
            np.array(starts, np.int64),
            np.array(groups, np.int64),
            np.ones(n, np.uint8),
            max(groups) + 1,
            limits.get("capacity", 100),
            limits.get("deepest", 16),
        )
        return node.tolist(), rest.tolist(), parent.tolist(), of.tolist()

    def test_what_a_group_leads_to_hangs_below_it_by_group(self) -> None:
        # 0 (group 0) → 1, 2 (group 1) → 3 (group 2)
        node, rest, parent, of = self.trees(4, [(0, 1), (0, 2), (2, 3)], [0, 1, 1, 2], [0])
        assert node == [0, 3, 3, 4]
        assert parent[3:] == [0, 3]
        assert of[3:] == [1, 2]
        assert not any(rest)

    def test_a_list_of_any_length_is_one_node(self) -> None:
        n = 1000
        edges = [(row, row + 1) for row in range(n - 1)]
        node, *_ = self.trees(n, edges, [0] + [1] * (n - 1), [0])
        assert set(node[1:]) == {2}

    def test_groups_that_take_turns_are_one_node_each(self) -> None:
        n = 100
        edges = [(row, row + 1) for row in range(n - 1)]
        groups = [0] + [1 + row % 2 for row in range(n - 1)]
        node, _, parent, _ = self.trees(n, edges, groups, [0])
        assert set(node[1:]) == {3, 4}
        assert parent[3:] == [0, 3]

    def test_the_same_group_in_two_places_is_two_nodes(self) -> None:
        edges = [(0, 1), (0, 2), (1, 3), (2, 4)]
        node, _, parent, of = self.trees(5, edges, [0, 1, 2, 3, 3], [0])
        assert node[3] != node[4]
        assert [of[node[3]], of[node[4]]] == [3, 3]
        assert [parent[node[3]], parent[node[4]]] == [node[1], node[2]]

    def test_too_many_nodes_and_too_deep_ones_are_a_rest(self) -> None:
        edges = [(row, row + 1) for row in range(4)]
        groups = [0, 1, 2, 3, 4]
        for limits in ({"capacity": 2}, {"deepest": 2}):
            node, rest, *_ = self.trees(5, edges, groups, [0], **limits)
            assert node == [0, 5, 6, 6, 6]
            assert rest == [0, 0, 0, 1, 1]

    def test_rows_that_do_not_count_are_in_no_tree(self) -> None:
        graph = rows_of(3, [(0, 1), (1, 2)])
        counted = np.array([1, 0, 1], np.uint8)
        node, *_ = unfold(*graph, np.array([0]), np.zeros(3, np.int64), counted, 1, 10, 10)
        assert node.tolist() == [0, -1, -1]

    @given(GRAPHS, st.data())
    def test_a_node_has_what_the_one_above_leads_to(
        self, case: tuple[int, Edges], data: st.DataObject
    ) -> None:
        n, edges = case
        groups = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        starts = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
        node, rest, _, of = self.trees(n, edges, groups, starts)
        reached = set().union(*(reach(start, edges) for start in starts))
        assert {row for row in range(n) if node[row] >= 0} == reached
        for row in reached - set(starts):
            assert of[node[row]] == groups[row]
            assert not rest[row]
            above = {node[s] for s, t in edges if t == row and s in reached}
            # It hangs on a row of the node above its own, or of one that led back to its own.
            assert above


def test_trees_of_groups_that_are_not_there_are_refused() -> None:
    graph = rows_of(2, [(0, 1)])
    with pytest.raises(ValueError, match="rows that are not in"):
        unfold(*graph, np.array([0]), np.array([0, 3]), np.ones(2, np.uint8), 2, 10, 10)
