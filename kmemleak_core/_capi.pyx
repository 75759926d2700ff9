# cython: embedsignature=False
"""Turns calls from C into calls on a detector's table of live objects: the C API's functions."""

cimport cython
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t

from kmemleak_core._tracker cimport NO_MEMORY, OUTSIDE, ObjectStore, Record

from .errors import DetectorDisabledError, KmemleakError, UsageError
from .lifecycle import HZ as _HZ
from .lifecycle import LAST_ADDRESS as _LAST_ADDRESS
from .lifecycle import ObjectLifecycle
from .objects import ObjectFlags


cdef extern from "include/kmemleak_core.h" nogil:
    enum:
        KMEMLEAK_API_VERSION
        KMEMLEAK_OK
        KMEMLEAK_OVERLAP
        KMEMLEAK_UNKNOWN
        KMEMLEAK_ALIAS
        KMEMLEAK_NO_MEMORY
        KMEMLEAK_DISABLED
        KMEMLEAK_FAILED
        KMEMLEAK_GREY
        KMEMLEAK_BLACK
    size_t KMEMLEAK_TO_END
    const char* KMEMLEAK_CAPSULE

    # The functions' first argument is an Attachment, for C an opaque struct.
    ctypedef struct kmemleak_api:
        uint32_t version
        uint32_t size
        void* attach
        void* detach
        void* alloc
        void* free
        void* alloc_many
        void* free_many
        void* not_leak
        void* ignore
        void* unignore
        void* no_scan
        void* scan_area
        void* free_part
        void* trace
        void* scan

cdef extern from *:
    """
    #include <time.h>
    /* The clock of time.monotonic(), in seconds. */
    static inline double kmc_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    /* Read by threads that hold no lock. */
    static inline int kmc_load(const int* flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
    static inline void kmc_store(int* flag, int value) {
        __atomic_store_n(flag, value, __ATOMIC_RELAXED);
    }
    """
    double kmc_now() nogil
    int kmc_load(const int* flag) nogil
    void kmc_store(int* flag, int value) nogil

cdef uint64_t LAST = _LAST_ADDRESS
cdef double TICKS = _HZ
cdef uint16_t NO_SCAN = ObjectFlags.NO_SCAN
# Rows of a bulk call that hold the table's lock.
cdef enum:
    ROWS = 4096


@cython.final
cdef class Attachment:
    # What C knows a detector by.
    cdef object __weakref__
    cdef object detector
    cdef ObjectStore store
    cdef double began
    cdef bint strict
    cdef int enabled

    def __cinit__(self, detector):
        if detector._early is not None and detector._early.open:
            raise UsageError("the early log takes calls from Python only: start() first")
        self.detector = detector
        self.store = detector._objects
        self.began = detector._began
        self.strict = detector.strict_kernel
        kmc_store(&self.enabled, detector.enabled)

    def disabled(self):
        """Hear that the detector was disabled."""
        kmc_store(&self.enabled, 0)

    @property
    def api(self):
        """Address of the table of functions, a ``const kmemleak_api *``."""
        return <uintptr_t>&API_TABLE

    @property
    def handle(self):
        """What the functions take first, a ``kmemleak_detector *``; valid as long as this is."""
        return <uintptr_t><void*>self

    cdef uint32_t birth(self) noexcept nogil:
        return <uint32_t>((kmc_now() - self.began) * TICKS)

    # What needs Python: misuse, and calls that few objects see.

    cdef void overlapping(self, int64_t slot, uint64_t address, uint64_t size) noexcept with gil:
        detector = self.detector
        try:
            detector._overlapping("", slot, address, size)
        except KmemleakError as error:
            detector.anomalies.add("objects.overlap", str(error), nbytes=size, address=address)

    cdef void note(self, str code, str text, uint64_t address, uint64_t count) noexcept with gil:
        self.detector.anomalies.add(code, text, count=count, address=address)

    cdef int not_found(self, str call, uint64_t address) noexcept with gil:
        # A disabled detector has forgotten what it knew.
        if not kmc_load(&self.enabled):
            return KMEMLEAK_DISABLED
        cdef int64_t slot = around(self, address)
        try:
            self.detector._not_found(call, "", address)
        except KmemleakError as error:
            self.detector.anomalies.add(
                f"{call}.{'unknown' if slot < 0 else 'alias'}", str(error), address=address
            )
        return KMEMLEAK_UNKNOWN if slot < 0 else KMEMLEAK_ALIAS


cdef int64_t around(Attachment self, uint64_t address) noexcept nogil:
    # The object that holds an address, or -1.
    cdef int64_t slot
    with self.store.lock:
        slot = self.store.look(address, False)
    return slot


