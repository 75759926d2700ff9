"""Leak tables: heads and clusters, groups, retained bytes, the table's own behaviour."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kmemleak_core import KmemleakError, MemoryImage, ObjectTable, leak_groups
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.leaks import LeakTable, build_leaks
from kmemleak_core.shapes import WordKind, classify

BASE = 0x10000
SIZE = 64


#: How many objects, references between them, and which of them are white.
GRAPHS = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1]),
            max_size=14,
        ),
        st.sets(st.integers(0, n - 1)),
    )
)


@dataclass
class Graph:
    offsets: NDArray[np.int64]
    targets: NDArray[np.uint32]


@dataclass
class Result:
    """A scan's result, made by hand."""

    objects: ObjectTable
    white: NDArray[np.bool_]
    references: Graph | None
    possible_rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.count = np.zeros(len(self.objects), np.int32)
        self.held = np.zeros(len(self.objects), np.uint8)


def made(
    n: int,
    edges: list[tuple[int, int]],
    white: list[int] | None = None,
    *,
    sizes: list[int] | None = None,
    allocated: list[int] | None = None,
) -> Result:
    """Build a result of n objects at BASE, BASE+0x100, …; `allocated`: rows in that order."""
    order = list(range(n)) if allocated is None else allocated
    size = [SIZE] * n if sizes is None else sizes
    objects = ObjectTable.from_arrays(
        np.array([BASE + 0x100 * row for row in order], dtype=np.uint64),
        np.array([size[row] for row in order], dtype=np.uint64),
    )
    out: list[list[int]] = [[] for _ in range(n)]
    for source, target in edges:
        out[source].append(target)
    offsets = np.concatenate(([0], np.cumsum([len(o) for o in out]))).astype(np.int64)
    targets = np.array([t for o in out for t in o], dtype=np.uint32)
    mask = np.zeros(n, bool)
    mask[list(range(n)) if white is None else white] = True
    return Result(objects, mask, Graph(offsets, targets))


def image_of(result: Result, contents: dict[int, bytes] | None = None) -> MemoryImage:
    memory = bytearray(0x100 * max(1, len(result.objects)))
    for row, content in (contents or {}).items():
        memory[0x100 * row : 0x100 * row + len(content)] = content
    return MemoryImage.from_segments([(BASE, bytes(memory))])


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def heads(result: Result) -> list[int]:
    return np.flatnonzero(build_leaks(result)["direct"]).tolist()


class TestHeads:
    def test_a_leak_that_nobody_refers_to_is_direct(self) -> None:
        assert heads(made(3, [])) == [0, 1, 2]

    def test_what_only_a_leak_refers_to_is_indirect(self) -> None:
        assert heads(made(3, [(2, 1), (1, 0)])) == [2]

    def test_references_from_reachable_objects_do_not_count(self) -> None:
        # Object 0 is reachable and refers to 1, which wants more references than that.
        assert heads(made(2, [(0, 1)], white=[1])) == [0]

    def test_a_cycle_has_one_head(self) -> None:
        assert heads(made(3, [(0, 1), (1, 2), (2, 0)])) == [0]

    def test_the_head_of_a_cycle_is_the_member_with_most_references(self) -> None:
        assert heads(made(3, [(0, 1), (1, 2), (2, 0), (0, 2)])) == [2]

    def test_among_equals_the_first_allocated_heads_a_cycle(self) -> None:
        assert heads(made(3, [(0, 1), (1, 2), (2, 0)], allocated=[1, 0, 2])) == [1]

    def test_a_cycle_that_another_leak_holds_has_no_head(self) -> None:
        assert heads(made(3, [(0, 1), (1, 0), (2, 0)])) == [2]

    def test_every_leak_names_the_head_that_leads_to_it(self) -> None:
        table = build_leaks(made(5, [(0, 1), (1, 2), (3, 4)]))
        assert table["head"].tolist() == [0, 0, 0, 3, 3]

    def test_of_two_heads_the_nearer_is_named(self) -> None:
        table = build_leaks(made(4, [(0, 1), (1, 3), (2, 3)]))
        assert table["head"][3] == 2

    def test_the_kind_bits_of_a_reference_do_not_matter(self) -> None:
        result = made(2, [(0, 1)])
        assert result.references is not None
        result.references.targets |= np.uint32(2 << 30)
        assert heads(result) == [0]

    def test_without_a_graph_every_leak_is_direct(self) -> None:
        result = made(3, [])
        result.references = None
        assert heads(result) == [0, 1, 2]

    def test_a_chain_of_many_leaks_has_one_head(self) -> None:
        n = 20_000
        table = build_leaks(made(n, [(i, i + 1) for i in range(n - 1)]))
        assert np.count_nonzero(table["direct"]) == 1
        assert not table["head"].any()

    def test_no_leaks_make_an_empty_table(self) -> None:
        assert len(build_leaks(made(3, [(0, 1)], white=[]))) == 0

    @given(GRAPHS)
    def test_heads_are_those_of_a_plain_search(
        self, case: tuple[int, list[tuple[int, int]], set[int]]
    ) -> None:
        n, edges, white = case
        rows = sorted(white)
        inner = [(s, t) for s, t in edges if s in white and t in white]
        reach = {row: reachable([row], inner) for row in rows}
        table = build_leaks(made(n, edges, rows))
        direct = {rows[i] for i in np.flatnonzero(table["direct"])}
        # Every leak is reached from a head, no head from outside its own cycle, one a cycle.
        assert set(rows) <= reachable(direct, inner)
        for head in direct:
            assert all(other in reach[head] for other in rows if head in reach[other])
            assert not any(o != head and o in reach[head] and head in reach[o] for o in direct)
        for i, row in enumerate(rows):
            assert row in reach[rows[table["head"][i]]]
            assert rows[table["head"][i]] in direct


