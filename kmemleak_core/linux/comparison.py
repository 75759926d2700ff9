"""Turns verdicts on a kernel's objects into where they differ, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .checksums import NEVER_WHITE
from .kernel import Kernel
from .kmemleak import KernelHeap
from .verdict import (
    Verdict,
    births_and_ages,
    find_verdict,
    stored_reported,
    stored_white,
)


class Reason(IntEnum):
    """Why one verdict reports an object and another does not."""

    AGREED = 0
    #: A leak now, but not as the kernel's rules have it.
    BORN_LATER = 1
    TOO_YOUNG = 2
    FIRST_WHITE = 3
    MODIFIED = 4
    BEHIND_MODIFIED = 5
    #: A leak as the kernel's rules have it, but none now.
    IN_REGISTER = 6
    IN_NEWER = 7
    #: A leak by the kernel's rules, of which its own report does not tell.
    CHANGED_BETWEEN = 8
    LOST_SINCE = 9
    UNFLAGGED = 10
    #: A leak in the kernel's own report, but none by its rules.
    FOUND_SINCE = 11
    #: A leak now, but not as the kernel's rules have it.
    IN_SHEAF = 12

    @property
    def sentence(self) -> str:
        """What it means, for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.AGREED: "both agree",
    Reason.BORN_LATER: "made after the kernel's last scan began",
    Reason.TOO_YOUNG: "too young to be reported when the kernel's last scan began",
    Reason.FIRST_WHITE: "unreferenced for the first time: the kernel waits for its next scan",
    Reason.MODIFIED: "modified since the kernel last saw it unreferenced: it waits for its next "
    "scan",
    Reason.BEHIND_MODIFIED: "referred to by an object that was modified or is unreferenced for the "
    "first time",
    Reason.IN_REGISTER: "held by a processor's register, at which the kernel does not look",
    Reason.IN_NEWER: "held by an object that was made after the kernel's last scan began",
    Reason.CHANGED_BETWEEN: "changed once between the kernel's last two scans, or unreferenced for "
    "the first time in the last one, or not referred to since: only the count that the kernel "
    "stored tells of it",
    Reason.LOST_SINCE: "the kernel's last scan still found references to it",
    Reason.UNFLAGGED: "unreferenced in the kernel's last scan too, but not marked as reported: the "
    "scan was interrupted",
    Reason.IN_SHEAF: "held by a leftover alone, in an array where the slab allocator had kept free "
    "objects (a sheaf): the kernel takes it for a reference",
    Reason.FOUND_SINCE: "references to it were made after the kernel's last scan",
}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Where verdicts differ; arrays are by row of the heap's n objects.

    Parameters
    ----------
    now_and_kernel : ndarray of uint8, shape (n,)
        `Reason` why the image's verdict and that by the kernel's rules differ.
    rules_and_report : ndarray of uint8, shape (n,)
        `Reason` why the verdict by the kernel's rules and its own report differ.
    colours
        Objects older than the last scan of which our colour is the one that the kernel stored,
        and those of which it is not.
    """

    now_and_kernel: NDArray[np.uint8]
    rules_and_report: NDArray[np.uint8]
    colours: tuple[int, int]

    @property
    def differences(self) -> dict[Reason, int]:
        """How many objects the two verdicts differ in, by reason."""
        return _counted(self.now_and_kernel)

    @property
    def surprises(self) -> dict[Reason, int]:
        """How many objects the kernel's own report differs in from its rules, by reason."""
        return _counted(self.rules_and_report)


def _counted(reasons: NDArray[np.uint8]) -> dict[Reason, int]:
    many = np.bincount(reasons, minlength=len(Reason))
    return {reason: int(many[reason]) for reason in Reason if reason and many[reason]}


def compare(kernel: Kernel, found: KernelHeap, now: Verdict, rules: Verdict) -> Comparison:
    """Compare the image's verdict, the one by the kernel's rules, and the kernel's own report.

    The latter, its stored counts and REPORTED flags, decides nothing: it is told beside.

    Parameters
    ----------
    kernel, found
        The kernel, and its records.
    now
        The verdict of the image as it stands.
    rules
        The verdict by the kernel's rules, on the same scan.
    """
    between = _between(kernel, found, now, rules)
    report = _against_report(kernel, found, rules)
    older = ~births_and_ages(kernel, found)[0] & (found.objects.min_count > 0)
    same = rules.white[older] == stored_white(found)[older]
    agreed = int(np.count_nonzero(same))
    return Comparison(between, report, (agreed, int(same.size) - agreed))


def _between(kernel: Kernel, found: KernelHeap, now: Verdict, rules: Verdict) -> NDArray[np.uint8]:
    reasons = np.zeros(len(found.objects), np.uint8)
    born_later, young = births_and_ages(kernel, found)
    spared = now.reported & ~rules.reported
    first = np.isin(found.records.checksum[found.row], NEVER_WHITE)
    # The last that holds is told: what was made later is too young as well.
    for reason, holds in (
        (Reason.BEHIND_MODIFIED, spared),
        (Reason.MODIFIED, rules.modified & ~first),
        (Reason.FIRST_WHITE, rules.modified & first),
        (Reason.TOO_YOUNG, young & ~rules.modified & rules.white),
        (Reason.BORN_LATER, born_later),
    ):
        reasons[spared & holds] = reason
    unexplained = reasons == Reason.BEHIND_MODIFIED
    if unexplained.any() and rules.rules.sheaves and not now.rules.sheaves:
        with_leftovers = find_verdict(
            kernel, found, replace(now.rules, sheaves=True), base=now.base
        )
        reasons[unexplained & ~with_leftovers.reported] = Reason.IN_SHEAF
    held = rules.reported & ~now.reported
    if held.any():
        reasons[held] = Reason.IN_NEWER
        if now.rules.registers:
            without = replace(now.rules, registers=False)
            bare = find_verdict(kernel, found, without, base=now.base)
            reasons[held & bare.reported] = Reason.IN_REGISTER
    return reasons


def _against_report(kernel: Kernel, found: KernelHeap, rules: Verdict) -> NDArray[np.uint8]:
    reasons = np.zeros(len(found.objects), np.uint8)
    reported, white = stored_reported(kernel, found), stored_white(found)
    missed = rules.reported & ~reported
    never = np.isin(found.records.checksum[found.row], NEVER_WHITE)
    reasons[missed] = Reason.CHANGED_BETWEEN
    reasons[missed & never] = Reason.LOST_SINCE
    reasons[missed & white] = Reason.UNFLAGGED
    reasons[reported & ~rules.reported] = Reason.FOUND_SINCE
    return reasons
