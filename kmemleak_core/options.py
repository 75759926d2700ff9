"""What an analysis is asked to do: on what, by which rules; every default is the usual answer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError
from .image import ByteOrder

#: What makes a pointer into the middle of an object as good as one to its start: see
#: `kmemleak_core.heuristics`.
HEURISTICS = ("stdstring", "length64", "newarray", "multipleinheritance")

#: In which order leaks are told.
Order = Literal["allocation", "address", "size"]


@dataclass(frozen=True, slots=True)
class RawSource:
    """Memory and tables in plain files, for dumps of anything.

    Parameters
    ----------
    memory
        ``"ADDRESS:FILE"`` each: the file's bytes are the memory at that address.
    objects
        Table of allocated objects (CSV, JSONL or npz; columns in `kmemleak_core.dumps.raw`), or
        None with `events`.
    roots
        Table of root ranges and root words; None for no roots at all.
    scan_areas
        Table of scan areas; None if objects are scanned as a whole.
    word_size, byteorder
        As in `MemoryImage`.
    events
        Instead of `objects`: a log of allocations and frees (`kmemleak_core.logs.events`); what
        is live at its end is what is scanned.
    """

    memory: tuple[str, ...]
    objects: Path | None = None
    roots: Path | None = None
    scan_areas: Path | None = None
    word_size: int = 8
    byteorder: ByteOrder = "little"
    events: Path | None = None


#: Whose records tell what a kernel has allocated.
Records = Literal["auto", "kmemleak", "slub"]
#: Whose verdict on a kernel's objects is shown: the frozen image's, or the running kernel's.
VerdictName = Literal["now", "kernel"]


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """What is asked of an analysis where the dump is of a whole machine.

    Parameters
    ----------
    vmlinux, layout
        Where the kernel's types come from, instead of its own BTF: see
        `kmemleak_core.linux.kernel.open_kernel`.
    records
        Whose records tell what is allocated; ``"auto"``: kmemleak's, where the kernel has them.
    verdict
        ``"now"``: of the image as it stands; ``"kernel"``: what the running kernel would have
        reported after its last scan.
    no_rules
        Rules of the kernel's verdict that do not hold: ``"births"``, ``"ages"``,
        ``"checksums"`` (`kmemleak_core.linux.verdict.Rules`).
    """

    vmlinux: Path | None = None
    layout: Path | None = None
    records: Records = "auto"
    verdict: VerdictName = "now"
    no_rules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AnalyseOptions:
    """What an analysis is asked to do; every default is the usual answer.

    Parameters
    ----------
    sysroot
        Folder that holds the mapped files, for the pages that the dump lacks.
    no_roots
        Classes of roots to leave out; for a process the keys of `process_roots.ROOT_KINDS`, for
        a kernel those of `kernel_pipeline.ROOT_KINDS`.
    pointer_mask
        Bits of a word that make up an address; the others are a tag.
    alignment
        Bytes between two words that are looked at; None for the word size.
    end_pointers
        Whether a pointer one past an object's end refers to it; None: in a malloc heap it does.
    interior
        Whether a pointer into the middle of an object refers to it.
    order
        In which order leaks are told.
    threads
        How many may work at once; None: as many as this process may use processors.
    low_memory
        Keep no reference graph; the report is the same.
    types
        Look for what the leaks of a process are (`kmemleak_core.recognise`).
    possible
        Whether to tell apart what is possibly lost: reachable, but not by pointers to the starts
        of objects alone. None: yes, but not of a kernel, whose lists link their objects by members
        in their middle.
    heuristics
        Which pointers into the middle are as good as those to a start: names of `HEURISTICS`.
    kernel
        What is asked of a kernel's dump.
    """

    sysroot: Path | None = None
    no_roots: frozenset[str] = frozenset()
    pointer_mask: int = (1 << 64) - 1
    alignment: int | None = None
    end_pointers: bool | None = None
    interior: bool = True
    order: Order = "allocation"
    threads: int | None = None
    low_memory: bool = False
    types: bool = True
    possible: bool | None = None
    heuristics: frozenset[str] = frozenset(HEURISTICS)
    kernel: KernelOptions = KernelOptions()

    def __post_init__(self) -> None:
        check_heuristics(self.heuristics)
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot scan: ask for 1 or more")

    @classmethod
    def asked(cls, **options: Any) -> AnalyseOptions:
        """Return what is asked in plain words.

        Parameters
        ----------
        **options
            Fields of these options and, for a kernel's dump, of `KernelOptions`.

        Raises
        ------
        UsageError
            There is no such option.
        """
        if options.get("sysroot") is not None:
            options["sysroot"] = Path(options["sysroot"])
        for name in ("no_roots", "no_rules", "heuristics"):
            if isinstance(options.get(name), str):
                raise UsageError(f"{name} is a collection of names, not one string")
            if name in options:
                options[name] = frozenset(options[name])
        names = {field.name for field in fields(KernelOptions)} & options.keys()
        try:
            of_kernel = KernelOptions(**{name: options.pop(name) for name in names})
            return cls(**{"kernel": of_kernel, **options})
        except TypeError as error:
            raise UsageError(f"scan: {error}") from None


def check_heuristics(names: frozenset[str]) -> None:
    """Raise `UsageError` for names that no heuristic has."""
    unknown = sorted(frozenset(names) - frozenset(HEURISTICS))
    if unknown:
        raise UsageError(
            f"there is no heuristic called {unknown[0]!r}", hint=f"some of: {', '.join(HEURISTICS)}"
        )
