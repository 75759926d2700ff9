"""Turns calls about allocations into tables of live objects: kmemleak's API, without the scan."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._tracker import ObjectStore
from .coverage import Coverage
from .early_log import EarlyLog
from .errors import (
    AliasError,
    DetectorDisabledError,
    OverlapError,
    UnknownObjectError,
    UsageError,
)
from .image import MemoryImage
from .live import BufferMemory, LiveMemory
from .objects import BLACK, GREY, ObjectFlags
from .piece_lock import PieceLock
from .roots import RootRange, Roots, RootWord
from .scan import Colour, ScanOptions
from .traces import Frame, TraceStore

if TYPE_CHECKING:
    from ._capi import Attachment

_log = logging.getLogger("kmemleak_core")

#: Clock ticks a second, as reports count them.
HZ = 250
#: A birth is kept in 32 bits: after 198 days all further objects are born at one moment.
LAST_JIFFY = (1 << 32) - 1
#: The kernel tracks neither the null pointer nor the addresses that stand for errors.
LAST_ADDRESS = (1 << 64) - 4096
#: The cache flag that keeps kmemleak from tracking its own memory (SLAB_NOLEAKTRACE).
NOLEAKTRACE = 0x800000
#: Flags of a live object beside `ObjectFlags`: it was reported (the kernel's value); its checksum
#: was taken.
REPORTED = 2
CHECKSUMMED = 0x100

Space = Literal["", "phys", "percpu"]
#: An object by its slot, and its record as it was when it was found.
Found = tuple[int, np.void]
#: Yields what the program's threads hold right now: ranges of live stack, and register values.
RootsCallback = Callable[[], "tuple[Iterable[RootRange], Iterable[RootWord]]"]


@dataclass(frozen=True, slots=True)
class ObjectView:
    """One tracked object as it stood: the kernel's ``struct kmemleak_object``.

    Parameters
    ----------
    address, size, space
        Where it is; `space` is ``""``, ``"phys"`` or ``"percpu"``.
    colour, count, min_count
        References that the last scan found, and how many it wants.
    checksum
        CRC-32 of its content when it was last seen white.
    jiffies, age
        When it was allocated, in ticks since the detector began; seconds since then.
    pid, comm, backtrace
        Who allocated it.
    flags
        `ObjectFlags`, and REPORTED.
    """

    address: int
    size: int
    space: Space
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

    @property
    def reported(self) -> bool:
        """Whether a scan reported it."""
        return bool(self.flags & REPORTED)

    def __repr__(self) -> str:
        return f"<ObjectView {self.address:#x} size {self.size} {self.colour.name.lower()}>"


class ObjectLifecycle:
    """The part of `Kmemleak` that is told of objects; it knows nothing of scans."""

    def __init__(
        self,
        memory: LiveMemory | MemoryImage,
        *,
        strict_kernel: bool,
        backtraces: bool,
        on_misuse: Literal["raise", "count"],
        early_log: int | None,
        options: ScanOptions,
    ) -> None:
        if on_misuse not in ("raise", "count"):
            raise UsageError(f"on_misuse is 'raise' or 'count', not {on_misuse!r}")
        self.memory = BufferMemory(memory) if isinstance(memory, MemoryImage) else memory
        self.strict_kernel = strict_kernel
        self.backtraces = backtraces
        self.on_misuse = on_misuse
        self.options = options
        self.enabled = True
        self.disable_reason = ""
        self.anomalies = Coverage()
        self.traces = TraceStore()
        self._began = time.monotonic()
        self._stores: dict[Space, ObjectStore] = {
            "": ObjectStore(),
            "phys": ObjectStore(),
            "percpu": ObjectStore(),
        }
        self._objects = self._stores[""]
        # What few objects have, keyed by sequence number, which no two of a space share: areas
        # and surplus references of virtual objects, offsets of per-CPU ones.
        self._areas: dict[int, list[tuple[int, int]]] = {}
        self._excess: dict[int, int] = {}
        self._offsets: dict[int, tuple[int, ...]] = {}
        self._roots: list[RootRange] = []
        self._stacks: list[RootRange] = []
        self._callbacks: list[RootsCallback] = []
        # Held while memory is read: a `free` waits for one piece at the most.
        self._piece = PieceLock()
        self._early = None if early_log is None else EarlyLog(early_log)
        # What C calls through: these ask no Python whether tracking goes on.
        self._attachments: list[weakref.ref[Attachment]] = []
        # Held while `enabled` changes: for one reason only, and none of those may miss it.
        self._switching = threading.RLock()

    # Roots.

    def add_root(self, address: int, size: int, name: str = "") -> None:
        """Have memory scanned unconditionally, as the kernel does ``.data`` and ``.bss``."""
        self._roots.append(RootRange(address, size, "data", name))

    def add_stack(self, address: int, size: int, name: str = "") -> None:
        """Have a stack scanned, as long as `stack_scan` is on."""
        self._stacks.append(RootRange(address, size, "stacks", name))

    def add_roots_callback(self, callback: RootsCallback) -> None:
        """Ask a function for the current stacks and registers before each scan.

        Parameters
        ----------
        callback
            Returns `RootRange` and `RootWord` values; those of kind ``"stacks"`` count as long
            as `stack_scan` is on.
        """
        self._callbacks.append(callback)

    # Objects come and go.

    def alloc(
        self,
        ptr: int,
        size: int,
        min_count: int = 1,
        *,
        backtrace: Sequence[Frame] | None = None,
        pid: int | None = None,
        comm: str | None = None,
    ) -> None:
        """Track a block; a null or error pointer is ignored.

        Parameters
        ----------
        ptr, size
            The block.
        min_count
            References without which it is a leak; 0 never reported, −1 never scanned either.
        backtrace
            Who allocates, innermost first: addresses, text; the Python caller's if None.
        pid, comm
            The task, if it is not this one.

        Raises
        ------
        OverlapError
            Another object holds part of the block; with ``on_misuse="count"`` an anomaly, and
            with `strict_kernel` the end of tracking.
        """
        if (early := self._early) is not None and early.keep(
            self.alloc, ptr, size, min_count, backtrace=backtrace or (), pid=pid, comm=comm
        ):
            return
        if not self.enabled or not 0 < ptr < LAST_ADDRESS:
            return
        if backtrace is None and self.backtraces:
            trace = self.traces.capture(1)
        elif backtrace is None and pid is None and comm is None:
            trace = 0
        else:
            trace = self.traces.add(backtrace or (), pid=pid, comm=comm)
        now = min(int((time.monotonic() - self._began) * HZ), LAST_JIFFY)
        slot = self._objects.insert(ptr, size, min_count, 0, now, trace)
        if slot < 0:
            self._overlapping("", -1 - slot, ptr, size)

    def free(self, ptr: int) -> None:
        """Forget the block that starts at an address.

        Raises
        ------
        AliasError
            The address lies inside an object, which is kept.
        UnknownObjectError
            No object holds the address.
        """
        if (early := self._early) is not None and early.keep(self.free, ptr):
            return
        if not 0 < ptr < LAST_ADDRESS:
            return
        piece = self._piece
        if not piece.acquire(False):
            piece.wait()
        try:
            if self._areas or self._excess:
                self._forget_extras("", ptr)
            known = self._discard("", ptr)
        finally:
            piece.release()
        if not known:
            self._not_found("free", "", ptr)

    def alloc_many(
        self,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        min_count: int | NDArray[np.int32] = 1,
    ) -> NDArray[np.bool_]:
        """Track many blocks at once, with one backtrace.

        Returns
        -------
        ndarray of bool, shape (n,)
            Which were taken; the others overlap and are counted in `anomalies`.
        """
        if (early := self._early) is not None and early.open:
            raise UsageError("the early log takes single calls: start() first")
        if not self.enabled:
            return np.zeros(len(address), dtype=bool)
        trace = self.traces.capture(1) if self.backtraces else 0
        slots = self._objects.insert_many(address, size, min_count, 0, self._now(), trace)
        taken: NDArray[np.bool_] = slots >= 0
        refused = int(np.count_nonzero(~taken))
        if refused:
            self.anomalies.add(
                "objects.overlap",
                "objects of a bulk call that overlap others were left out",
                count=refused,
                address=int(address[np.flatnonzero(~taken)[0]]),
            )
            if self.strict_kernel:
                self._disable("overlapping objects")
        return taken

    def free_many(self, address: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Forget many blocks at once; ``(n,)``: which were tracked. Unknown ones are counted."""
        with self._piece:
            if self._areas or self._excess:
                for ptr in address.tolist():
                    self._forget_extras("", ptr)
            known = self._objects.remove_many(address)
        unknown = int(np.count_nonzero(~known))
        if unknown and self.enabled:
            self.anomalies.add("free.unknown", "unknown blocks in a bulk free", count=unknown)
        return known

    def free_part(self, ptr: int, size: int) -> None:
        """Forget part of a block; what is left on either side are objects of their own.

        They keep trace, age and scan areas (the kernel makes them anew, without). Bytes behind
        the object's end are ignored.
        """
        if (early := self._early) is not None and early.keep(self.free_part, ptr, size):
            return
        if self.enabled and 0 < ptr < LAST_ADDRESS:
            self._free_part("free_part", "", ptr, size)

    def _free_part(self, call: str, space: Space, ptr: int, size: int) -> None:
        with self._piece:
            known = self._cut(space, ptr, size)
        if not known:
            self._not_found(call, space, ptr)

    def _cut(self, space: Space, ptr: int, size: int) -> bool:
        """Replace an object by what is left of it; tell whether there was one."""
        found = self._seek(space, ptr)
        if found is None:
            return False
        slot, old = found
        sequence = int(old["sequence"])
        start, end = int(old["address"]), int(old["address"]) + int(old["size"])
        areas = self._areas.get(sequence, []) if space == "" else []
        self._forget_extras(space, start)
        try:
            self._stores[space].remove(slot, sequence)
        except LookupError:  # freed from C since it was found
            return False
        if start == end and size == 0:
            self._leftover(space, old, start, end, areas)
        for low, high in ((start, ptr), (min(end, ptr + size), end)):
            if low < high:
                self._leftover(space, old, low, high, areas)
        return True

    def _leftover(
        self, space: Space, old: Any, low: int, high: int, areas: list[tuple[int, int]]
    ) -> None:
        store = self._stores[space]
        flags = 0 if self.strict_kernel else int(old["flags"])
        birth = self._now() if self.strict_kernel else int(old["birth"])
        trace = 0 if self.strict_kernel else int(old["trace"])
        slot = store.insert(low, high - low, int(old["min_count"]), flags, birth, trace)
        if slot < 0 or self.strict_kernel:
            return
        sequence = store.sequence_of(slot)
        cut = ((max(low, a), min(high, a + n)) for a, n in areas)
        kept = [(first, last - first) for first, last in cut if first < last]
        if kept:
            self._areas[sequence] = kept
        elif areas and high > low:
            # Nothing of this part was to be scanned.
            store.change_flags(slot, set=int(ObjectFlags.NO_SCAN))

    def alloc_recursive(self, ptr: int, size: int, min_count: int = 1, flags: int = 0) -> None:
        """Do as `alloc`, but for blocks of a cache that is not tracked (NOLEAKTRACE)."""
        if not flags & NOLEAKTRACE:
            trace = self.traces[self.traces.capture(1)].frames if self.backtraces else ()
            self.alloc(ptr, size, min_count, backtrace=trace)

    def free_recursive(self, ptr: int, flags: int = 0) -> None:
        """Do as `free`, but for blocks of a cache that is not tracked (NOLEAKTRACE)."""
        if not flags & NOLEAKTRACE:
            self.free(ptr)

    def vmalloc(self, area: int, ptr: int, size: int) -> None:
        """Track a block whose describing object at `area` holds one of its two references.

        Surplus references to that object count for the block.
        """
        if (early := self._early) is not None and early.keep(self.vmalloc, area, ptr, size):
            return
        if not self.enabled:
            return
        trace = self.traces[self.traces.capture(1)].frames if self.backtraces else ()
        self.alloc(ptr, size, 2, backtrace=trace)
        found = self._exact("vmalloc", "", area)
        if found is not None:
            self._excess[int(found[1]["sequence"])] = ptr

    def alloc_percpu(self, ptr: int, size: int, offsets: Sequence[int]) -> None:
        """Track a per-CPU block: one object, with a copy of its content at each offset.

        Parameters
        ----------
        ptr, size
            The block in the address space of per-CPU pointers, which words are compared with.
        offsets
            What is added to `ptr` for the copy of each CPU.
        """
        self._alloc_elsewhere("percpu", ptr, size, 1, tuple(offsets))

    def free_percpu(self, ptr: int) -> None:
        """Forget a per-CPU block."""
        if (early := self._early) is not None and early.keep(self.free_percpu, ptr):
            return
        self._free_elsewhere("free_percpu", "percpu", ptr)

    def alloc_phys(self, phys: int, size: int) -> None:
        """Track physical memory: it is scanned, never reported, and no word refers to it."""
        self._alloc_elsewhere("phys", phys, size, GREY, ())

    def free_part_phys(self, phys: int, size: int) -> None:
        """Forget part of physical memory; see `free_part`."""
        if (early := self._early) is not None and early.keep(self.free_part_phys, phys, size):
            return
        if self.enabled:
            self._free_part("free_part_phys", "phys", phys, size)

    def ignore_phys(self, phys: int) -> None:
        """Neither scan nor report physical memory."""
        self._paint("ignore_phys", "phys", phys, BLACK)

    # What is known of an object changes.

    def not_leak(self, ptr: int) -> None:
        """Never report an object; it is scanned, also after `ignore` (not in the kernel)."""
        self._paint("not_leak", "", ptr, GREY)

    def ignore(self, ptr: int) -> None:
        """Neither report nor scan an object."""
        self._paint("ignore", "", ptr, BLACK)

    def ignore_percpu(self, ptr: int) -> None:
        """Neither report nor scan a per-CPU object."""
        self._paint("ignore_percpu", "percpu", ptr, BLACK)

    def unignore(self, ptr: int, min_count: int = 1) -> None:
        """Undo `ignore` or `not_leak`: the object is scanned, and a leak if nobody refers to it."""
        self._paint("unignore", "", ptr, min_count)

    def transient_leak(self, ptr: int) -> None:
        """Take the next sighting of an object without references as its first."""
        if (early := self._early) is not None and early.keep(self.transient_leak, ptr):
            return
        found = self._exact("transient_leak", "", ptr)
        if found is not None:
            place = _place(found)
            self._objects.change_flags_many(*place, clear=CHECKSUMMED)
            self._objects.write("checksum", *place, 0xFFFFFFFF)
            self._objects.write("sightings", *place, 0)

    def scan_area(self, ptr: int, size: int | None = None) -> None:
        """Scan only this part (and other such parts) of the object around it.

        Parameters
        ----------
        ptr
            Start of the area, anywhere in an object.
        size
            Its length; None: to the object's end; 0 is ignored. An area that leaves its object
            is dropped and counted in `anomalies`.
        """
        if (early := self._early) is not None and early.keep(self.scan_area, ptr, size):
            return
        if not self.enabled or size == 0:
            return
        found = self._objects.at(ptr)
        if found is None:
            self._not_found("scan_area", "", ptr)
            return
        record = found[1]
        end = int(record["address"]) + int(record["size"])
        if size is None:
            size = end - ptr
        if ptr + size > end:
            self.anomalies.add(
                "objects.scan-area",
                f"scan area {ptr:#x} (size {size}) leaves its object {int(record['address']):#x}",
                address=ptr,
            )
            return
        self._areas.setdefault(int(record["sequence"]), []).append((ptr, size))

    def no_scan(self, ptr: int) -> None:
        """Do not scan an object's content; it needs references all the same."""
        if (early := self._early) is not None and early.keep(self.no_scan, ptr):
            return
        found = self._exact("no_scan", "", ptr)
        if found is not None:
            self._objects.change_flags_many(*_place(found), set=int(ObjectFlags.NO_SCAN))

    def update_trace(self, ptr: int, backtrace: Sequence[Frame] | None = None) -> None:
        """Give the object around an address another backtrace: the caller's, or a given one."""
        # What the log replays has no trace either.
        if (early := self._early) is not None and early.keep(
            self.update_trace, ptr, backtrace or ()
        ):
            return
        if not self.enabled:
            return
        found = self._objects.at(ptr)
        if found is None:
            self._not_found("update_trace", "", ptr)
            return
        trace = self.traces.capture(1) if backtrace is None else self.traces.add(backtrace)
        self._objects.write("trace", *_place(found), trace)

    def erase(self, place: int) -> None:
        """Clear a pointer variable, so that its old value holds nothing.

        Raises
        ------
        FaultError
            The memory cannot be written to.
        """
        self.memory.write(place, bytes(self.memory.word_size))

    def start(self) -> None:
        """Begin tracking: replay the early log.

        Raises
        ------
        DetectorDisabledError
            The log was too short; the message tells how long it had to be.
        """
        if (early := self._early) is None:
            return
        try:
            lost = early.replay()
        finally:
            self._early = None
        if lost:
            needed = early.room + lost
            self._disable(f"the early log holds {early.room} calls, {needed} were made")
            raise DetectorDisabledError(self.disable_reason)

    # Questions.

    def find(self, address: int) -> ObjectView | None:
        """Return the object that holds an address, or None."""
        for space in ("", "percpu", "phys"):
            found = self._stores[space].at(address)
            if found is not None:
                return self._view(space, found[1])
        return None

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores.values())

    # Inside.

    def _now(self) -> int:
        return min(int((time.monotonic() - self._began) * HZ), LAST_JIFFY)

    def _disable(self, reason: str) -> None:
        with self._switching:
            if not self.enabled:
                return
            self.disable_reason = reason
            self.enabled = False
            for reference in self._attachments:
                if (attachment := reference()) is not None:
                    attachment.disabled()
        _log.warning("kmemleak: disabled: %s", reason)

    def _attach(self, attachment: Attachment) -> None:
        with self._switching:
            alive = [each for each in self._attachments if each() is not None]
            self._attachments = [*alive, weakref.ref(attachment)]
            if not self.enabled:
                # It may have been disabled since the attachment was made.
                attachment.disabled()

    def _alloc_elsewhere(
        self, space: Space, ptr: int, size: int, min_count: int, offsets: tuple[int, ...]
    ) -> None:
        if (early := self._early) is not None and early.keep(
            self._alloc_elsewhere, space, ptr, size, min_count, offsets
        ):
            return
        if not self.enabled or (space == "percpu" and not 0 < ptr < LAST_ADDRESS):
            return
        store = self._stores[space]
        trace = self.traces.capture(2) if self.backtraces else 0
        slot = store.insert(ptr, size, min_count, 0, self._now(), trace)
        if slot < 0:
            self._overlapping(space, -1 - slot, ptr, size)
        elif offsets:
            self._offsets[store.sequence_of(slot)] = offsets

    def _free_elsewhere(self, call: str, space: Space, ptr: int) -> None:
        with self._piece:
            self._forget_extras(space, ptr)
            known = self._discard(space, ptr)
        if not known:
            self._not_found(call, space, ptr)

    def _forget_extras(self, space: Space, ptr: int) -> None:
        store = self._stores[space]
        slot = store.exact(ptr)
        if slot < 0:
            return
        sequence = store.sequence_of(slot)
        if space == "":  # each table counts for itself
            self._areas.pop(sequence, None)
            self._excess.pop(sequence, None)
        elif space == "percpu":
            self._offsets.pop(sequence, None)

    def _discard(self, space: Space, ptr: int) -> bool:
        store = self._stores[space]
        if self.strict_kernel and self._seek(space, ptr, exact=True) is None:
            return False
        return store.discard(ptr)

    def _seek(self, space: Space, ptr: int, *, exact: bool = False) -> Found | None:
        """Copy the object at an address; the kernel's lookups never find one of size 0."""
        found = self._stores[space].at(ptr, exact)
        if found is not None and self.strict_kernel and not found[1]["size"]:
            return None
        return found

    def _exact(self, call: str, space: Space, ptr: int) -> Found | None:
        if not self.enabled:
            return None
        found = self._seek(space, ptr, exact=True)
        if found is None:
            self._not_found(call, space, ptr)
        return found

    def _paint(self, call: str, space: Space, ptr: int, min_count: int) -> None:
        if (early := self._early) is not None and early.keep(
            self._paint, call, space, ptr, min_count
        ):
            return
        store = self._stores[space]
        found = self._exact(call, space, ptr)
        if found is None:
            return
        slot, record = found
        sequence = int(record["sequence"])
        no_scan = int(ObjectFlags.NO_SCAN)
        with suppress(LookupError):  # freed by another thread since it was found
            store.set_min_count(slot, min_count, sequence)
            if min_count == BLACK:
                store.change_flags(slot, set=no_scan, sequence=sequence)
            elif int(record["min_count"]) == BLACK and not self.strict_kernel:
                # Undoes `ignore`; who asked for `no_scan` keeps it.
                store.change_flags(slot, clear=no_scan, sequence=sequence)

    def _overlapping(self, space: Space, slot: int, ptr: int, size: int) -> None:
        record = self._stores[space].records_of(np.array([slot], dtype=np.uint32))[0]
        existing = int(record["address"]), int(record["size"])
        error = OverlapError(existing, (ptr, size), what="object")
        if self.strict_kernel:
            self._disable(str(error))
        elif self.on_misuse == "raise":
            raise error
        self.anomalies.add("objects.overlap", str(error), nbytes=size, address=ptr)

    def _not_found(self, call: str, space: Space, ptr: int) -> None:
        # A disabled detector has forgotten what it knew; the kernel says nothing about null.
        if not self.enabled or (space != "phys" and not 0 < ptr < LAST_ADDRESS):
            return
        found = self._seek(space, ptr)
        error: AliasError | UnknownObjectError
        if found is not None:
            record = found[1]
            error = AliasError(call, ptr, (int(record["address"]), int(record["size"])))
        else:
            error = UnknownObjectError(call, ptr)
        if self.on_misuse == "raise" and not self.strict_kernel:
            raise error
        self.anomalies.add(
            f"{call}.unknown" if found is None else f"{call}.alias", str(error), address=ptr
        )

    def _view(self, space: Space, record: Any) -> ObjectView:
        """Make a view of a copied record: the slot may have a new owner by now."""
        trace = self.traces[int(record["trace"])]
        min_count, count = int(record["min_count"]), int(record["count"])
        colour = Colour.GRAY if count >= min_count else Colour.WHITE
        if min_count < 0:
            colour = Colour.BLACK
        birth = int(record["birth"])
        return ObjectView(
            address=int(record["address"]),
            size=int(record["size"]),
            space=space,
            colour=colour,
            count=count,
            min_count=min_count,
            checksum=int(record["checksum"]),
            jiffies=birth,
            age=max(0.0, time.monotonic() - self._began - birth / HZ),
            pid=trace.pid,
            comm=trace.comm,
            backtrace=trace.frames,
            flags=int(record["flags"]),
        )

    def _current_roots(self, stack_scan: bool) -> Roots:
        ranges = list(self._roots)
        words: list[RootWord] = []
        if stack_scan:
            ranges += self._stacks
        for callback in self._callbacks:
            more, registers = callback()
            ranges += [r for r in more if stack_scan or r.kind != "stacks"]
            words += registers
        return Roots(ranges, words)


def _place(found: Found) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Return what names an object to the table for good: its slot and its sequence number."""
    slot, record = found
    return np.array([slot], dtype=np.uint32), np.array([record["sequence"]], dtype=np.uint64)
