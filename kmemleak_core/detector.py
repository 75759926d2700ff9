"""Turns calls about allocations into a live leak report: kmemleak's object lifecycle."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._tracker import ObjectStore
from .coverage import Coverage
from .errors import (
    AliasError,
    ControlError,
    DetectorDisabledError,
    OverlapError,
    UnknownObjectError,
    UsageError,
)
from .image import MemoryImage
from .live import BufferMemory, LiveMemory
from .objects import BLACK, GREY, ObjectFlags
from .roots import RootRange, Roots, RootWord
from .scan import Colour, ScanOptions
from .traces import Frame, Resolver, TraceStore

_log = logging.getLogger("kmemleak_core")

#: Clock ticks a second, as reports count them.
HZ = 250
#: The kernel never tracks the null pointer nor the addresses that stand for errors.
_LAST_ADDRESS = (1 << 64) - 4096
#: The cache flag that keeps kmemleak from tracking its own memory (SLAB_NOLEAKTRACE).
NOLEAKTRACE = 0x800000

# Flags of a live object, beside `ObjectFlags`; the values are the kernel's.
REPORTED = 2
PHYS = 16
PERCPU = 32

Misuse = Literal["raise", "count"]


@dataclass(frozen=True, slots=True)
class ObjectView:
    """One tracked object as it stands: the kernel's ``struct kmemleak_object``."""

    address: int
    size: int
    space: str
    colour: Colour
    count: int
    min_count: int
    checksum: int
    jiffies: int
    age: float
    pid: int
    comm: str
    backtrace: tuple[Frame, ...]
    flags: int
    reported: bool

    def __repr__(self) -> str:
        return f"<ObjectView {self.address:#x} size {self.size} {self.colour.name.lower()}>"


class Kmemleak:
    """A leak detector over memory that its program goes on using.

    Whoever allocates tells it: `alloc`, `free` and the rest of the kernel's API. `scan` finds
    the objects that no root leads to any more, `unreferenced` and `read` tell them.

    Parameters
    ----------
    memory
        What is scanned: live buffers (a `MemoryImage`), `ProcessMemory`, `CallbackMemory`.
    min_age
        Seconds that an object must have lived before a scan began to be reported.
    strict_kernel
        Behave as the kernel does where this detector is better by default; see the
        documentation's table of differences.
    backtraces
        Whether `alloc` keeps its caller's Python frames when it is given none.
    on_misuse
        ``"raise"`` errors for overlapping objects and unknown addresses, or ``"count"`` them in
        `anomalies` and go on.
    early_log
        None: tracking starts at once. A number: calls are kept, up to so many, until `start`.
    min_unref_scans
        Consecutive scans that must find an object unreferenced before it is reported.
    confirm
        Whether a scan that has suspects reads everything a second time, and believes only what
        is unreferenced in both.
    physical_offset
        What is added to the address of a physical object to read it.
    resolver
        Names native addresses of backtraces when they are printed.
    end_pointers, pointer_mask, alignment, interior
        What counts as a reference; see `ScanOptions`.
    """

    def __init__(
        self,
        memory: LiveMemory | MemoryImage,
        *,
        min_age: float | None = None,
        strict_kernel: bool = False,
        backtraces: bool = True,
        on_misuse: Misuse = "raise",
        early_log: int | None = None,
        min_unref_scans: int = 1,
        confirm: bool | None = None,
        physical_offset: int = 0,
        resolver: Resolver | None = None,
        end_pointers: bool = False,
        pointer_mask: int = (1 << 64) - 1,
        alignment: int | None = None,
        interior: bool = True,
    ) -> None:
        if min_age is None:
            min_age = 5.0 if strict_kernel else 1.0
        if min_age < 0 or min_unref_scans < 1:
            raise UsageError("min_age is at least 0 seconds, min_unref_scans at least 1")
        self.memory = BufferMemory(memory) if isinstance(memory, MemoryImage) else memory
        self.min_age = min_age
        self.strict_kernel = strict_kernel
        self.backtraces = backtraces
        self.min_unref_scans = min_unref_scans
        self.confirm = not strict_kernel if confirm is None else confirm
        self.physical_offset = physical_offset
        self.resolver = resolver
        self.options = ScanOptions(alignment, pointer_mask, interior, end_pointers)
        self.stack_scan = True
        self.enabled = True
        self.disable_reason = ""
        self.anomalies = Coverage()
        self.traces = TraceStore()
        self.objects = ObjectStore()
        self.physical = ObjectStore()
        self.percpu = ObjectStore()
