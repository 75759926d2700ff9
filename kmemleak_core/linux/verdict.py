"""Turns a scan of a kernel's objects into verdicts: the image's own, and its kmemleak's."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._index import NO_TARGET
from .._mark import mark
from ..errors import UsageError
from ..objects import ObjectTable
from ..roots import Roots
from ..scan import ScanOptions, ScanResult, scan_image
from .checksums import changed
from .kernel import Kernel
from .kmemleak import KernelHeap
from .kmemleak_list import KernelFlags
from .leftovers import without_leftovers
from .roots import kernel_roots

#: More references than there can be: such an object is never followed.
_NEVER = np.int32(1 << 30)


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds in a verdict beside the references themselves; each can be switched.

    Parameters
    ----------
    births
        Objects made after the kernel's last scan began were not in it: they are neither scanned
        nor reported.
    ages
        Objects that were younger than the kernel's minimum age when that scan began are not
        reported.
    checksums
        White objects whose content changed since they were last seen white are taken as gray,
        and followed.
    registers
        The processors' registers are roots.
    sheaves
        The arrays in which the slab allocator keeps free objects at hand (sheaves, since Linux
        6.18) are scanned whole, with what they held before.
    """

    births: bool = False
    ages: bool = False
    checksums: bool = False
    registers: bool = True
    sheaves: bool = False


#: The frozen image's own verdict: nothing moves, so that nothing needs a second chance.
AS_NOW = Rules()
#: The running kernel's, as of its last scan.
AS_KERNEL = Rules(births=True, ages=True, checksums=True, registers=False, sheaves=True)


def rules_named(name: Literal["now", "kernel"] | str) -> Rules:
    """Return the rules of ``--as``; `UsageError` where there are none of that name."""
    try:
        return {"now": AS_NOW, "kernel": AS_KERNEL}[name]
    except KeyError:
        raise UsageError(f"a verdict is as 'now' or as 'kernel', not {name!r}") from None


@dataclass(slots=True, eq=False)
class Verdict:
    """Which objects are leaks, by some rules; arrays are by row of the heap's n objects.

    Parameters
    ----------
    rules
        What held.
    scan
        The scan with this verdict's counts: its white objects are those that are reported.
    count : ndarray of int32, shape (n,)
        References found, as the kernel counts them: to an object that was taken as gray,
        min_count of them.
    white : ndarray of bool, shape (n,)
        Objects with too few references after all rounds.
    modified : ndarray of bool, shape (n,)
        Objects that were white but for the checksum round, and not what they had been.
    reported : ndarray of bool, shape (n,)
        The leaks: white ones that no rule spares.
    base
        The scan of all objects and all roots that all verdicts on an image share.
    """

    rules: Rules
    scan: ScanResult
    count: NDArray[np.int32]
    white: NDArray[np.bool_]
    modified: NDArray[np.bool_]
    reported: NDArray[np.bool_]
    base: ScanResult

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the reported objects, in the order of the kernel's list."""
        order = self.base.objects.allocation_order()
        rows: NDArray[np.int64] = order[self.reported[order]].astype(np.int64)
        return rows


def find_verdict(
    kernel: Kernel,
    found: KernelHeap,
    rules: Rules = AS_NOW,
    *,
    roots: Roots | None = None,
    base: ScanResult | None = None,
    options: ScanOptions | None = None,
    threads: int | None = None,
    low_memory: bool = False,
) -> Verdict:
    """Find the leaks among the objects that a kernel's kmemleak tracked.

    Parameters
    ----------
    kernel, found
        The kernel, and its records.
    rules
        Which of the kernel's rules hold.
    roots
        What is scanned unconditionally: `kernel_roots` without it.
    base
        Another verdict's `Verdict.base` on the same image: saves the scan.
    options, threads, low_memory
        As of `scan_image`.

    Returns
    -------
    Verdict
        It depends on the memory and on what the kernel knew of its objects, never on the counts
        and REPORTED flags of its own scans.
    """
    if base is None:
        roots = kernel_roots(kernel, found) if roots is None else roots
        base = scan_image(
            kernel.image,
            found.objects,
            roots,
            options=options,
            threads=threads,
            low_memory=low_memory,
        )
    born_later, young = births_and_ages(kernel, found)
    objects = base.objects
    min_count = objects.min_count
    if rules.births and born_later.any():
        min_count = np.where(born_later, _NEVER, min_count).astype(np.int32)
    scanned = base if rules.sheaves else without_leftovers(kernel, base, found.heap.coverage)
    if rules.registers and min_count is objects.min_count and scanned is base:
        count = base.count
    else:
        count = _counted(scanned, min_count, rules.registers, None)
    modified = np.zeros(len(objects), bool)
    if rules.checksums:
        white = np.flatnonzero((count < min_count) & ~(born_later & rules.births))
        modified[white] = changed(kernel, found, white)
        if modified.any():
            count = _counted(scanned, min_count, rules.registers, modified)
    white_after: NDArray[np.bool_] = count < min_count
    if rules.births:
        white_after &= ~born_later
    reported = white_after & ~young if rules.ages else white_after.copy()
    return Verdict(
        rules,
        _as_scanned(scanned, count, reported, rules),
        np.minimum(count, np.maximum(objects.min_count, 0)),
        white_after,
        modified,
        reported,
        base,
    )


