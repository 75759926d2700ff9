"""Builds kernels whose kmemleak tracked a few objects, in the layouts of several releases."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kmemleak_core.linux.kernel import Kernel

from .kernel import TableTypes, kernel_of

#: Where all of the memory is: the detector's variables, its records, and the objects.
BASE = 0xFFFF_8880_0100_0000
SIZE = 1 << 18
#: Where a word is a root: a static per-CPU area of one page for each of two processors.
PER_CPU = (BASE + 0x1_0000, BASE + 0x1_1000)
#: Per-CPU addresses begin at 0; the static area is so long.
STATIC = 0x400
#: Where records, pools of backtraces and objects lie.
RECORDS, POOLS, OBJECTS = BASE + 0x2000, BASE + 0x8000, BASE + 0x2_0000

_LIST = {"object_list": (8, 16), "flags": (4, 4), "pointer": (24, 8), "size": (32, 8)}
_COUNTS = {"min_count": (40, 4, -1), "count": (44, 4, -1), "checksum": (48, 4)}
_REST = {
    "area_list": (56, 8),
    "area_list.first": (56, 8),
    "jiffies": (64, 8),
    "pid": (72, 4, -1),
    "comm": (76, 16),
    "excess_ref": (96, 8),
}
#: Members of ``struct kmemleak_object``: with its own frames (up to 6.0), or a handle (since).
RECORD = {
    "frames": (256, _LIST | _COUNTS | _REST | {"trace": (104, 128, 16), "trace_len": (232, 4)}),
    "handle": (128, _LIST | _COUNTS | _REST | {"trace_handle": (104, 4), "del_state": (108, 4)}),
}
AREA = (32, {"node": (0, 16), "node.next": (0, 8), "start": (16, 8), "size": (24, 8)})
STACK_RECORD = (24, {"size": (12, 4), "handle": (16, 4), "entries": (24, 0)})


def parts(index: str, index_bits: int, *, valid: bool, extra: int) -> tuple[int, dict]:
    """Return ``union handle_parts`` with its index called so."""
    at = index_bits + 10
    members = {index: (0, 4, 0, 0, index_bits), "offset": (0, 4, 0, index_bits, 10)}
    if valid:
        members["valid"] = (0, 4, 0, at, 1)
        at += 1
    if extra:
        members["extra"] = (0, 4, 0, at, extra)
    return 4, members


#: Depots: the union, the table's symbol, whether that is a pointer, the first pool's number.
DEPOTS = {
    "4.6": (parts("slabindex", 21, valid=True, extra=0), "stack_slabs", False, 0),
    "6.1": (parts("slabindex", 16, valid=True, extra=5), "stack_slabs", False, 0),
    "6.3": (parts("pool_index", 16, valid=True, extra=5), "stack_pools", False, 0),
    "6.8": (parts("pool_index", 17, valid=False, extra=5), "stack_pools", False, 1),
    "6.9": (parts("pool_index_plus_1", 17, valid=False, extra=5), "stack_pools", False, 1),
    "7.0": (parts("pool_index_plus_1", 17, valid=False, extra=5), "stack_pools", True, 1),
}


@dataclass
class Tracked:
    """An object of kmemleak's list."""

    address: int
    size: int = 64
    flags: int = 1
    min_count: int = 1
    count: int = 0
    checksum: int = 0
    jiffies: int = 1000
    pid: int = 7
    comm: bytes = b"maker"
    trace: tuple[int, ...] = ()
    areas: tuple[tuple[int, int], ...] = ()
    excess_ref: int = 0


