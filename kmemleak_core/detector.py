"""Turns live objects and live memory into leak reports: kmemleak's scans, clear and read."""

from __future__ import annotations

import errno
import heapq
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .automatic import AutomaticScan
from .errors import ControlError, DetectorDisabledError, UsageError
from .image import MemoryImage
from .lifecycle import CHECKSUMMED, HZ, REPORTED, ObjectLifecycle, ObjectView
from .live import LiveMemory
from .live_report import describe_object, live_record
from .live_scan import CancelledError, LivePlan, checksums, count_references
from .objects import GREY, ObjectFlags
from .report.kernel_layouts import format_record
from .roots import RootRange, Roots
from .scan import ScanOptions
from .snapshot import Snapshot, take_snapshot
from .traces import Resolver

_log = logging.getLogger("kmemleak_core")


#: Seconds between two looks at whether a caller that waits for its turn has given up.
_PATIENCE = 0.05


class Cancel(Protocol):
    """What can stop a scan: a `threading.Event` will do."""

    def is_set(self) -> bool:
        """Whether to stop."""


@dataclass(slots=True)
class ScanCounters:
    """What one scan did.

    Parameters
    ----------
    new_leaks
        Objects reported for the first time.
    interrupted
        Whether it was cancelled: then nothing new is reported.
    objects
        Objects that were tracked when it began.
    unreferenced
        Objects that nobody refers to, young ones and such that still change included.
    rounds
        How often memory was read: a second time if there were suspects.
    seconds
        How long it took.
    words, candidates, hits, self_references, missing_bytes
        As in `kmemleak_core.ScanResult`.
    """

    new_leaks: int = 0
    interrupted: bool = False
    objects: int = 0
    unreferenced: int = 0
    rounds: int = 0
    seconds: float = 0.0
    words: int = 0
    candidates: int = 0
    hits: int = 0
    self_references: int = 0
    missing_bytes: int = 0


