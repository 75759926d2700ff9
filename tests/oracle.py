"""The algorithm as plainly as it can be said, in pure Python on intervaltree: the engine's judge.

Nothing here is fast and nothing is shared with the package's own code: objects are dictionaries,
memory is a mapping from address to byte, the gray list is a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from intervaltree import IntervalTree


@dataclass
class Block:
    """One tracked object."""

    address: int
    size: int
    min_count: int = 1
    no_scan: bool = False
    full_scan: bool = False
    exact_end: bool = False
    excess_ref: int = 0
    areas: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    held: int = 0

    @property
    def gray(self) -> bool:
        return self.min_count >= 0 and self.count >= self.min_count


@dataclass
class Rules:
    """What counts as a reference."""

    word_size: int = 8
    byteorder: str = "little"
    step: int = 8
    mask: int = (1 << 64) - 1
    interior: bool = True
    end_pointers: bool = False


class Oracle:
    """Marks blocks from roots over a sparse memory of bytes."""

    def __init__(self, memory: Mapping[int, int], blocks: Sequence[Block], rules: Rules) -> None:
        self.memory = memory
        self.blocks = blocks
        self.rules = rules
        self.tree = IntervalTree()
        self.by_start = {}
        for block in blocks:
            self.tree[block.address : block.address + max(1, block.size)] = block
            self.by_start[block.address] = block
        self.gray_list: list[Block] = []

    def run(
        self,
        root_words: Sequence[int],
        root_ranges: Sequence[tuple[int, int]],
        modified: Sequence[Block] = (),
    ) -> list[int]:
        """Return the addresses of the white blocks, in allocation order."""
        self.gray_list = [b for b in self.blocks if b.min_count == 0]
        for value in root_words:
            self.refer(value & self.rules.mask, None)
        for address, size in root_ranges:
            self.scan(address, size, None)
        self.follow()
        late = [b for b in self.blocks if b in modified and self.white(b)]
        for block in late:
            block.count = block.min_count
            self.gray_list.append(block)
        self.follow()
        return [b.address for b in self.blocks if self.white(b)]

    @staticmethod
    def white(block: Block) -> bool:
        return block.min_count > 0 and block.count < block.min_count

    def follow(self) -> None:
        while self.gray_list:
            block = self.gray_list.pop(0)
            if block.no_scan:
                continue
            if block.areas and not block.full_scan:
                for address, size in reversed(block.areas):
                    self.scan(address, size, block)
            else:
                self.scan(block.address, block.size, block)

    def scan(self, address: int, size: int, source: Block | None) -> None:
        at = -(-address // self.rules.step) * self.rules.step
        while at + self.rules.word_size <= address + size:
            raw = [self.memory.get(at + i) for i in range(self.rules.word_size)]
            if None not in raw:
                value = int.from_bytes(bytes(raw), self.rules.byteorder)
                self.refer(value & self.rules.mask, source)
            at += self.rules.step

    def refer(self, value: int, source: Block | None) -> None:
        found = self.target(value)
        if found is None or found[0] is source:
            return
        block, kind = found
        block.held |= kind
        if not block.gray:
            self.bump(block)
        elif block.excess_ref:
            other = self.by_start.get(block.excess_ref)
            if other is not None and other is not source:
                self.bump(other)

    def bump(self, block: Block) -> None:
        if self.white(block):
            block.count += 1
            if block.gray:
                self.gray_list.append(block)

    def target(self, value: int) -> tuple[Block, int] | None:
        for interval in self.tree.at(value):
            if value == interval.begin:
                return interval.data, 1
            return (interval.data, 2) if self.rules.interior else None
        if self.rules.end_pointers:
            for interval in self.tree.at(value - 1):
                if interval.data.size and not interval.data.exact_end:
                    return interval.data, 4
        return None
