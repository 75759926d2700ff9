"""The cluster of a leak, cut out of the table: against networkx on random graphs."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core.cluster_graph import ClusterGraph, cluster_graph, largest_cluster
from kmemleak_core.clusters import LeakGraph
from kmemleak_core.errors import UsageError
from kmemleak_core.leaks import LEAK_DTYPE, LeakTable

Edges = list[tuple[int, int]]

#: Rows, references between them (to themselves and several times, too), a row, a limit.
CASES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40),
        st.integers(0, n - 1),
        st.integers(0, 12),
    )
)


def table_of(n: int, edges: Edges, head: int) -> LeakTable:
    """Return a table whose rows all say that this one is their head."""
    array = np.zeros(n, LEAK_DTYPE)
    array["address"] = 0x1000 + 0x100 * np.arange(n)
    array["head"] = head
    sources = np.array([s for s, _ in edges], np.int64)
    targets = np.array([t for _, t in edges], np.uint32)
    order = np.argsort(sources, kind="stable")
    offsets = np.searchsorted(sources[order], np.arange(n + 1)).astype(np.int64)
    return LeakTable(array, LeakGraph(offsets, targets[order]))


def pairs_of(found: ClusterGraph) -> dict[tuple[int, int], int]:
    rows = found.rows.tolist()
    columns = (found.sources.tolist(), found.targets.tolist(), found.words.tolist())
    return {(rows[s], rows[t]): words for s, t, words in zip(*columns, strict=True)}


@given(CASES)
def test_the_members_are_what_the_head_leads_to_the_nearest_first(
    case: tuple[int, Edges, int, int],
) -> None:
    n, edges, head, limit = case
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(n))
    distance = nx.single_source_shortest_path_length(graph, head)
    expected = sorted(distance, key=lambda row: (distance[row], row))
    found = cluster_graph(table_of(n, edges, head), n - 1, limit)
    assert found.rows.tolist() == expected[: limit or None]
    assert found.left_out == len(expected) - found.rows.size


@given(CASES)
def test_every_pair_of_members_is_told_once_with_its_words(
    case: tuple[int, Edges, int, int],
) -> None:
    n, edges, head, limit = case
    found = cluster_graph(table_of(n, edges, head), head, limit)
    members = set(found.rows.tolist())
    expected = Counter((s, t) for s, t in edges if s != t and {s, t} <= members)
    assert pairs_of(found) == expected
    both = list(zip(found.sources.tolist(), found.targets.tolist(), strict=True))
    assert both == sorted(set(both))


def test_a_long_list_is_walked_no_slower_than_a_wide_tree() -> None:
    n = 300_000
    offsets = np.minimum(np.arange(n + 1, dtype=np.int64), n - 1)
    array = np.zeros(n, LEAK_DTYPE)
    found = cluster_graph(LeakTable(array, LeakGraph(offsets, np.arange(1, n, dtype=np.uint32))), 7)
    assert found.rows.tolist() == list(range(1000))
    assert found.left_out == n - 1000
    assert pairs_of(found) == {(i, i + 1): 1 for i in range(999)}


def test_a_leak_that_refers_to_nothing_is_alone() -> None:
    found = cluster_graph(table_of(3, [(2, 1), (1, 0)], 0), 0)
    assert (found.rows.tolist(), found.words.size, found.left_out) == ([0], 0, 0)


def test_a_part_of_a_table_is_refused() -> None:
    with pytest.raises(UsageError, match="full one"):
        cluster_graph(table_of(3, [(0, 1)], 0)[:2], 0)


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        cluster_graph(table_of(3, [(0, 1)], 0), 3)


class TestLargest:
    def test_it_is_the_one_of_the_most_members(self) -> None:
        leaks = table_of(6, [], 0)
        leaks.array["head"] = [0, 1, 2, 2, 4, 4]
        leaks.array["size"] = [900, 1, 1, 1, 1, 2]
        assert largest_cluster(leaks) == 4

    def test_without_leaks_there_is_none(self) -> None:
        assert largest_cluster(LeakTable.empty()) is None