@dataclass
class Guest:
    """The memory of a kernel with kmemleak, and what its structures look like.

    Parameters
    ----------
    objects
        What was tracked, in the list's order.
    words
        What else is in memory: address → word.
    depot
        One of `DEPOTS`; None for records that hold their frames.
    """

    objects: list[Tracked]
    words: dict[int, int] = field(default_factory=dict)
    depot: str | None = "6.9"
    last_scan: int = 10_000
    memory: np.ndarray = field(default_factory=lambda: np.zeros(SIZE, np.uint8))

    def put(self, address: int, value: int | bytes, size: int = 8) -> None:
        raw = (
            value
            if isinstance(value, bytes)
            else (value % (1 << 8 * size)).to_bytes(size, "little")
        )
        self.memory[address - BASE : address - BASE + len(raw)] = np.frombuffer(raw, np.uint8)

    def record_at(self, i: int) -> int:
        return RECORDS + 256 * i

    def build(self) -> Kernel:
        names = [
            "object_list",
            "jiffies",
            "jiffies_last_scan",
            "jiffies_min_age",
            "min_low_pfn",
            "max_low_pfn",
            "kmemleak_enabled",
            "kmemleak_stack_scan",
            "stack_table",
        ]
        at = {name: BASE + 32 * i for i, name in enumerate(names)}
        for name, value in {
            "jiffies": 20_000,
            "jiffies_last_scan": self.last_scan,
            "jiffies_min_age": 1250,
            "max_low_pfn": 1 << 20,
            "kmemleak_enabled": 1,
            "kmemleak_stack_scan": 1,
        }.items():
            self.put(at[name], value)
        layout = RECORD["frames" if self.depot is None else "handle"]
        layouts = {"kmemleak_object": layout, "kmemleak_scan_area": AREA}
        symbols = {n: at[n] for n in names if n != "stack_table"}
        symbols |= {"__per_cpu_start": 0, "__per_cpu_end": STATIC}
        handles = {}
        if self.depot is not None:
            union, symbol, pointer, base = DEPOTS[self.depot]
            layouts |= {"handle_parts": union, "stack_record": STACK_RECORD}
            handles = self._depot(union[1], at["stack_table"], pointer, base)
            symbols[symbol] = at["stack_table"]
        self._records(layout[1], at["object_list"], handles)
        for address, word in self.words.items():
            self.put(address, word)
        return kernel_of(
            [(BASE, self.memory)],
            TableTypes(layouts),
            symbols,
            frames=SIZE // 4096,
            per_cpu_offsets=PER_CPU,
        )

    def _depot(self, union: dict, table: int, pointer: bool, base: int) -> dict:
        """Write each backtrace into a pool of its own, behind an empty first one."""
        if pointer:
            self.put(table, BASE + 0x1800)
            table = BASE + 0x1800
        handles = {(): 0}
        index = next(name for name in union if "index" in name)
        for trace in {t.trace: None for t in self.objects if t.trace}:
            pool = len(handles)
            place = POOLS + 0x400 * pool
            self.put(table + 8 * pool, place)
            handle = (pool + base) << union[index][3] | 3 << union["offset"][3]
            if "valid" in union:
                handle |= 1 << union["valid"][3]
            record = place + (3 << 4)
            self.put(record + 12, len(trace), 4)
            self.put(record + 16, handle, 4)
            for i, frame in enumerate(trace):
                self.put(record + 24 + 8 * i, frame)
            # What users keep in a handle is theirs.
            if "extra" in union:
                handle |= 5 << union["extra"][3]
            handles[trace] = handle
        return handles

    def _records(self, layout: dict, head: int, handles: dict) -> None:
        link = layout["object_list"][0]
        nodes = [head, *(self.record_at(i) + link for i in range(len(self.objects))), head]
        area = RECORDS + 256 * len(self.objects)
        for i, one in enumerate(self.objects):
            record = self.record_at(i)
            self.put(nodes[i], nodes[i + 1])
            self.put(nodes[i + 1] + 8, nodes[i])
            values = {
                "flags": one.flags,
                "pointer": one.address,
                "size": one.size,
                "min_count": one.min_count,
                "count": one.count,
                "checksum": one.checksum,
                "jiffies": one.jiffies,
                "pid": one.pid,
                "excess_ref": one.excess_ref,
            }
            if "trace_handle" in layout:
                values["trace_handle"] = handles[one.trace]
            else:
                values["trace_len"] = len(one.trace)
                for k, frame in enumerate(one.trace):
                    self.put(record + layout["trace"][0] + 8 * k, frame)
            for name, value in values.items():
                self.put(record + layout[name][0], value, layout[name][1])
            self.put(record + layout["comm"][0], one.comm.ljust(16, b"\0"))
            link_to = record + layout["area_list"][0]
            for start, size in one.areas:
                self.put(link_to, area)
                self.put(area + 16, start)
                self.put(area + 24, size)
                link_to = area
                area += 32
        self.put(nodes[-2], head)
        self.put(head + 8, nodes[-2])