def reachable(starts: Any, edges: list[tuple[int, int]]) -> set[int]:
    seen = set(starts)
    while True:
        more = {t for s, t in edges if s in seen} - seen
        if not more:
            return seen
        seen |= more


class TestColumns:
    def test_order_is_the_position_in_the_order_of_allocation(self) -> None:
        table = build_leaks(made(3, [], white=[0, 2], allocated=[2, 0, 1]))
        assert table["order"].tolist() == [1, 0]

    def test_order_is_the_row_where_allocation_order_is_unknown(self) -> None:
        assert build_leaks(made(3, [], white=[1, 2]))["order"].tolist() == [1, 2]

    def test_counts_are_taken_over(self) -> None:
        result = made(2, [])
        result.count = np.array([0, 1], np.int32)
        assert build_leaks(result)["count"].tolist() == [0, 1]


class TestGroups:
    def test_leaks_of_one_size_and_shape_are_one_group(self) -> None:
        result = made(3, [])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert [(g.size, g.count, g.shape) for g in groups] == [(SIZE, 3, "0×8")]

    def test_different_sizes_are_different_groups_the_larger_first(self) -> None:
        result = made(3, [], sizes=[32, 32, 128])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert [(g.size, g.nbytes) for g in groups] == [(128, 128), (32, 64)]

    def test_different_contents_are_different_groups(self) -> None:
        result = made(2, [])
        image = image_of(result, {1: b"some text"})
        shapes = {g.shape for g in group_leaks(build_leaks(result), image, result.objects)}
        assert shapes == {"0×8", "text×2·0×6"}

    @pytest.mark.parametrize(
        ("content", "shape"),
        [
            (word(BASE + 8), "obj·0×7"),
            (word(BASE + 0x80), "ptr·0×7"),
            (word(7), "int·0×7"),
            (word((1 << 64) - 2), "int·0×7"),
            (word(7 << 32 | 9), "int·0×7"),
            (b"a string longer", "text×2·0×6"),
            (word(0xDEADBEEFCAFEBABE), "data·0×7"),
        ],
    )
    def test_words_are_told_apart(self, content: bytes, shape: str) -> None:
        result = made(2, [], white=[1])
        image = image_of(result, {1: content})
        assert group_leaks(build_leaks(result), image, result.objects)[0].shape == shape

    @given(st.binary(max_size=80), st.integers(0, 90), st.integers(0, 9), st.booleans())
    def test_any_content_at_any_place_is_classified_as_a_plain_reading_does(
        self, content: bytes, size: int, offset: int, big: bool
    ) -> None:
        image = MemoryImage.from_segments(
            [(BASE, bytes(offset) + content)], byteorder="big" if big else "little"
        )
        objects = ObjectTable.from_arrays([BASE + offset], [size])
        (codes,) = classify(image, objects, objects.address, objects.size).tolist()
        for i, code in enumerate(codes):
            raw = content[8 * i : 8 * i + 8]
            if i >= size // 8:
                assert code == WordKind.ABSENT
            elif len(raw) < 8:
                assert code == WordKind.MISSING
            elif not any(raw):
                assert code == WordKind.ZERO
            elif raw.isalnum():
                assert code == WordKind.TEXT
            else:
                assert code in (WordKind.INT, WordKind.TEXT, WordKind.DATA, WordKind.OBJECT)

    def test_a_larger_object_has_more_words_than_its_shape_tells(self) -> None:
        result = made(1, [], sizes=[72])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert groups[0].shape == "0×8 …"

    def test_an_object_smaller_than_a_word_is_bytes(self) -> None:
        result = made(1, [], sizes=[5])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert groups[0].shape == "bytes"

    def test_words_of_32_bit_big_endian_images_are_read(self) -> None:
        objects = ObjectTable.from_arrays([0x1002], [8])
        memory = b"\0\0" + (0x1004).to_bytes(4, "big") + b"\0\0\0\5"
        image = MemoryImage.from_segments([(0x1000, memory)], word_size=4, byteorder="big")
        leaks = build_leaks(Result(objects, np.array([True]), None))
        assert group_leaks(leaks, image, objects)[0].shape == "obj·int"

    def test_what_the_image_lacks_is_told(self) -> None:
        result = made(1, [])
        image = MemoryImage.from_segments([(BASE, bytes(16))])
        groups = group_leaks(build_leaks(result), image, result.objects)
        assert groups[0].shape == "0×2·?×6"

    def test_an_object_outside_the_image_has_no_content(self) -> None:
        result = made(1, [])
        image = MemoryImage.from_segments([(0x10, bytes(16))])
        groups = group_leaks(build_leaks(result), image, result.objects)
        assert groups[0].shape == "?×8"

    def test_retained_is_what_only_this_group_leads_to(self) -> None:
        # 0 (32 bytes) leads to 2 and 3, 1 (48 bytes) leads to 3 too.
        result = made(4, [(0, 2), (0, 3), (1, 3)], sizes=[32, 48, 64, 64])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert {g.size: (g.retained_count, g.retained_bytes) for g in groups} == {
            32: (1, 64),
            48: (0, 0),
            64: (0, 0),
        }

    def test_what_a_shared_leak_leads_to_is_nobody_s_alone(self) -> None:
        result = made(4, [(0, 2), (1, 2), (2, 3)], sizes=[32, 48, 64, 64])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert not any(g.retained_count for g in groups)

    def test_two_heads_of_one_group_retain_together(self) -> None:
        result = made(3, [(0, 2), (1, 2)], sizes=[32, 32, 64])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert (groups[0].size, groups[0].retained_count) == (32, 1)

    def test_a_list_retains_its_elements(self) -> None:
        result = made(3, [(0, 1), (1, 2)])
        (group,) = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert (group.count, group.direct_count, group.retained_count) == (3, 1, 2)

    def test_the_group_that_frees_most_comes_first(self) -> None:
        result = made(3, [(0, 2)], sizes=[16, 64, 128])
        groups = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert [g.size for g in groups] == [16, 64, 128]

    def test_the_group_column_names_the_group(self) -> None:
        result = made(3, [], sizes=[32, 128, 32])
        leaks = build_leaks(result)
        groups = group_leaks(leaks, image_of(result), result.objects)
        assert leaks["group"].tolist() == [1, 0, 1]
        assert [g.rows.tolist() for g in groups] == [[1], [0, 2]]

    def test_the_example_is_the_first_allocated_direct_leak(self) -> None:
        result = made(3, [(2, 0)], allocated=[0, 2, 1])
        (group,) = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert group.example == BASE + 0x200

    def test_too_many_groups_fold_the_smallest_into_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leak_groups, "MAX_GROUPS", 3)
        result = made(5, [], sizes=[8, 16, 24, 32, 40])
        leaks = build_leaks(result)
        groups = group_leaks(leaks, image_of(result), result.objects)
        assert [(g.size, g.count, g.nbytes) for g in groups] == [
            (None, 3, 48),
            (40, 1, 40),
            (32, 1, 32),
        ]
        assert leaks["group"].tolist() == [0, 0, 0, 2, 1]

    def test_no_leaks_have_no_groups(self) -> None:
        result = made(1, [], white=[])
        assert group_leaks(build_leaks(result), image_of(result), result.objects) == ()

    @given(GRAPHS, st.lists(st.sampled_from([16, 32]), min_size=7, max_size=7))
    def test_retained_is_what_a_plain_search_finds(
        self, case: tuple[int, list[tuple[int, int]], set[int]], sizes: list[int]
    ) -> None:
        n, edges, white = case
        rows = sorted(white)
        inner = [(s, t) for s, t in edges if s in white and t in white]
        result = made(n, edges, rows, sizes=sizes[:n])
        leaks = build_leaks(result)
        groups = group_leaks(leaks, image_of(result), result.objects)
        heads = {row for row, direct in zip(rows, leaks["direct"], strict=True) if direct}
        for group in groups:
            members = {rows[i] for i in group.rows}
            mine = reachable(members & heads, inner)
            others = reachable(heads - members, inner)
            retained = mine - others - heads
            assert group.retained_count == len(retained)
            assert group.retained_bytes == sum(sizes[row] for row in retained)

    def test_data_that_looks_different_does_not_make_a_group_of_its_own(self) -> None:
        result = made(3, [])
        contents = [word(7), word(1 << 60), b"user-100"]
        image = image_of(result, {i: word(9) + c for i, c in enumerate(contents)})
        (group,) = group_leaks(build_leaks(result), image, result.objects)
        assert group.shape == "int·any·0×6"

    def test_strings_of_different_lengths_are_one_group(self) -> None:
        result = made(3, [])
        image = image_of(result, {i: b"a string " * (i + 1) for i in range(3)})
        (group,) = group_leaks(build_leaks(result), image, result.objects)
        assert group.shape == "text×2·any×2·0×4"

    def test_objects_that_begin_with_text_stand_apart_from_others(self) -> None:
        result = made(2, [])
        image = image_of(result, {0: b"some text", 1: word(1 << 60)})
        groups = group_leaks(build_leaks(result), image, result.objects)
        assert {g.shape for g in groups} == {"text×2·0×6", "data·0×7"}

    def test_objects_of_one_size_that_all_look_different_are_one_group(self) -> None:
        result = made(5, [])
        contents = [b"", word(5), b"some text", word(1 << 40), word(BASE)]
        image = image_of(result, {i: word(7) + c for i, c in enumerate(contents)})
        (group,) = group_leaks(build_leaks(result), image, result.objects)
        assert (group.count, group.shape) == (5, "int·any×2·0×5")

    def test_objects_of_one_size_that_look_alike_in_parts_are_not_merged(self) -> None:
        result = made(6, [])
        image = image_of(result, {i: word(7) for i in range(3)})
        groups = group_leaks(build_leaks(result), image, result.objects)
        assert {g.shape for g in groups} == {"int·0×7", "0×8"}

    def test_an_object_of_no_bytes_is_grouped_too(self) -> None:
        result = made(1, [], sizes=[0])
        (group,) = group_leaks(build_leaks(result), image_of(result), result.objects)
        assert (group.size, group.shape, group.nbytes) == (0, "empty", 0)


