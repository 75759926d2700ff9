"""Turns addresses of a kernel's objects into the caches that they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...linux.kernel import Kernel
from ...linux.pages import Pages
from .caches import find_caches


def kinds_of(
    kernel: Kernel, pages: Pages, address: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], Sequence[str]]:
    """Find what objects are, by the slabs that they lie in.

    Parameters
    ----------
    kernel, pages
        The kernel and its array of pages.
    address : ndarray of uint64, shape (n,)
        Where the objects are.

    Returns
    -------
    kind : ndarray of int32, shape (n,)
        Index into the names; −1 for what lies in no slab.
    names
        As `Provenance.kinds` has them.
    """
    kind = np.full(address.size, -1, np.int32)
    caches = find_caches(kernel)
    if caches is None or not address.size:
        return kind, ()
    page = pages.rows_of_memory(address)
    found = np.flatnonzero(page >= 0)
    head = pages.head[page[found]]
    found, head = found[pages.slab[head]], head[pages.slab[head]]
    name = "slab" if caches.structures.has("slab", "slab_cache", "freelist") else "page"
    row = caches.rows(caches.structures.column(pages.address[head], name, "slab_cache"))
    kind[found] = row
    # Only what is used is named: that looks for a structure of the cache's name.
    used = np.unique(row[row >= 0])
    kind[found[row >= 0]] = np.searchsorted(used, row[row >= 0])
    return kind, [caches.kind(i) for i in used.tolist()]
