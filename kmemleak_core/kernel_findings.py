"""What a kernel's dump tells beside its leaks: which kernel it is, and where verdicts differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """Objects on which two verdicts differ for one reason.

    Parameters
    ----------
    code
        Stable, machine-readable name of the reason: ``"too-young"``.
    reason
        The same for a person.
    leak
        Whether they are leaks by the verdict that is shown; the other one has it the other way.
    objects, nbytes
        How many they are.
    examples
        Addresses of the first of them.
    """

    code: str
    reason: str
    leak: bool
    objects: int
    nbytes: int
    examples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KernelFindings:
    """What the report on a kernel says beside its leaks.

    Parameters
    ----------
    release
        ``"6.1.0-40-amd64"``.
    records
        Whose records tell what is allocated: ``"kmemleak"``, ``"slub"``.
    verdict
        ``"now"`` or ``"kernel"``; empty where only the former can be had.
    differences
        Where the other of these two verdicts differs from the one that is shown.
    surprises
        Where the report that the kernel itself has differs from its own rules; `Difference.leak`
        is by its rules.
    colours
        Objects older than the kernel's last scan whose colour is as the kernel stored it, and
        those of which it is not; None where nothing is stored.
    kernel_reported
        Leaks in the kernel's own report; None where there is none.
    """

    release: str
    records: str
    verdict: str = ""
    differences: tuple[Difference, ...] = ()
    surprises: tuple[Difference, ...] = ()
    colours: tuple[int, int] | None = None
    kernel_reported: int | None = None
