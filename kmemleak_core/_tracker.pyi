"""Reference of the table of live objects: one `ObjectStore` per address space.

An object has a *slot*, its row in `ObjectStore.records`, from its insertion to its removal; slots
are used again. It also has a *sequence* number, which no other object of the table ever has: the
pair names an object for good, which is how a scan that works on a copy learns what became of it.

Every call is atomic (the bulk calls in portions of 4096 rows, unless said otherwise) and may be
made from any thread.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: One record, 48 bytes: address, size u8 (bytes), sequence u8 (order of allocation, from 1; 0 in
#: a free slot), checksum u4, min_count, count i4, birth u4 (jiffies of 4 ms), trace u4 (id in the
#: caller's table), flags, sightings u2. The table sets checksum, count and sightings to 0.
RECORD: np.dtype[np.void]

class Slab:
    """The memory of the records. Internal: it grows in place and is freed with its last view."""

    reserved: int
    committed: int
    def __new__(cls, objects: int) -> Slab: ...

class ObjectStore:
    """Keeps the live objects of one address space: by address, by slot, in allocation order.

    The objects never overlap; one of size 0 occupies its start address alone. The index is a
    sorted list of sorted blocks of up to 512 entries, so the cost of a call does not depend on
    the order of the addresses.

    Parameters
    ----------
    limit
        How many objects the table must be able to hold, up to 2**30. This reserves address
        space, not memory; `limit` tells what there was, which is less where the process has a
        limit on its address space (RLIMIT_AS), of which a table takes a sixteenth at most.

    Raises
    ------
    ValueError
        The limit is 0 or too high.
    MemoryError
        There is not even the address space for a thousand objects.
    """

    def __new__(cls, limit: int = ...) -> ObjectStore: ...

    # One object. An integer that does not fit its column raises OverflowError.

    def insert(
        self,
        address: int,
        size: int,
        min_count: int = 1,
        flags: int = 0,
        birth: int = 0,
        trace: int = 0,
    ) -> int:
        """Add an object; return its slot, or −1 − slot of the lowest object that it overlaps.

        In the second case only `min_address` and `max_address` may have changed.

        Raises
        ------
        ValueError
            The object leaves the address space: its end is at or above 2**64 − 1.
        MemoryError
            There is no memory, or the table holds `limit` objects. Nothing has changed.
        """

    def find(self, address: int) -> int:
        """Return the slot of the object that holds an address, its inside too; −1 if none does."""

    def exact(self, address: int) -> int:
        """Return the slot of the object that starts at an address, −1 if none does."""

    def remove(self, slot: int, sequence: int = 0) -> None:
        """Remove the object in a slot; given a sequence number, no other object than that one.

        Raises
        ------
        LookupError
            The slot does not hold that object (any more).
        """

    def discard(self, address: int) -> bool:
        """Remove the object that starts at an address; return whether there was one."""

    def sequence_of(self, slot: int) -> int:
        """Return the sequence number of the object in a slot, 0 if the slot is free."""

    def alive(self, slot: int, sequence: int) -> bool:
        """Tell whether the slot still holds the object with that sequence number."""

    def at(self, address: int, exact: bool = False) -> tuple[int, np.void] | None:
        """Copy the record of the object that holds an address.

        Parameters
        ----------
        address
            Anywhere in the object; with `exact`, its start.

        Returns
        -------
        (slot, record) or None
            All of it as it was at one moment. With the record's sequence number the slot names
            the object for good.
        """

    def set_min_count(self, slot: int, min_count: int, sequence: int = 0) -> None:
        """Set an object's min_count; given a sequence number, of no other object than that one.

        Raises
        ------
        LookupError
            The slot does not hold that object (any more).
        """

    def change_flags(self, slot: int, set: int = 0, clear: int = 0, sequence: int = 0) -> int:
        """Clear, then set bits of an object's flags; return them.

        Given a sequence number, of no other object than that one; raises as `set_min_count` does.
        """

    # Many objects. Columns are used as they are: of the dtype that is named, in any stride.

    def insert_many(
        self,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        min_count: int | NDArray[np.int32] = 1,
        flags: int | NDArray[np.uint16] = 0,
        birth: int | NDArray[np.uint32] = 0,
        trace: int | NDArray[np.uint32] = 0,
    ) -> NDArray[np.int64]:
        """Add objects in the order of the rows; fast where addresses ascend.

        Parameters
        ----------
        address, size
            ``(n,)`` ``uint64``.
        min_count, flags, birth, trace
            One value for all, or a column of ``n``.

        Returns
        -------
        slots : ndarray of int64, shape (n,)
            What `insert` returns for each row; of two rows that overlap the first one wins.

        Raises
        ------
        ValueError
            Columns of different lengths or another dtype, or a row that leaves the address
            space. Nothing has been inserted.
        MemoryError
            As for `insert`; the rows before that one stay inserted.
        """

    def remove_many(self, address: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Remove the objects that start at addresses; ``(n,)``: whether there was one."""

    def alive_many(
        self, slot: NDArray[np.uint32], sequence: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Tell which slots still hold the objects with those sequence numbers; ``(n,)``."""

    def records_of(self, slot: NDArray[np.uint32]) -> NDArray[np.void]:
        """Copy the records in slots, ``(n,)`` of `RECORD`; a free slot's sequence is 0."""

    def write(
        self,
        field: str,
        slot: NDArray[np.uint32],
        sequence: NDArray[np.uint64],
        values: int | NDArray[np.generic],
    ) -> NDArray[np.bool_]:
        """Write a field of those objects that are still there.

        Parameters
        ----------
        field
            A field of `RECORD`, but not address, size or sequence.
        slot, sequence
            ``(n,)``: the objects.
        values
            One value for all, or ``(n,)`` of the field's dtype.

        Returns
        -------
        written : ndarray of bool, shape (n,)
            Which objects were still there.
        """

    def change_flags_many(
        self,
        slot: NDArray[np.uint32],
        sequence: NDArray[np.uint64],
        set: int = 0,
        clear: int = 0,
    ) -> NDArray[np.bool_]:
        """Clear, then set flags of those objects that are still there; ``(n,)``: which were."""

    # The whole table, each at one moment.

    def snapshot(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
        """Copy the objects in the order of their addresses.

        Returns
        -------
        address, size : ndarray of uint64, shape (n,)
        slot : ndarray of uint32, shape (n,)
        """

    def snapshot_records(self) -> tuple[NDArray[np.uint32], NDArray[np.void]]:
        """Copy the objects' slots and whole records, in the order of their addresses.

        Returns
        -------
        slot : ndarray of uint32, shape (n,)
        record : ndarray of `RECORD`, shape (n,)
        """

    def in_allocation_order(self) -> NDArray[np.uint32]:
        """Return the objects' slots, the oldest object first; ``(n,)`` ``uint32``."""

    def clear(self) -> None:
        """Remove every object and free the index; bounds and sequence numbers go on."""

    @property
    def records(self) -> NDArray[np.void]:
        """The slots that were ever in use, ``(slots,)`` of `RECORD`: the table's own memory.

        Records never move: a view stays true, though new slots need a new view, and it keeps the
        memory when the table is gone. A free slot has sequence 0. Writing through it is not
        guarded by the table's lock: with several threads use `write` and `change_flags_many`.
        Address, size and sequence must not be written.
        """

    @property
    def min_address(self) -> int:
        """Lowest address that was ever offered; 2**64 − 1 before the first.

        As in the kernel, the bounds widen even for an object that is then refused for an
        overlap, and never shrink.
        """

    @property
    def max_address(self) -> int:
        """Highest end of an object that was ever offered, 0 before the first; see `min_address`."""

    @property
    def last_sequence(self) -> int:
        """Sequence number of the newest object, 0 before the first."""

    @property
    def limit(self) -> int:
        """How many objects there is address space for."""

    @property
    def nbytes(self) -> int:
        """Bytes of records and index, those of free slots and room to grow included."""

    def __len__(self) -> int: ...

def _column(value: object, dtype: DTypeLike, n: int) -> NDArray[np.generic]: ...
