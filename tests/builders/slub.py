"""Builds kernels full of slabs: caches, freelists, what processors hold, what is to be found.

Offsets of members are invented: nothing that reads them may know them otherwise. All is done with
whole arrays, so that ten million objects take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kmemleak_core.linux.kernel import Kernel

from .kernel import DIRECT_MAP, PAGE, PAGE_ARRAY, TableTypes, kernel_of

STRUCT = 64
PAGE_MEMBERS = {
    "flags": (0, 8),
    "compound_head": (8, 8),
    "mapping": (24, 8),
    "page_type": (48, 4),
    "_refcount.counter": (52, 4, -1),
}
SLAB_MEMBERS = {
    "slab_cache": (16, 8),
    "freelist": (32, 8),
    "inuse": (40, 4, 0, 0, 16),
    "objects": (40, 4, 0, 16, 15),
}
CACHE_MEMBERS = {
    "cpu_slab": (0, 8),
    "flags": (8, 4),
    "size": (16, 4),
    "object_size": (20, 4),
    "offset": (24, 4),
    "inuse": (28, 4),
    "red_left_pad": (32, 4),
    "refcount": (36, 4, -1),
    "name": (40, 8),
    "list.next": (48, 8),
    "node": (72, 8, 1),
}
CPU_MEMBERS = {"freelist": (0, 8), "slab": (16, 8)}
NODE_MEMBERS = {"nr_slabs": (8, 8), "total_objects": (16, 8)}
SHEAF_MEMBERS = {"barn_list": (0, 16), "size": (24, 4), "objects": (32, 0)}
RED_ZONE, STORE_USER, NOLEAKTRACE = 1 << 10, 1 << 16, 1 << 23

#: Pages before the slabs: caches, nodes, names, per-CPU memory, sheaves.
_META = 64
_CACHES, _NODES, _NAMES, _PER_CPU, _SHEAVES = 1 * PAGE, 8 * PAGE, 10 * PAGE, 16 * PAGE, 32 * PAGE
_CPU_STRIDE = 4 * PAGE
HEAD = 0xFFFF_FFFF_8200_0000  # where the kernel's list of caches begins


@dataclass
class Plan:
    """A cache that is wanted.

    Parameters
    ----------
    count
        Slots at least.
    offset
        Of the pointer in a free object; −1 for the middle, as kernels since 5.7 have it.
    left_pad
        Red zone before each object, part of `size`.
    random
        Key of its freelist; 0 for a plain one.
    order
        A slab has two to the power of this many pages.
    """

    name: str
    size: int
    count: int
    object_size: int = 0
    offset: int = -1
    left_pad: int = 0
    random: int = 0
    order: int = 0
    flags: int = 0

    def __post_init__(self) -> None:
        self.object_size = self.object_size or self.size - self.left_pad
        if self.offset < 0:
            self.offset = self.object_size // 2 & ~7


@dataclass
class SlubKernel:
    """A kernel of slabs, and what is in them.

    Attributes
    ----------
    memory : ndarray of uint8
        Its linear mapping, from frame 0 on, in place.
    structs : ndarray of uint8, shape (frames, 64)
        Its struct pages, in place.
    allocated : dict
        Name of a cache → addresses of its allocated objects, ascending.
    slabs : dict
        Name of a cache → frames of its slabs.
    free : dict
        Name of a cache → addresses in the order of the first slab's freelist.
    """

    kernel: Kernel
    memory: np.ndarray
    structs: np.ndarray
    allocated: dict[str, np.ndarray] = field(default_factory=dict)
    slabs: dict[str, np.ndarray] = field(default_factory=dict)
    free: dict[str, list[int]] = field(default_factory=dict)

    def word(self, address: int) -> np.ndarray:
        """Return a word of the linear mapping, to be read or written with ``[0]``."""
        at = address - DIRECT_MAP
        return self.memory[at : at + 8].view("<u8")


def make_slabs(
    plans: list[Plan],
    *,
    free_share: float = 0.25,
    seed: int = 7,
    swab: bool = True,
    cpus: int = 2,
    older: bool = False,
    page_type: bool = False,
    fill: bool = False,
) -> SlubKernel:
    """Lay out caches.

    Parameters
    ----------
    free_share
        How many of the slots are free.
    swab
        Whether hardened freelists swap the address's bytes.
    cpus
        Each holds the first objects of one slab's freelist of each cache.
    older
        Whether slabs have no structure of their own, as before Linux 5.17.
    page_type
        Whether slabs are a page type, as since 6.12.
    fill
        Whether allocated objects hold words that look like pointers.
    """
    random = np.random.default_rng(seed)
    per_slab = [(PAGE << p.order) // p.size for p in plans]
    slabs = [-(-p.count // n) for p, n in zip(plans, per_slab, strict=True)]
    frames = _META + sum(n << p.order for p, n in zip(plans, slabs, strict=True)) + 8
    memory = np.zeros(frames * PAGE, np.uint8)
    structs = np.zeros((frames, STRUCT), np.uint8)
    structs[:, 48:52] = 0xFF
    kernel = kernel_of(
        [(DIRECT_MAP, memory), (PAGE_ARRAY, structs.reshape(-1)), (HEAD, np.zeros(16, np.uint8))],
        _types(plans, older=older, page_type=page_type),
        {"slab_caches": HEAD},
        frames=frames,
        per_cpu_offsets=tuple(DIRECT_MAP + _PER_CPU + i * _CPU_STRIDE for i in range(cpus)),
    )
    made = SlubKernel(kernel, memory, structs)
    head = kernel.image.segments[-1].data.view("<u8")
    links = [DIRECT_MAP + _CACHES + 256 * i + 48 for i in range(len(plans))]
    head[0] = links[0] if links else HEAD
    frame = _META
    for i, plan in enumerate(plans):
        _write_cache(made, i, plan, [*links, HEAD][i + 1], slabs[i], per_slab[i])
        first = frame + (np.arange(slabs[i]) << plan.order)
        frame += slabs[i] << plan.order
        made.slabs[plan.name] = first
        kept = [
            _fill_slabs(
                made, i, plan, first[k : k + 4096], per_slab[i],
                free_share, random, swab, cpus if k == 0 else 0, page_type, fill,
            )
            for k in range(0, max(1, slabs[i]), 4096)
        ]  # fmt: skip
        made.allocated[plan.name] = np.concatenate(kept)
    return made


def _types(plans: list[Plan], *, older: bool, page_type: bool) -> TableTypes:
    cache = dict(CACHE_MEMBERS)
    if any(p.random for p in plans):
        cache["random"] = (64, 8)
    page = dict(PAGE_MEMBERS)
    layouts = {
        "page": (STRUCT, page),
        "kmem_cache": (256, cache),
        "kmem_cache_node": (64, NODE_MEMBERS),
        "list_head": (16, {"next": (0, 8)}),
    }
    if older:
        page |= SLAB_MEMBERS
        layouts["kmem_cache_cpu"] = (32, {"freelist": (0, 8), "page": (16, 8)})
    else:
        layouts["slab"] = (STRUCT, SLAB_MEMBERS)
        layouts["kmem_cache_cpu"] = (32, CPU_MEMBERS)
    flags = {"PG_head": 6, "PG_reserved": 12, "PG_lru": 4}
    return TableTypes(layouts, flags | ({"PGTY_slab": 0xF5} if page_type else {"PG_slab": 9}))


def _write_cache(
    made: SlubKernel, i: int, plan: Plan, follower: int, slabs: int, per_slab: int
) -> None:
    at = _CACHES + 256 * i
    small = made.memory[at : at + 256].view("<u4")
    large = made.memory[at : at + 256].view("<u8")
    large[0] = 64 * i  # per-CPU pointer
    small[2] = plan.flags | (RED_ZONE if plan.left_pad else 0)
    small[4:10] = (plan.size, plan.object_size, plan.offset, plan.object_size, plan.left_pad, 1)
    large[5] = DIRECT_MAP + _NAMES + 64 * i
    large[6] = follower
    large[8] = plan.random
    large[9] = DIRECT_MAP + _NODES + 64 * i
    name = plan.name.encode() + b"\0"
    made.memory[_NAMES + 64 * i : _NAMES + 64 * i + len(name)] = np.frombuffer(name, np.uint8)
    node = made.memory[_NODES + 64 * i : _NODES + 64 * i + 64].view("<u8")
    node[1:3] = (slabs, slabs * per_slab)


def _fill_slabs(
    made: SlubKernel,
    i: int,
    plan: Plan,
    first: np.ndarray,
    per_slab: int,
    free_share: float,
    random: np.random.Generator,
    swab: bool,
    cpus: int,
    page_type: bool,
    fill: bool,
) -> np.ndarray:
    base = DIRECT_MAP + first.astype(np.uint64) * np.uint64(PAGE) + np.uint64(plan.left_pad)
    slot = base[:, None] + np.arange(per_slab, dtype=np.uint64) * np.uint64(plan.size)
    keys = random.random(slot.shape, np.float32)
    free = keys < free_share
    keys[~free] = 2
    order = np.argsort(keys, axis=1)
    many = free.sum(axis=1)
    chain = np.take_along_axis(slot, order, axis=1)
    follower = np.zeros_like(chain)
    follower[:, :-1] = chain[:, 1:]
    place = np.arange(per_slab)
    follower[place[None, :] >= (many - 1)[:, None]] = 0
    # What processors hold: the front of the list of a slab each.
    heads = np.where(many > 0, chain[:, 0], 0)
    on_slab = many.copy()
    for cpu in range(min(cpus, first.size)):
        if not many[cpu]:
            continue
        cut = int(many[cpu]) // 2 + 1
        area = _PER_CPU + cpu * _CPU_STRIDE + 64 * i
        held = made.memory[area : area + 32].view("<u8")
        held[0] = chain[cpu, 0]
        held[2] = PAGE_ARRAY + int(first[cpu]) * STRUCT
        follower[cpu, cut - 1] = 0
        heads[cpu] = chain[cpu, cut] if cut < many[cpu] else 0
        on_slab[cpu] -= cut
    words = made.memory.view("<u8")
    taken = slot[~free]
    if fill:
        at = ((taken - np.uint64(DIRECT_MAP)) // np.uint64(8)).astype(np.int64)
        for k in range(plan.object_size // 8):
            words[at + k] = random.choice(slot.reshape(-1), at.size)
    listed = place[None, :] < many[:, None]
    at = chain[listed] + np.uint64(plan.offset)
    value = follower[listed]
    if plan.random:
        value = value ^ np.uint64(plan.random) ^ (at.byteswap() if swab else at)
    words[((at - np.uint64(DIRECT_MAP)) // np.uint64(8)).astype(np.int64)] = value
    _write_structs(made, i, plan, first, page_type)
    view = made.structs[first].view("<u8")
    view[:, 4] = heads
    view[:, 5] = (per_slab - on_slab) | per_slab << 16
    made.structs[first] = view.view(np.uint8)
    if first.size:
        made.free.setdefault(plan.name, chain[0, : many[0]].tolist())
    return taken


def _write_structs(
    made: SlubKernel, i: int, plan: Plan, first: np.ndarray, page_type: bool
) -> None:
    view = made.structs[first].view("<u8")
    view[:, 0] = (0 if page_type else 1 << 9) | (1 << 6 if plan.order else 0)
    view[:, 2] = DIRECT_MAP + _CACHES + 256 * i
    view[:, 6] = 1 << 32 | (0xF500_0000 if page_type else 0xFFFF_FFFF)
    made.structs[first] = view.view(np.uint8)
    for tail in range(1, 1 << plan.order):
        view = made.structs[first + tail].view("<u8")
        view[:, 1] = PAGE_ARRAY + first.astype(np.uint64) * np.uint64(STRUCT) + np.uint64(1)
        made.structs[first + tail] = view.view(np.uint8)
