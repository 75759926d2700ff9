"""Turns a kernel's nodes into the spans of their zones: the page frames that it manages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import FaultError, KmemleakError
from .kernel import Kernel


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone of a node.

    Parameters
    ----------
    name
        ``"DMA32"``, ``"Normal"``, ….
    first, end
        Its span in page frames, end exclusive; holes included.
    """

    name: str
    first: int
    end: int


def read_zones(kernel: Kernel) -> tuple[Zone, ...]:
    """Return the zones that span any page frame; none where they cannot be read.

    They are in each node's ``pglist_data``: ``contig_page_data`` of a kernel with one node,
    else those that ``node_data[]`` points to.
    """
    structures = kernel.structures()
    try:
        member = structures.member("pglist_data", "node_zones")
        size = structures.struct("zone").size
        structures.member("zone", "zone_start_pfn")
        structures.member("zone", "spanned_pages")
    except KmemleakError:
        return ()
    zones = []
    for node in _nodes(kernel):
        at = np.arange(member.count or member.size // size, dtype=np.uint64)
        at = np.uint64(node + member.offset) + at * np.uint64(size)
        first = structures.column(at, "zone", "zone_start_pfn").tolist()
        spanned = structures.column(at, "zone", "spanned_pages").tolist()
        names = [0] * len(first)
        if structures.has("zone", "name"):
            names = structures.column(at, "zone", "name").tolist()
        zones += [
            Zone(structures.text(name, 32) if name else "", start, min(start + n, 1 << 52))
            for name, start, n in zip(names, first, spanned, strict=True)
            if n and start < 1 << 52
        ]
    return tuple(zones)


def _nodes(kernel: Kernel) -> list[int]:
    """Return where the nodes' ``pglist_data`` are."""
    single = kernel.symbols.address("contig_page_data")
    if single is not None:
        return [single]
    table = kernel.symbols.address("node_data")
    if table is None:
        return []
    info = kernel.dump.machine.info if kernel.dump.machine else {}
    length = info.get("LENGTH(node_data)", "64")
    most = min(int(length), 1 << 12) if length.isdigit() else 64
    nodes: list[int] = []
    for i in range(most):
        try:
            node = kernel.image.word(table + i * kernel.image.word_size)
        except FaultError:
            break
        # Without VMCOREINFO the array's length is not known: other variables follow it.
        if node and kernel.image.find(node) is not None and node not in nodes:
            nodes.append(node)
    return nodes
