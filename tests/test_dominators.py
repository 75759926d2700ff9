"""Immediate dominators against networkx and against their definition: remove a node, look again."""

from __future__ import annotations

import tracemalloc

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kmemleak_core._dominators import add_up, dominators, spans

from .test_graph import GRAPHS, Edges, edges_of, rows_of

NONE = (1 << 32) - 1

#: A graph, what each root refers to and which group it is in, and which rows take part.
Case = tuple[tuple[int, Edges], list[tuple[int, list[int]]], list[bool]]
CASES = st.tuples(
    GRAPHS,
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 11), max_size=3)), max_size=5),
    st.lists(st.sampled_from([True, True, True, False]), min_size=12, max_size=12),
)


def lists_of(lists: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return offsets, np.array([t for some in lists for t in some], np.uint32)


def laid_out(case: Case) -> tuple[networkx.DiGraph, int, tuple[NDArray[np.generic], ...]]:
    """Return the whole graph with its roots, the super-root, and what `dominators` takes."""
    (n, edges), roots, taking_part = case
    named = sorted({group for group, _ in roots})
    groups = [named.index(group) for group, _ in roots]
    lists = [[row % n for row in rows] for _, rows in roots]
    among = np.array(taking_part[:n], np.uint8)
    top = n + len(roots) + len(named)
    graph = networkx.DiGraph()
    graph.add_node(top)
    for root, (group, rows) in enumerate(zip(groups, lists, strict=True)):
        graph.add_edge(top, n + len(roots) + group)
        graph.add_edge(n + len(roots) + group, n + root)
        graph.add_edges_from((n + root, row) for row in rows if among[row])
    graph.add_edges_from((a, b) for a, b in edges if among[a] and among[b])
    columns = (*rows_of(n, edges), *lists_of(lists), np.array(groups, np.uint32), among)
    return graph, top, columns


def found(columns: tuple[NDArray[np.generic], ...]) -> tuple[NDArray[np.uint32], list[int]]:
    *graph, among = columns
    idom, order = dominators(*graph, among=among)
    return idom, order.tolist()


def whole(
    offsets: NDArray[np.int64], targets: NDArray[np.uint32], first: int = 0
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Find the dominators of a graph below one root that refers to its first row."""
    one = np.array([0, 1]), np.array([first], np.uint32), np.zeros(1, np.uint32)
    return dominators(offsets, targets, *one)


class TestDominators:
    @given(CASES)
    def test_they_are_networkx_s(self, case: Case) -> None:
        graph, top, columns = laid_out(case)
        idom, _ = found(columns)
        expected = networkx.immediate_dominators(graph, top)
        expected.pop(top, None)
        assert {node: int(d) for node, d in enumerate(idom) if d != NONE} == expected

    @given(CASES)
    def test_without_the_dominator_a_node_is_out_of_reach(self, case: Case) -> None:
        graph, top, columns = laid_out(case)
        idom, _ = found(columns)
        reached = networkx.descendants(graph, top)
        assert {node for node, d in enumerate(idom) if d != NONE} == reached
        # By definition: a dominates b if b goes with a; the nearest is dominated by all others.
        gone = {
            a: reached - networkx.descendants(networkx.subgraph(graph, graph.nodes - {a}), top)
            for a in reached
        }
        for node in reached:
            above = {a for a in reached - {node} if node in gone[a]} | {top}
            (nearest,) = [
                a
                for a in above
                if all(b in (a, top) or a in gone[b] for b in above)
                and (a != top or len(above) == 1)
            ]
            assert idom[node] == nearest

    @given(CASES)
    def test_each_node_comes_once_and_after_its_dominator(self, case: Case) -> None:
        _, top, columns = laid_out(case)
        idom, order = found(columns)
        place = {node: i for i, node in enumerate(order)}
        assert order[0] == top
        assert len(place) == len(order) == np.count_nonzero(idom != NONE) + 1
        assert all(place[int(idom[node])] < place[node] for node in order[1:])

    def test_dense_random_graphs_agree_too(self) -> None:
        # Long ways, many references back and across: where paths are compressed.
        random = np.random.default_rng(4)
        for n in (200, 1000):
            for share in (1.2, 2, 4):
                ends = random.integers(0, n, (int(n * share), 2)).tolist()
                edges = [(a, b) for a, b in ends if random.random() < 0.9 or abs(a - b) < 5]
                case: Case = ((n, edges), [(0, [0, 1]), (1, [2]), (0, [3])], [True] * n)
                graph, top, columns = laid_out(case)
                idom, _ = found(columns)
                expected = networkx.immediate_dominators(graph, top)
                expected.pop(top, None)
                assert {v: int(d) for v, d in enumerate(idom) if d != NONE} == expected

    @pytest.mark.parametrize("back", [False, True])
    def test_a_list_of_any_length_is_one_chain(self, back: bool) -> None:
        n = 300_000
        edges = np.arange(n - 1, dtype=np.uint32)
        if back:  # each element leads to the one before it as well
            offsets = np.concatenate(([0, 1], np.arange(3, 2 * n - 1, 2), [2 * n - 2]))
            targets = np.empty(2 * n - 2, np.uint32)
            targets[0::2], targets[1::2] = edges + 1, edges
        else:
            offsets, targets = np.minimum(np.arange(n + 1), n - 1), edges + 1
        idom, _ = whole(offsets, targets)
        assert idom[0] == n
        assert (idom[1:n] == edges).all()

    def test_a_table_that_leads_to_every_element_of_a_list_holds_each_of_them(self) -> None:
        n = 100_000
        elements = np.arange(1, n, dtype=np.uint32)
        targets = np.concatenate((elements, elements[1:]))
        offsets = np.concatenate(([0], np.arange(n - 1, 2 * n - 2), [2 * n - 3]))
        idom, _ = whole(offsets, targets)
        assert (idom[1:n] == 0).all()

    def test_dominators_far_above_are_found_in_few_steps(self) -> None:
        # A list's last element leads to as many rows again as the list has, and so does its first:
        # climbing from each of them along the list would take 10¹⁰ steps.
        n = 100_000
        rows = np.arange(n, 2 * n, dtype=np.uint32)
        chain = np.arange(1, n, dtype=np.uint32)
        targets = np.concatenate((chain[:1], rows, chain[1:], rows))
        offsets = np.concatenate(([0], np.arange(n + 1, 2 * n), np.full(n + 1, 3 * n - 1)))
        idom, _ = whole(offsets, targets)
        assert (idom[n : 2 * n] == 0).all()

    def test_nothing_has_no_dominators(self) -> None:
        nothing, none = np.zeros(1, np.int64), np.empty(0, np.uint32)
        idom, order = dominators(nothing, none, nothing, none, none)
        assert (idom.tolist(), order.tolist()) == ([NONE], [0])


class TestSums:
    @given(CASES)
    def test_a_node_retains_what_goes_with_it(self, case: Case) -> None:
        graph, top, columns = laid_out(case)
        n = case[0][0]
        size = np.arange(1, n + 1, dtype=np.uint64) ** 2
        idom, order = found(columns)
        nbytes, count = add_up(idom, np.array(order, np.uint32), size)
        reached = networkx.descendants(graph, top)
        for node in range(top):
            if node not in reached:
                assert (nbytes[node], count[node]) == (0, 0)
                continue
            rest = networkx.subgraph(graph, graph.nodes - {node})
            gone = {v for v in reached - networkx.descendants(rest, top) if v < n}
            assert count[node] == len(gone)
            assert nbytes[node] == sum((v + 1) ** 2 for v in gone)
        assert count[top] == sum(v < n for v in reached)


def test_they_take_less_than_100_bytes_an_object() -> None:
    n, references = 100_000, 560_000
    random = np.random.default_rng(5)
    offsets = np.sort(random.integers(0, references, n + 1))
    offsets[0], offsets[-1] = 0, references
    targets = random.integers(0, n, references, dtype=np.uint32)
    size = np.ones(n, np.uint64)
    tracemalloc.start()
    try:
        _, count = add_up(*whole(offsets, targets), size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count[-1] > 0.8 * n
    assert peak < 100 * n


class TestHostileGraphs:
    @pytest.mark.parametrize(
        ("offsets", "targets"),
        [([], []), ([0, 2], [0]), ([1, 1], [0]), ([0, 2, 1, 2], [0, 1]), ([0, 1], [1])],
    )
    def test_what_leads_out_of_the_graph_is_refused(
        self, offsets: list[int], targets: list[int]
    ) -> None:
        graph = np.array(offsets, np.int64), np.array(targets, np.uint32)
        with pytest.raises(ValueError, match=r"offsets|out of the graph"):
            whole(*graph)
        if len(offsets) > 1:
            sound = rows_of(1, [])
            group = np.zeros(len(offsets) - 1, np.uint32)
            with pytest.raises(ValueError, match=r"offsets|out of the graph"):
                dominators(*sound, *graph, group)

    @pytest.mark.parametrize("group", [[], [1], [NONE], [0, 0]])
    def test_groups_that_are_not_the_roots_are_refused(self, group: list[int]) -> None:
        graph = rows_of(1, [])
        with pytest.raises(ValueError, match="group"):
            dominators(*graph, *lists_of([[0]]), np.array(group, np.uint32))

    def test_a_tree_that_is_none_is_refused(self) -> None:
        size = np.ones(1, np.uint64)
        for idom, order in (([0], [1]), ([0, 5], [0, 1]), ([], [0])):
            with pytest.raises(ValueError, match="tree"):
                add_up(np.array(idom, np.uint32), np.array(order, np.uint32), size)

    def test_rows_that_take_part_are_told_for_each(self) -> None:
        with pytest.raises(ValueError, match="take part"):
            dominators(
                *rows_of(2, []),
                *lists_of([[0]]),
                np.zeros(1, np.uint32),
                among=np.ones(1, np.uint8),
            )


def test_references_are_kept_as_they_were() -> None:
    graph = rows_of(3, [(0, 1), (1, 2), (0, 2)])
    before = edges_of(*graph)
    whole(*graph)
    assert edges_of(*graph) == before


@given(CASES)
def test_spans_hold_exactly_what_is_below(case: Case) -> None:
    _, top, columns = laid_out(case)
    idom, order = found(columns)
    first, behind = spans(idom, np.array(order, np.uint32))
    assert sorted(first[order].tolist()) == list(range(len(order)))
    for lowest in order:
        node, above = lowest, {lowest}
        while node != top:
            node = int(idom[node])
            above.add(node)
        for other in order:
            assert (first[other] <= first[lowest] < behind[other]) == (other in above)


def test_spans_of_a_tree_that_leads_out_of_its_nodes() -> None:
    with pytest.raises(ValueError, match="leads out"):
        spans(np.array([9, 0], np.uint32), np.array([0, 9], np.uint32))