class TestTable:
    @pytest.fixture
    def table(self) -> LeakTable:
        return build_leaks(made(4, [(0, 1)], sizes=[8, 64, 64, 16], allocated=[3, 2, 1, 0]))

    def test_a_name_gives_a_column(self, table: LeakTable) -> None:
        assert table["size"].tolist() == [8, 64, 64, 16]

    def test_an_unknown_column_names_the_known_ones(self, table: LeakTable) -> None:
        with pytest.raises(KeyError, match="address, size"):
            table["adress"]

    def test_a_number_gives_a_row(self, table: LeakTable) -> None:
        assert (table[1].address, table[1].direct, table[1].head) == (BASE + 0x100, False, 0)

    def test_a_mask_gives_a_table(self, table: LeakTable) -> None:
        assert table[table["direct"]]["size"].tolist() == [8, 64, 16]

    def test_a_slice_gives_a_table(self, table: LeakTable) -> None:
        assert len(table[1:3]) == 2

    def test_iteration_gives_rows(self, table: LeakTable) -> None:
        assert [leak.size for leak in table] == [8, 64, 64, 16]

    @pytest.mark.parametrize(
        ("order", "rows"),
        [("address", [0, 1, 2, 3]), ("allocation", [3, 2, 1, 0]), ("size", [1, 2, 3, 0])],
    )
    def test_rows_have_stable_orders(self, table: LeakTable, order: str, rows: list[int]) -> None:
        assert table.rows_by(order).tolist() == rows

    def test_an_unknown_order_is_refused(self, table: LeakTable) -> None:
        with pytest.raises(ValueError, match="allocation"):
            table.rows_by("colour")

    def test_it_turns_into_a_data_frame(self, table: LeakTable) -> None:
        pd = pytest.importorskip("pandas")
        frame = table.to_pandas()
        assert isinstance(frame, pd.DataFrame)
        assert frame["address"].tolist() == table["address"].tolist()

    def test_without_pandas_the_error_names_the_extra(
        self, table: LeakTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = builtins.__import__

        def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "pandas":
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(KmemleakError, match=r"kmemleak-core\[pandas\]"):
            table.to_pandas()

    def test_its_repr_tells_the_figures(self, table: LeakTable) -> None:
        assert repr(table) == "<LeakTable 4 objects, 152 bytes, 3 direct>"

    def test_its_html_shows_the_first_rows(self) -> None:
        text = build_leaks(made(30, []))._repr_html_()
        assert text.count("<tr>") == 21
        assert "10 more" in text

    def test_an_array_of_another_layout_is_refused(self) -> None:
        with pytest.raises(ValueError, match="LEAK_DTYPE"):
            LeakTable(np.zeros(3))