cdef inline bint ignored(uint64_t address) noexcept nogil:
    return address == 0 or address >= LAST


# For Cython a name of a call is an object: these say it while they hold the GIL.

cdef int unknown_free(Attachment self, uint64_t address) noexcept with gil:
    return self.not_found("free", address)


cdef int unknown_paint(Attachment self, uint64_t address, int min_count) noexcept with gil:
    if min_count == KMEMLEAK_BLACK:
        return self.not_found("ignore", address)
    return self.not_found("not_leak" if min_count == KMEMLEAK_GREY else "unignore", address)


cdef int unknown_no_scan(Attachment self, uint64_t address) noexcept with gil:
    return self.not_found("no_scan", address)


cdef void no_memory(Attachment self, uint64_t address) noexcept with gil:
    self.note("objects.no-memory", "objects that no memory was left to track", address, 1)


cdef void bulk_overlap(Attachment self, uint64_t address, uint64_t count) noexcept with gil:
    self.note("objects.overlap", "objects of a bulk call that overlap others were left out",
              address, count)
    if self.strict:
        self.detector._disable("overlapping objects")


cdef void bulk_unknown(Attachment self, uint64_t address, uint64_t count) noexcept with gil:
    self.note("free.unknown", "unknown blocks in a bulk free", address, count)


# The table's functions.

cdef void* c_attach(void* detector) except NULL with gil:
    attachment = attach(<object>detector)
    Py_INCREF(attachment)
    return <void*>attachment


cdef void c_detach(void* attachment) noexcept with gil:
    if attachment != NULL:
        Py_DECREF(<object>attachment)


cdef int c_alloc(Attachment self, uint64_t address, size_t size, int min_count,
                 uint32_t trace) noexcept nogil:
    cdef int64_t slot
    cdef uint32_t birth
    if ignored(address):
        return KMEMLEAK_OK
    if not kmc_load(&self.enabled):
        return KMEMLEAK_DISABLED
    birth = self.birth()
    with self.store.lock:
        slot = self.store.add(address, size, min_count, 0, birth, trace)
    if slot >= 0:
        return KMEMLEAK_OK
    if slot == NO_MEMORY:
        no_memory(self, address)
        return KMEMLEAK_NO_MEMORY
    if slot == OUTSIDE:
        # It would reach past the end of the address space.
        return KMEMLEAK_FAILED
    self.overlapping(-1 - slot, address, size)
    return KMEMLEAK_OVERLAP


cdef int c_free(Attachment self, uint64_t address) noexcept nogil:
    cdef int64_t slot
    if ignored(address):
        return KMEMLEAK_OK
    with self.store.lock:
        slot = self.store.look(address, True)
        if slot >= 0:
            self.store.drop(<uint64_t>slot, 0)
    return KMEMLEAK_OK if slot >= 0 else unknown_free(self, address)


cdef int64_t c_alloc_many(Attachment self, const uint64_t* address, const uint64_t* size,
                          size_t count, int min_count, uint32_t trace) noexcept nogil:
    cdef size_t i = 0, until
    cdef int64_t slot = 0, taken = 0
    cdef uint64_t refused = 0, example = 0
    cdef uint32_t birth = self.birth()
    if not kmc_load(&self.enabled):
        return KMEMLEAK_DISABLED
    while i < count and slot != NO_MEMORY:
        until = min(count, i + <size_t>ROWS)
        with self.store.lock:
            while i < until:
                if not ignored(address[i]):
                    slot = self.store.add(address[i], size[i], min_count, 0, birth, trace)
                    if slot >= 0:
                        taken += 1
                    elif slot == NO_MEMORY:
                        break
                    else:
                        refused += 1
                        example = address[i]
                i += 1
    if slot == NO_MEMORY:
        no_memory(self, address[i])
    if refused:
        bulk_overlap(self, example, refused)
    return taken


cdef int64_t c_free_many(Attachment self, const uint64_t* address, size_t count) noexcept nogil:
    cdef size_t i = 0, until
    cdef int64_t slot, known = 0
    cdef uint64_t unknown = 0, example = 0
    while i < count:
        until = min(count, i + <size_t>ROWS)
        with self.store.lock:
            while i < until:
                slot = self.store.look(address[i], True)
                if slot >= 0 and self.store.drop(<uint64_t>slot, 0):
                    known += 1
                elif not ignored(address[i]):
                    unknown += 1
                    example = address[i]
                i += 1
    if unknown and kmc_load(&self.enabled):
        bulk_unknown(self, example, unknown)
    return known


