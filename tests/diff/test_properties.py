"""What holds of any two dumps: nothing is lost on the way, and back is the way reversed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import kmemleak_core as km
from kmemleak_core._dominators import nearest
from kmemleak_core.compare.census import Amount
from kmemleak_core.compare.difference import compare
from kmemleak_core.compare.keys import numbered
from kmemleak_core.compare.take_census import take_census
from kmemleak_core.heaps import Heap
from kmemleak_core.pipeline import Found
from kmemleak_core.provenance import Provenance
from kmemleak_core.scan import Colour

BASE, STEP, SLOTS = 0x10000, 0x80, 12
NONE = 0xFFFFFFFF
KINDS = ("", "node", "leaf")

#: One object: its size in words, its kind, the slots that it refers to.
Objects = dict[int, tuple[int, int, list[int]]]
#: Objects, and what two root ranges refer to.
Told = tuple[Objects, list[int], list[int]]

objects = st.dictionaries(
    st.integers(0, SLOTS - 1),
    st.tuples(
        st.integers(0, 9),
        st.integers(0, 2),
        st.lists(st.integers(0, SLOTS - 1), max_size=4),
    ),
    max_size=SLOTS,
)
roots = st.lists(st.integers(0, SLOTS - 1), max_size=3)
dumps = st.tuples(objects, roots, roots)


def a_census(told: Told, kinds: bool) -> km.Census:
    """Scan objects that lie in slots, and two ranges that refer to some."""
    there, *held = told
    memory = np.zeros(0x2000 // 8, np.uint64)
    slots = sorted(there)
    for slot in slots:
        words, _, targets = there[slot]
        for i, target in enumerate(targets[:words]):
            memory[slot * STEP // 8 + i] = BASE + STEP * target
    ranges = []
    for i, (name, targets) in enumerate(zip(("lib", "stack"), held, strict=True)):
        at = 0x1000 + STEP * i
        memory[at // 8 : at // 8 + len(targets)] = [BASE + STEP * t for t in targets]
        ranges.append((BASE + at, STEP, "data" if i == 0 else "stacks", name))
    image = km.MemoryImage.from_segments([(BASE, memory)])
    table = km.ObjectTable.from_arrays(
        [BASE + STEP * slot for slot in slots], [8 * there[slot][0] for slot in slots]
    )
    known = np.array([there[slot][1] - 1 for slot in slots], np.int32)
    provenance = Provenance(kind=known, kinds=KINDS[1:]) if kinds else None
    result = km.scan_image(image, table, km.Roots.from_ranges(ranges))
    dump = km.Dump(image, path="synthetic")
    heap = Heap("", table, provenance=provenance)
    return take_census(Found(dump, heap, result.roots, result))


def started_once(census: km.Census) -> km.Census:
    return replace(census, identity=replace(census.identity, start="same"))


@given(dumps, st.booleans())
def test_a_dump_does_not_differ_from_itself(told: Told, kinds: bool) -> None:
    for made in (a_census(told, kinds), started_once(a_census(told, kinds))):
        found = compare(made, made)
        assert found.groups() == found.groups(leaks=True) == found.anchors() == []
        assert found.growth == found.came == found.went == (0, 0)
        assert found.new_leaks == found.gone_leaks == (0, 0)
        assert found.kept_leaks == made.leaked
        assert all(c.before == c.after for c in (*found.holders, *found.modules, *found.types))


@given(dumps, dumps, st.booleans(), st.booleans())
def test_totals_add_up(
    old: Told,
    new: Told,
    by_address: bool,
    kinds: bool,
) -> None:
    a, b = a_census(old, kinds), a_census(new, kinds)
    if by_address:
        a, b = started_once(a), started_once(b)
    found = compare(a, b)
    assert found.by_address is by_address
    assert added(g.growth for g in found.groups()) == found.growth
    assert added(g.came for g in found.groups(leaks=True)) == found.new_leaks
    assert added(g.went for g in found.groups(leaks=True)) == found.gone_leaks
    assert found.came.minus(found.went) == found.growth
    assert found.new_leaks.minus(found.gone_leaks) == found.leaks.growth
    assert found.kept_leaks.minus(found.leaks.before) == Amount().minus(found.gone_leaks)
    assert added([*(c.growth for c in found.holders), found.unheld.growth]) == found.growth
    assert found.unheld.growth == found.leaks.growth  # nothing is ignored here
    held = found.objects.growth.minus(found.leaks.growth)
    assert added(c.growth for c in found.modules) == held
    if found.types:
        assert added(c.growth for c in found.types) == found.growth
    for leaks in (False, True):
        halves = [found.groups(leaks=leaks, grown=grown) for grown in (True, False)]
        assert {*halves[0], *halves[1]} == set(found.groups(leaks=leaks))
        for grown, groups in zip((True, False), halves, strict=True):
            count, growth = found.tally(leaks=leaks, grown=grown)
            assert count == len(groups)
            assert growth == added(
                (g.came if grown else Amount().minus(g.went)) if leaks else g.growth for g in groups
            )
    for group in (*found.groups(), *found.groups(leaks=True)):
        # Of one process an object stays in its group: nothing else makes it grow.
        assert group.came.minus(group.went) == group.growth
    for group in found.groups():
        known = sum((amount.nbytes for _, amount in group.held_by), 0)
        some = group.came.nbytes if by_address else 0
        assert known <= (some or group.after.nbytes or group.before.nbytes)


@given(dumps, dumps, st.booleans(), st.booleans())
def test_the_way_back_is_the_way_reversed(
    old: Told,
    new: Told,
    by_address: bool,
    kinds: bool,
) -> None:
    a, b = a_census(old, kinds), a_census(new, kinds)
    if by_address:
        a, b = started_once(a), started_once(b)
    there, back = compare(a, b), compare(b, a)
    assert (there.came, there.went) == (back.went, back.came)
    assert (there.new_leaks, there.gone_leaks) == (back.gone_leaks, back.new_leaks)
    for leaks in (False, True):
        forth = {
            (g.kind, g.size, g.shape): (g.before, g.after, g.came, g.went)
            for g in there.groups(leaks=leaks)
        }
        reverse = {
            (g.kind, g.size, g.shape): (g.after, g.before, g.went, g.came)
            for g in back.groups(leaks=leaks)
        }
        assert forth == reverse
    for name in ("holders", "modules", "types"):
        forth = {c.name: (c.before, c.after) for c in getattr(there, name)}
        assert forth == {c.name: (c.after, c.before) for c in getattr(back, name)}


@given(dumps, dumps)
def test_of_one_process_an_object_is_known_by_its_place_and_size(old: Told, new: Told) -> None:
    a, b = started_once(a_census(old, False)), started_once(a_census(new, False))
    found = compare(a, b)
    before, after = (
        {(slot, words) for slot, (words, *_) in told[0].items()} for told in (old, new)
    )
    assert found.came == counted(after - before)
    assert found.went == counted(before - after)
    leaks = [
        {(slot, told[0][slot][0]) for slot in leaked(census)}
        for census, told in ((a, old), (b, new))
    ]
    assert found.new_leaks == counted(leaks[1] - (leaks[0] & before))
    assert found.lost == counted((leaks[1] & before) - leaks[0])
    # Every new object in reach hangs on something.
    reached = (after - before) - leaks[1]
    assert added(anchor.amount for anchor in found.anchors(0)) == counted(reached)
    for anchor in found.anchors(0):
        if anchor.address is not None:
            slot = (anchor.address - BASE) // STEP
            assert (slot, new[0][slot][0]) in before & after


def leaked(census: km.Census) -> list[int]:
    assert census.members is not None
    rows = census.members.address[census.members.leaked]
    return [(int(address) - BASE) // STEP for address in rows]


def counted(some: set[tuple[int, int]]) -> Amount:
    return Amount(len(some), sum(8 * words for _, words in some))


def added(amounts) -> Amount:  # type: ignore[no-untyped-def]
    some = list(amounts)
    return Amount(sum(a.objects for a in some), sum(a.nbytes for a in some))


@given(dumps)
def test_who_holds_an_object_is_a_root_that_leads_to_it(
    told: Told,
) -> None:
    census = a_census(told, False)
    assert census.members is not None
    assert census.holders is not None
    there, data, stack = told

    def reached(starts: list[int]) -> set[int]:
        found = {slot for slot in starts if slot in there}
        todo = list(found)
        while todo:
            words, _, targets = there[todo.pop()]
            new = {t for t in targets[:words] if t in there} - found
            found |= new
            todo += new
        return found

    by_data, by_stack = reached(data), reached(stack)
    for slot, holder in zip(sorted(there), census.members.holder.tolist(), strict=True):
        if holder < 0:
            assert slot not in by_data | by_stack
        else:
            assert census.holders.names[holder] == ("lib" if slot in by_data else "stack")


@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_the_nearest_marked_dominator_is_found(parents: list[int], data: st.DataObject) -> None:
    # A node's dominator comes before it: so it is a tree.
    idom = [NONE if not i or not p else i - 1 - (p % i) for i, p in enumerate(parents)]
    marked = data.draw(st.lists(st.integers(0, 1), min_size=len(idom), max_size=len(idom)))
    order = data.draw(st.permutations(range(len(idom))))
    place = {node: at for at, node in enumerate(order)}
    moved = np.array([NONE if idom[n] == NONE else place[idom[n]] for n in order], np.uint32)
    marks = np.array([marked[n] for n in order], np.uint8)

    def plainly(node: int) -> int:
        while node != NONE and not marks[node]:
            node = int(moved[node])
        return node

    assert nearest(moved, marks).tolist() == [plainly(node) for node in range(len(idom))]


def test_what_is_no_tree_is_refused() -> None:
    for idom in ([1, 0], [0], [5, NONE], [1, 2, 1]):
        try:
            nearest(np.array(idom, np.uint32), np.zeros(len(idom), np.uint8))
        except ValueError:
            continue
        raise AssertionError(f"{idom} was taken for a tree")


@given(st.lists(st.integers(0, 1 << 63), max_size=50), st.integers(1, 8))
def test_equal_keys_get_equal_numbers(values: list[int], sample: int) -> None:
    from kmemleak_core.compare import keys as module

    known, module._SAMPLE = module._SAMPLE, sample
    try:
        number, keys = numbered(np.array(values, np.uint64))
    finally:
        module._SAMPLE = known
    assert keys.tolist() == sorted(set(values))
    assert keys[number].tolist() == values


def test_a_scan_with_surplus_references_is_counted_in_full() -> None:
    memory = np.zeros(64, np.uint64)
    memory[0] = BASE + 0x40
    image = km.MemoryImage.from_segments([(BASE, memory)])
    table = km.ObjectTable.from_arrays([BASE, BASE + 0x40], [16, 16], min_count=[0, 1])
    result = km.scan_image(image, table, km.Roots())
    found = Found(km.Dump(image), Heap("", table), result.roots, result)
    census = take_census(found)
    assert (result.colour == Colour.GRAY).all()
    assert census.holders is not None
    assert census.holders.amounts() == {"objects that are roots themselves": (2, 32)}
