"""Turns a kernel's dump into the objects that SLUB and its neighbours have given out.

Needs none of kmemleak's records: slabs' freelists tell what is free, all else is allocated.
Large kmalloc blocks, vmalloc blocks and per-CPU pieces are found by the kernel's own books.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...coverage import Coverage
from ...errors import DumpError
from ...linux.kernel import Kernel
from ...linux.pages import Pages, read_pages
from ...roots import Roots
from .. import Heap
from .caches import Caches, cpu_slabs, find_caches
from .freelists import Walked, walk_freelists
from .kfence import Kfence, find_kfence
from .page_use import PageUse, page_use
from .percpu import PerCpu, find_per_cpu
from .sheaves import objects_in_sheaves
from .slabs import SlabColumns, find_slabs
from .vmalloc import Areas, find_areas


@dataclass(frozen=True, slots=True, eq=False)
class KernelMemory:
    """All that was found of a kernel's allocators; `heap` is what scans want.

    Parameters
    ----------
    kernel, pages, caches, slabs, walked, kfence, areas, per_cpu, use
        Each allocator's books, as their modules return them.
    sheaved
        Free objects that lie in sheaves.
    coverage
        What did not fit.
    """

    kernel: Kernel
    pages: Pages
    caches: Caches
    slabs: SlabColumns
    walked: Walked
    sheaved: int
    kfence: Kfence
    areas: Areas
    per_cpu: PerCpu
    use: PageUse
    coverage: Coverage

    def heap(self) -> Heap:
        """Return the objects, what they are, and how the kernel's own sums compare."""
        from .assemble import assemble

        return assemble(self)

    def roots(self) -> Roots:
        """Return what is scanned besides objects; see `roots.find_roots`."""
        from .roots import find_roots

        return find_roots(self.kernel, self.pages, self.use, self.coverage)


def read_memory(kernel: Kernel) -> KernelMemory | None:
    """Read the books of a kernel's allocators; None where it has no SLUB.

    Raises
    ------
    DumpError
        A structure is not as any known kernel has it, or the dump lacks the array of pages.
    """
    caches = find_caches(kernel)
    if caches is None:
        return None
    if kernel.image.word_size != 8:
        raise DumpError("the slabs of 32-bit kernels cannot be read", path=kernel.dump.path)
    coverage = Coverage()
    pages = read_pages(kernel)
    kfence = find_kfence(kernel, pages, caches, coverage)
    slabs = find_slabs(pages, caches, kfence.pool)
    walked = walk_freelists(kernel.image, pages, caches, slabs, cpu_slabs(kernel, caches))
    sheaved = objects_in_sheaves(kernel, caches, walked.slabs.slots, coverage)
    kept = walked.slabs.mark(walked.slabs.find(sheaved))
    areas = find_areas(kernel, coverage)
    per_cpu = find_per_cpu(kernel, coverage)
    use = page_use(kernel, pages, areas, per_cpu, kfence.pool)
    for part in (pages.coverage, caches.coverage, slabs.coverage, walked.coverage):
        coverage.extend(part)
    return KernelMemory(
        kernel, pages, caches, slabs, walked, kept, kfence, areas, per_cpu, use, coverage
    )


class SlubHeap:
    """Finds the objects of a kernel whose allocator is SLUB."""

    name = "slub"

    def find(self, kernel: Kernel, threads: int = 1) -> Heap | None:
        """Return the objects, or None where the kernel has no SLUB.

        Parameters
        ----------
        kernel
            As `open_kernel` returns it.
        threads
            How many may work at a time; the objects are the same for any number.
        """
        memory = read_memory(kernel)
        return None if memory is None else memory.heap()
