"""Any sequence of calls leaves the detector with the leaks that the plain algorithm finds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import kmemleak_core as km
from kmemleak_core.objects import ObjectFlags
from tests.oracle import Block, Oracle, Rules

from .rig import BASE, ROOT, ROOT_SIZE, Live

#: Objects lie on a grid of 16 bytes behind the root, so that calls often meet the same ones.
FIRST = ROOT + ROOT_SIZE
SLOTS = 10
GRID = 16

places = st.integers(0, SLOTS - 1).map(lambda i: FIRST + GRID * i)
sizes = st.sampled_from([0, 8, 16, 17, 32, 48, 100])
anywhere = st.one_of(places, st.integers(FIRST - 8, FIRST + SLOTS * GRID))
words = st.one_of(
    st.integers(0, 5).map(lambda i: ROOT + 8 * i),
    st.integers(0, SLOTS * GRID // 8 - 1).map(lambda i: FIRST + 8 * i),
    st.integers(0, SLOTS * GRID - 1).map(lambda i: FIRST + i),
)
values = st.one_of(places, anywhere, st.just(0))
min_counts = st.sampled_from([-1, 0, 1, 1, 1, 2, 3])


class Calls(RuleBasedStateMachine):
    """Drives a detector and keeps, in plain lists, what it must know."""

    def __init__(self):
        super().__init__()
        self.live = Live(0x200, on_misuse="count")
        self.detector = self.live.detector
        self.blocks = []

    # The model.

    def overlapping(self, address, size):
        low, high = address, address + max(1, size)
        return any(b.address < high and low < b.address + max(1, b.size) for b in self.blocks)

    def around(self, address):
        return next(
            (b for b in self.blocks if b.address <= address < b.address + max(1, b.size)), None
        )

    def at(self, address):
        return next((b for b in self.blocks if b.address == address), None)

    def add(self, address, size, min_count):
        if not self.overlapping(address, size):
            self.blocks.append(Block(address, size, min_count))

    def expected(self):
        memory = {BASE + i: byte for i, byte in enumerate(self.live.data)}
        copies = [
            Block(
                b.address,
                b.size,
                b.min_count,
                no_scan=b.no_scan,
                excess_ref=b.excess_ref,
                areas=list(b.areas),
            )
            for b in self.blocks
        ]
        return Oracle(memory, copies, Rules()).run([], [(ROOT, ROOT_SIZE)])

    # The calls.

    @rule(place=places, size=sizes, min_count=min_counts)
    def alloc(self, place, size, min_count):
        self.detector.alloc(place, size, min_count)
        self.add(place, size, min_count)

    @rule(area=places, place=places, size=sizes)
    def vmalloc(self, area, place, size):
        # What comes of a refused block is the concern of another test.
        if self.overlapping(place, size):
            return
        self.detector.vmalloc(area, place, size)
        self.add(place, size, 2)
        carrier = self.at(area)
        if carrier is not None:
            carrier.excess_ref = place

    @rule(place=places)
    def free(self, place):
        self.detector.free(place)
        block = self.at(place)
        if block is not None:
            self.blocks.remove(block)

    @rule(ptr=anywhere, size=sizes)
    def free_part(self, ptr, size):
        self.detector.free_part(ptr, size)
        block = self.around(ptr)
        if block is None:
            return
        self.blocks.remove(block)
        start, end = block.address, block.address + block.size
        parts = [(start, ptr), (min(end, ptr + size), end)]
        if start == end and size == 0:
            self.blocks.append(Block(start, 0, block.min_count, no_scan=block.no_scan))
        for low, high in parts:
            if low >= high:
                continue
            cut = [(max(low, a), min(high, a + n)) for a, n in block.areas]
            areas = [(a, b - a) for a, b in cut if a < b]
            unscanned = block.no_scan or (bool(block.areas) and not areas)
            self.blocks.append(
                Block(low, high - low, block.min_count, no_scan=unscanned, areas=areas)
            )

    def paint(self, place, min_count):
        block = self.at(place)
        if block is None:
            return
        if min_count < 0:
            block.no_scan = True
        elif block.min_count < 0:
            block.no_scan = False
        block.min_count = min_count

    @rule(place=places)
    def not_leak(self, place):
        self.detector.not_leak(place)
        self.paint(place, 0)

    @rule(place=places)
    def ignore(self, place):
        self.detector.ignore(place)
        self.paint(place, -1)

    @rule(place=places, min_count=st.integers(1, 2))
    def unignore(self, place, min_count):
        self.detector.unignore(place, min_count)
        self.paint(place, min_count)

    @rule(place=places)
    def no_scan(self, place):
        self.detector.no_scan(place)
        block = self.at(place)
        if block is not None:
            block.no_scan = True

    @rule(ptr=anywhere, size=st.one_of(st.none(), st.sampled_from([0, 8, 16, 24, 40])))
    def scan_area(self, ptr, size):
        self.detector.scan_area(ptr, size)
        block = self.around(ptr)
        if block is None or size == 0:
            return
        end = block.address + block.size
        if size is None:
            size = end - ptr
        if ptr + size <= end:
            block.areas.append((ptr, size))

    @rule(place=words, value=values)
    def write(self, place, value):
        self.live.put(place, value)

    @rule(place=words, chosen=st.integers(0, 50), offset=st.sampled_from([0, 0, 8, 15]))
    @precondition(lambda self: self.blocks)
    def refer(self, place, chosen, offset):
        self.live.put(place, self.blocks[chosen % len(self.blocks)].address + offset)

    @rule()
    def clear(self):
        white = set(self.expected())
        assert self.live.leaks() == [b.address for b in self.blocks if b.address in white]
        assert self.detector.clear() == len(white)
        for block in self.blocks:
            if block.address in white:
                block.min_count = 0

    @invariant()
    def it_finds_the_leaks(self):
        assert self.live.leaks() == self.expected()

    @invariant()
    def it_tracks_what_it_was_told(self):
        assert len(self.detector) == len(self.blocks)

    def teardown(self):
        for block in self.blocks:
            found = self.detector.find(block.address)
            assert (found.address, found.size, found.min_count) == (
                block.address,
                block.size,
                block.min_count,
            )
            assert bool(found.flags & ObjectFlags.NO_SCAN) == block.no_scan


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_block_that_is_refused_takes_no_surplus_references():
    live = Live(on_misuse="count")
    live.alloc(FIRST, 32)
    live.alloc(FIRST + 64, 32)
    live.detector.vmalloc(FIRST, FIRST + 72, 32)
    assert live.detector.find(FIRST + 64).size == 32
    assert live.anomalies() == {"objects.overlap"}
    assert isinstance(live.detector, km.Kmemleak)
