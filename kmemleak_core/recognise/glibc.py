"""Turns objects that control blocks of threads point into into glibc's own tables of threads.

A thread's control block (``tcbhead_t``: glibc, sysdeps/x86_64/nptl/tls.h, and of AArch64 likewise)
holds the address of the second element of the vector (dtv) of its thread-local storage, of which
the first tells the length (elf/dl-tls.c, ``allocate_dtv``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .context import Context

#: Where a control block has the vector's address, in words from the thread pointer.
_PLACES = {"x86_64": 1, "i386": 1, "aarch64": 0, "arm": 0}
#: Words of an element, and elements beside those that the length counts.
_ELEMENT, _MORE = 2, 2


class GlibcThreads:
    """The vectors of thread-local storage of threads that live."""

    name = "glibc"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return which objects are such vectors; see `Recogniser`."""
        place = _PLACES.get(context.dump.architecture)
        bases = [t.tls_base for t in context.dump.threads if 0 < t.tls_base < 1 << 63]
        if place is None or not bases:
            return None
        word = np.uint64(context.word)
        (vector,), _ = context.read(np.array(bases, np.uint64), place * context.word)
        element = word * np.uint64(_ELEMENT)
        start = np.unique(vector[vector >= element] - element)
        address, size = context.objects.address[rows], context.objects.size[rows]
        at = np.flatnonzero(np.isin(address, start))
        (length,), there = context.read(address[at], 0)
        fits = there[0] & (length > 0) & (length <= size[at] // element)
        fits &= (length + np.uint64(_MORE)) * element <= size[at]
        if not fits.any():
            return None
        code = np.full(rows.size, -1, np.int32)
        code[at[fits]] = 0
        return Recognised(code, ("thread's TLS vector (dtv)",))