cdef int paint(Attachment self, uint64_t address, int min_count) noexcept nogil:
    cdef int64_t slot
    cdef Record* record
    if ignored(address):
        return KMEMLEAK_OK
    if not kmc_load(&self.enabled):
        return KMEMLEAK_DISABLED
    with self.store.lock:
        slot = self.store.look(address, True)
        if slot >= 0:
            record = &self.store.rows[slot]
            record.min_count = min_count
            if min_count == KMEMLEAK_BLACK:
                record.flags = record.flags | NO_SCAN
            elif not self.strict:
                record.flags = record.flags & ~NO_SCAN
    return KMEMLEAK_OK if slot >= 0 else unknown_paint(self, address, min_count)


cdef int c_not_leak(Attachment self, uint64_t address) noexcept nogil:
    return paint(self, address, KMEMLEAK_GREY)


cdef int c_ignore(Attachment self, uint64_t address) noexcept nogil:
    return paint(self, address, KMEMLEAK_BLACK)


cdef int c_unignore(Attachment self, uint64_t address, int min_count) noexcept nogil:
    return paint(self, address, min_count)


cdef int c_no_scan(Attachment self, uint64_t address) noexcept nogil:
    cdef int64_t slot
    if ignored(address):
        return KMEMLEAK_OK
    if not kmc_load(&self.enabled):
        return KMEMLEAK_DISABLED
    with self.store.lock:
        slot = self.store.look(address, True)
        if slot >= 0:
            self.store.rows[slot].flags = self.store.rows[slot].flags | NO_SCAN
    return KMEMLEAK_OK if slot >= 0 else unknown_no_scan(self, address)


cdef int c_scan_area(Attachment self, uint64_t address, size_t size) noexcept with gil:
    cdef int64_t slot
    if ignored(address):
        return KMEMLEAK_OK
    slot = around(self, address)
    if slot < 0:
        return self.not_found("scan_area", address)
    try:
        self.detector.scan_area(address, None if size == KMEMLEAK_TO_END else size)
    except Exception:
        return unraisable(self)
    return KMEMLEAK_OK


cdef int c_free_part(Attachment self, uint64_t address, size_t size) noexcept with gil:
    cdef int64_t slot
    if ignored(address):
        return KMEMLEAK_OK
    slot = around(self, address)
    if slot < 0:
        return self.not_found("free_part", address)
    try:
        self.detector.free_part(address, size)
    except Exception:
        return unraisable(self)
    return KMEMLEAK_OK


cdef uint32_t c_trace(Attachment self, const uint64_t* frames, size_t count) noexcept with gil:
    cdef size_t i
    try:
        return self.detector.traces.add([frames[i] for i in range(min(count, <size_t>64))])
    except Exception:
        unraisable(self)
    return 0


cdef int64_t c_scan(Attachment self) noexcept with gil:
    try:
        return self.detector.scan().new_leaks
    except DetectorDisabledError:
        return KMEMLEAK_DISABLED
    except Exception:
        return unraisable(self)


cdef int unraisable(Attachment self) noexcept:
    # In an except clause: there is nobody to raise it to.
    import sys
    import traceback

    if sys.stderr is not None:
        traceback.print_exc()
    return KMEMLEAK_FAILED


cdef kmemleak_api API_TABLE
API_TABLE.version = KMEMLEAK_API_VERSION
API_TABLE.size = sizeof(kmemleak_api)
API_TABLE.attach = <void*>c_attach
API_TABLE.detach = <void*>c_detach
API_TABLE.alloc = <void*>c_alloc
API_TABLE.free = <void*>c_free
API_TABLE.alloc_many = <void*>c_alloc_many
API_TABLE.free_many = <void*>c_free_many
API_TABLE.not_leak = <void*>c_not_leak
API_TABLE.ignore = <void*>c_ignore
API_TABLE.unignore = <void*>c_unignore
API_TABLE.no_scan = <void*>c_no_scan
API_TABLE.scan_area = <void*>c_scan_area
API_TABLE.free_part = <void*>c_free_part
API_TABLE.trace = <void*>c_trace
API_TABLE.scan = <void*>c_scan

API = PyCapsule_New(&API_TABLE, KMEMLEAK_CAPSULE, NULL)


def attach(detector):
    """Make a detector known to C; see the stub."""
    if not isinstance(detector, ObjectLifecycle):
        raise TypeError(f"a Kmemleak is attached, not a {type(detector).__name__}")
    attachment = Attachment(detector)
    detector._attach(attachment)
    return attachment