def births_and_ages(
    kernel: Kernel, found: KernelHeap
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which objects were made after the last scan began, and which were too young for it.

    The latter have a jiffies value that with the minimum age added is later than the scan's
    start; the former are among them.
    """
    births = found.records.jiffies[found.row]
    # Ticks wrap around as the kernel's words do: differences tell what is later.
    ticks = np.int64 if kernel.image.word_size == 8 else np.int32
    scan = np.array(found.state.last_scan, np.uint64).view(np.int64)
    age = np.array(found.state.min_age, np.uint64).view(np.int64)
    if not found.state.scanned:
        everything = np.ones(births.size, bool)
        return everything, everything
    later = np.greater((births - scan).astype(ticks), 0)
    young = np.greater((births + age - scan).astype(ticks), 0)
    return later, young


def _counted(
    base: ScanResult,
    min_count: NDArray[np.int32],
    registers: bool,
    modified: NDArray[np.bool_] | None,
) -> NDArray[np.int32]:
    """Count references once more, by the same scan's references."""
    objects = base.objects
    words = base.word_targets if registers else base.word_targets[:0]
    if base.references is None:
        other = copy.copy(objects)  # with its own scan areas, where leftovers are left out
        other.min_count = min_count
        roots = base.roots if registers else Roots(base.roots.ranges)
        return scan_image(
            base.image, other, roots, options=base.options, modified=modified, low_memory=True
        ).count
    count, *_ = mark(
        base.references.offsets,
        base.references.targets,
        min_count,
        np.concatenate((words[words != NO_TARGET], base.root_references.targets)),
        excess=_excess(objects),
        order=objects.order,
        modified=None if modified is None else modified.view(np.uint8),
    )
    return count


def _excess(objects: ObjectTable) -> NDArray[np.int32] | None:
    """Find the rows that surplus references count for: only an exact start will do."""
    if objects.excess_ref is None or not objects.excess_ref.any():
        return None
    carriers = np.flatnonzero(objects.excess_ref)
    wanted = objects.excess_ref[carriers]
    rows = np.minimum(np.searchsorted(objects.address, wanted), len(objects) - 1)
    exact = objects.address[rows] == wanted
    excess = np.full(len(objects), -1, np.int32)
    excess[carriers[exact]] = rows[exact].astype(np.int32)
    return excess


def _as_scanned(
    base: ScanResult, count: NDArray[np.int32], reported: NDArray[np.bool_], rules: Rules
) -> ScanResult:
    """Return the scan as if what is not reported had been referred to."""
    shown = np.where(reported, count, np.maximum(count, base.objects.min_count))
    scan = replace(base, count=shown.astype(np.int32))
    if not rules.registers:
        scan.roots = Roots(base.roots.ranges)
        scan.word_targets = base.word_targets[:0]
    return scan


def stored_white(found: KernelHeap) -> NDArray[np.bool_]:
    """Return which objects the kernel itself left white in its last scan, by its own counts."""
    count, min_count = found.records.count[found.row], found.records.min_count[found.row]
    white: NDArray[np.bool_] = count < min_count
    return white


def stored_reported(kernel: Kernel, found: KernelHeap) -> NDArray[np.bool_]:
    """Return which objects the kernel's own report named: never used to decide."""
    _, young = births_and_ages(kernel, found)
    named = found.records.flagged(KernelFlags.REPORTED)[found.row]
    reported: NDArray[np.bool_] = named & stored_white(found) & ~young
    return reported