class Kmemleak(ObjectLifecycle):
    """A leak detector over memory that its program goes on using.

    Whoever allocates tells it: `alloc`, `free` and the rest of the kernel's API. `scan` finds
    the objects that no root leads to any more; `unreferenced` and `read` tell them.

    Parameters
    ----------
    memory
        What is scanned: live buffers (a `MemoryImage`), `ProcessMemory`, `CallbackMemory`.
    min_age
        Seconds that an object must have lived when a scan begins to be reported by it; None: 1,
        or 5 with `strict_kernel`.
    strict_kernel
        Behave as the kernel does where this detector does better by default.
    backtraces
        Whether `alloc` keeps its caller's Python frames when it is given none.
    on_misuse
        ``"raise"`` errors for overlapping objects and unknown addresses, or ``"count"`` them in
        `anomalies` and go on.
    early_log
        None: tracking starts at once. A number: calls are kept, up to so many, until `start`.
    min_unref_scans
        Consecutive scans that must find an object unreferenced, and unchanged, before it is
        reported.
    confirm
        Whether a scan that has suspects reads everything a second time, and believes only what
        is unreferenced in both; None: yes, unless `strict_kernel`.
    checksums
        Whether an object without references that has changed since it was last seen so is taken
        as referenced: its pointer may be on the move. Costs a second scan for every leak; a
        program that is stopped while it is scanned can do without.
    physical_offset, physical_bounds
        What is added to the address of a physical object to read it; objects that are not
        within the bounds are not scanned.
    resolver
        Names native addresses of backtraces when they are printed.
    end_pointers, pointer_mask, alignment, interior
        What counts as a reference; see `ScanOptions`.

    Examples
    --------
    >>> memory = bytearray(4096)
    >>> image = MemoryImage.from_segments([(0x1000, memory)])
    >>> detector = Kmemleak(image, min_age=0, checksums=False)
    >>> detector.alloc(0x1100, 64)
    >>> detector.scan().new_leaks
    1
    """

    def __init__(
        self,
        memory: LiveMemory | MemoryImage,
        *,
        min_age: float | None = None,
        strict_kernel: bool = False,
        backtraces: bool = True,
        on_misuse: Literal["raise", "count"] = "raise",
        early_log: int | None = None,
        min_unref_scans: int = 1,
        confirm: bool | None = None,
        checksums: bool = True,
        physical_offset: int = 0,
        physical_bounds: tuple[int, int] | None = None,
        resolver: Resolver | None = None,
        end_pointers: bool = False,
        pointer_mask: int = (1 << 64) - 1,
        alignment: int | None = None,
        interior: bool = True,
    ) -> None:
        super().__init__(
            memory,
            strict_kernel=strict_kernel,
            backtraces=backtraces,
            on_misuse=on_misuse,
            early_log=early_log,
            options=ScanOptions(alignment, pointer_mask, interior, end_pointers),
        )
        if min_age is None:
            min_age = 5.0 if strict_kernel else 1.0
        if not 0 <= min_age < math.inf or min_unref_scans < 1:
            raise UsageError("min_age is at least 0 seconds, min_unref_scans at least 1")
        self.min_age = min_age
        self.min_unref_scans = min_unref_scans
        self.confirm = not strict_kernel if confirm is None else confirm
        self.checksums = checksums
        self.physical_offset = physical_offset
        self.physical_bounds = physical_bounds
        self.resolver = resolver
        self.stack_scan = True
        self.last_scan = -1
        self._found_leaks = False
        self._scans = 0
        #: Whether a scan is under way.
        self.scanning = False
        self._counters = ScanCounters()
        # Held by whatever walks all objects: scans, clear, reads. The kernel's scan_mutex.
        self._scanning = threading.RLock()
        self._automatic = AutomaticScan(self.scan)
        self._listeners: list[Callable[[list[ObjectView]], None]] = []

    # Scanning.

    def scan(
        self, cancel: Cancel | None = None, progress: Callable[[float], None] | None = None
    ) -> ScanCounters:
        """Scan now.

        Parameters
        ----------
        cancel
            Asked again and again; once set, the scan ends early and reports nothing new.
        progress
            Told again and again which part of the memory was read, 0 to 1; from 0 again where
            suspects have everything read a second time.

        Raises
        ------
        DetectorDisabledError
            The detector was disabled.
        """
        while not self._scanning.acquire(timeout=_PATIENCE):
            if cancel is not None and cancel.is_set():
                return ScanCounters(interrupted=True)
        try:
            self.scanning = True
            counters, fresh = self._scan_once(cancel, progress)
        finally:
            self.scanning = False
            self._scanning.release()
        if fresh:
            _log.info("kmemleak: %d new suspected memory leaks", len(fresh))
            for listener in self._listeners:
                listener(fresh)
        return counters

    def _scan_once(
        self, cancel: Cancel | None, progress: Callable[[float], None] | None
    ) -> tuple[ScanCounters, list[ObjectView]]:
        if not self.enabled:
            raise DetectorDisabledError(f"the detector is disabled: {self.disable_reason}")
        clock = time.perf_counter()
        counters = ScanCounters()
        plan = LivePlan(
            self.memory,
            self.options,
            self._piece.scanning,
            lambda: not self.enabled or (cancel is not None and cancel.is_set()),
            kernel_blocks=self.strict_kernel,
            progress=progress,
        )
        fresh: list[ObjectView] = []
        try:
            fresh = self._scan(plan, counters)
        except CancelledError:
            counters.interrupted = True
        for name, value in plan.counters.items():
            setattr(counters, name, value)
        counters.new_leaks = len(fresh)
        counters.seconds = time.perf_counter() - clock
        self._counters = counters
        self._scans += 1
        return counters, fresh

    def on_new_leaks(self, listener: Callable[[list[ObjectView]], None]) -> None:
        """Have a function called with the objects that a scan reports for the first time."""
        self._listeners.append(listener)

    def _scan(self, plan: LivePlan, counters: ScanCounters) -> list[ObjectView]:
        began = self._now()
        snapshot = self._snapshot()
        counters.objects = len(self)
        counters.rounds = 1
        unchanged = np.zeros(len(snapshot.objects), dtype=bool)

        def modified(white: NDArray[np.int64]) -> NDArray[np.bool_]:
            changed = self._update_checksums(plan, snapshot, white)
            unchanged[white] = ~changed
            return changed

        count = count_references(
            plan, snapshot.objects, self._roots_now(), modified if self.checksums else None
        )
        self.last_scan = began
        white = count < snapshot.objects.min_count
        counters.unreferenced = int(np.count_nonzero(white))
        flags = snapshot.column("flags")
        aged = snapshot.column("birth") + self.min_age * HZ <= began
        suspects = white & aged & (flags & REPORTED == 0)
        if self.confirm and suspects.any():
            counters.rounds = 2
            again = self._snapshot()
            second = count_references(plan, again.objects, self._roots_now())
            held = again.identity[second >= again.objects.min_count]
            still = ~np.isin(snapshot.identity, held)
            count = np.where(white & ~still, snapshot.objects.min_count, count).astype(np.int32)
            white &= still
        self._write(snapshot, "count", count)
        sightings = np.minimum(np.where(white, snapshot.column("sightings") + 1, 0), 0xFFFF)
        self._write(snapshot, "sightings", sightings.astype(np.uint16))
        fresh = white & aged & (flags & REPORTED == 0) & (sightings >= self.min_unref_scans)
        return self._report(snapshot, fresh)

    def _report(self, snapshot: Snapshot, fresh: NDArray[np.bool_]) -> list[ObjectView]:
        views = []
        for space, mask in snapshot.split(fresh):
            rows = np.flatnonzero(mask)
            rows = rows[np.argsort(snapshot.records[space]["sequence"][rows])]
            slots, sequence = snapshot.slots[space][rows], snapshot.records[space]["sequence"][rows]
            store = self._stores[space]
            store.change_flags_many(slots, np.ascontiguousarray(sequence), set=REPORTED)
            records = store.records_of(slots)
            # A slot that was freed since may already belong to another object.
            views.append([self._view(space, r) for r in records[records["sequence"] == sequence]])
        fresh_views = _in_allocation_order(views)
        self._found_leaks |= bool(fresh_views)
        return fresh_views

    def _update_checksums(
        self, plan: LivePlan, snapshot: Snapshot, white: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Take the checksum of white objects; tell which differ from the last time."""
        taken = checksums(plan, snapshot.objects, white, chained=not self.strict_kernel)
        before = snapshot.column("checksum")[white].astype(np.int64)
        known = snapshot.column("flags")[white] & CHECKSUMMED != 0
        if self.strict_kernel:
            # The first value is 0, which is also the CRC of zeros.
            known = np.ones(white.size, dtype=bool)
        readable = taken >= 0
        changed: NDArray[np.bool_] = readable & (~known | (taken != before))
        everything = np.zeros(len(snapshot.objects), dtype=np.uint32)
        everything[white] = np.where(readable, taken, before)
        mask = np.zeros(len(snapshot.objects), dtype=bool)
        mask[white] = True
        for (space, values), (_, chosen) in zip(
            snapshot.split(everything), snapshot.split(mask), strict=True
        ):
            store, slots = self._stores[space], snapshot.slots[space][chosen]
            sequence = np.ascontiguousarray(snapshot.records[space]["sequence"][chosen])
            store.write("checksum", slots, sequence, values[chosen])
            store.change_flags_many(slots, sequence, set=CHECKSUMMED)
        return changed

    def _write(self, snapshot: Snapshot, name: str, values: NDArray[Any]) -> None:
        for space, column in snapshot.split(values):
            sequence = np.ascontiguousarray(snapshot.records[space]["sequence"])
            self._stores[space].write(
                name, snapshot.slots[space], sequence, np.ascontiguousarray(column)
            )

    def _snapshot(self) -> Snapshot:
        snapshot = take_snapshot(
            self._stores, self._areas, self._excess, self._offsets, self._piece.scanning
        )
        self._drop_extras(snapshot.records[""]["sequence"])
        return snapshot

    def _drop_extras(self, sequence: NDArray[np.uint64]) -> None:
        """Forget what belongs to objects that are gone: a `free` from C leaves it behind."""
        if not (self._areas or self._excess):
            return
        alive, last = set(sequence.tolist()), int(sequence.max(initial=0))
        for extras in (self._areas, self._excess):
            for key in [k for k in list(extras) if k <= last and k not in alive]:
                extras.pop(key, None)

    def _roots_now(self) -> Roots:
        roots = self._current_roots(self.stack_scan)
        _, physical = self._stores["phys"].snapshot_records()
        low, high = self.physical_bounds or (0, 1 << 64)
        ranges = [
            RootRange(address + self.physical_offset, size, "phys")
            for address, size, min_count, flags in zip(
                physical["address"].tolist(),
                physical["size"].tolist(),
                physical["min_count"].tolist(),
                physical["flags"].tolist(),
                strict=True,
            )
            if min_count >= 0 and not flags & ObjectFlags.NO_SCAN and low <= address < high
        ]
        return Roots((*roots.ranges, *ranges), roots.words)

    # What was found.

    def unreferenced(self) -> list[ObjectView]:
        """Return the reported objects that still have no reference, in allocation order."""
        with self._scanning:
            found: list[list[ObjectView]] = []
            for space in ("", "percpu"):
                store = self._stores[space]
                _, records = store.snapshot_records()
                shown = (records["flags"] & REPORTED != 0) & (
                    records["count"] < records["min_count"]
                )
                chosen = np.flatnonzero(shown)
                chosen = chosen[np.argsort(records["sequence"][chosen])]
                found.append([self._view(space, record) for record in records[chosen]])
            return _in_allocation_order(found)

    def read(self, layout: str = "6.8") -> str:
        """Return the report in the kernel's layout, as ``cat`` would print it.

        Parameters
        ----------
        layout
            A release of Linux: ``"2.6.31"``, ``"5.10"``, ``"6.1"``, ``"6.8"``, ….
        """
        percpu = self._stores["percpu"]
        lines: list[str] = []
        for leak in self.unreferenced():
            copies: tuple[int, ...] = ()
            if leak.space == "percpu":
                slot = percpu.exact(leak.address)
                copies = self._offsets.get(percpu.sequence_of(slot), ()) if slot >= 0 else ()
            frames = self.traces.lines_of(leak.backtrace, self.resolver)
            lines += format_record(live_record(leak, self.memory, copies, frames), layout)
        return "".join(f"{line}\n" for line in lines)

    def describe(self, address: int) -> str:
        """Return what is known of the object around an address, as ``dump=`` prints it.

        Raises
        ------
        ControlError
            EINVAL: no object is there, or (`strict_kernel`) none starts there.
        """
        found = self.find(address)
        if found is None or (self.strict_kernel and found.address != address):
            raise ControlError(errno.EINVAL, f"Unknown object at 0x{address:08x}")
        return describe_object(found, self.traces.lines_of(found.backtrace, self.resolver))

    def stats(self) -> dict[str, int | float | str]:
        """Return figures of the detector and of its last scan, by name."""
        last = self._counters
        figures: dict[str, int | float | str] = {
            "enabled": int(self.enabled),
            "objects": len(self),
            "bytes_of_metadata": sum(s.nbytes for s in self._stores.values()),
            "traces": len(self.traces),
            "anomalies": sum(note.count for note in self.anomalies),
            "scans": self._scans,
            "unreferenced": last.unreferenced,
            "last_scan_seconds": round(last.seconds, 6),
            "last_scan_words": last.words,
            "last_scan_hits": last.hits,
            "last_scan_missing_bytes": last.missing_bytes,
        }
        if self.disable_reason:
            figures["disable_reason"] = self.disable_reason
        return figures

    # The control file's commands.

    def clear(self) -> int:
        """Grey the reported objects that have no reference; return how many there were.

        They hold what they point at from now on. On a disabled detector: forget everything.
        """
        return self._clear(REPORTED)

    def clear_all(self) -> int:
        """Grey every object that the last scan found without reference, reported or not."""
        return self._clear(0)

    def _clear(self, wanted: int) -> int:
        with self._scanning:
            if not self.enabled:
                return self._forget()
            self._found_leaks = False
            total = 0
            for space in ("", "percpu"):
                store = self._stores[space]
                slots, records = store.snapshot_records()
                chosen = (records["flags"] & wanted == wanted) & (
                    records["count"] < records["min_count"]
                )
                if not wanted:  # what no scan has seen yet is not unreferenced
                    chosen &= records["sightings"] > 0
                sequence = np.ascontiguousarray(records["sequence"][chosen])
                total += int(store.write("min_count", slots[chosen], sequence, GREY).sum())
            return total

    def _forget(self) -> int:
        forgotten = len(self)
        with self._piece:
            for store in self._stores.values():
                store.clear()
            for extras in (self._areas, self._excess, self._offsets):
                extras.clear()
        return forgotten

    def disable(self, reason: str = "off") -> None:
        """Stop for good: no more tracking, no more scans.

        What was reported can still be read until `clear`; if there was nothing, all is
        forgotten at once.
        """
        self._disable(reason)
        self._automatic.tell_to_stop()
        with self._scanning:
            if not self._found_leaks:
                self._forget()

    def start_scanning(self, period: float | None = None, first: float | None = None) -> None:
        """Start scanning automatically in a thread; if that runs already, nothing changes.

        Parameters
        ----------
        period
            Seconds between scans; 0: none; None: as before, 600 at first.
        first
            Seconds until the first scan; None: 60 when it starts for the first time, later one
            period.
        """
        if period is not None:
            self.scan_period = period
        if not self.enabled:
            raise DetectorDisabledError(f"the detector is disabled: {self.disable_reason}")
        self._automatic.start(first)

    def stop_scanning(self) -> None:
        """Stop scanning automatically; a scan under way ends early."""
        self._automatic.stop()

    @property
    def scan_period(self) -> float:
        """Seconds between two automatic scans; 0 for none."""
        return self._automatic.period

    @scan_period.setter
    def scan_period(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise UsageError("the period is a number of seconds, at least 0")
        self._automatic.period = seconds

    def control(self, command: str | bytes) -> str:
        """Execute a command of the kernel's control file: ``"scan"``, ``"stack=off"``, ….

        Raises
        ------
        ControlError
            With the ``errno`` that the kernel's file gives.
        """
        from .control import ControlFile

        return ControlFile(self).execute(command.encode() if isinstance(command, str) else command)

    def __enter__(self) -> Kmemleak:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_scanning()

    def __repr__(self) -> str:
        state = "" if self.enabled else f", disabled: {self.disable_reason}"
        return f"<Kmemleak {len(self):,} objects, {self._scans} scans{state}>"


def _in_allocation_order(spaces: list[list[ObjectView]]) -> list[ObjectView]:
    """Merge objects that are in order in each space; only their birth relates two spaces."""
    return list(heapq.merge(*spaces, key=lambda view: view.jiffies))
