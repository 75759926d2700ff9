"""Reference of the address index: it finds the object that a value points into.

A *target* is a ``uint32``: the object's row in its low 30 bits (`ROWS`), the kind of pointer in
the two above: 0 to the object's start, 1 to its interior, 2 one past its end. `NO_TARGET` is none.
"""

import numpy as np
from numpy.typing import NDArray

ROWS: int
NO_TARGET: int

def _choose_part(rows: int) -> int:
    """Set how many objects are worth a part of their own; return how many were. For tests."""

class AddressIndex:
    """Finds the object that holds an address.

    Parameters
    ----------
    address, size
        ``(n,)`` ``uint64``, sorted by address, without overlaps; kept, not copied. An object of
        size 0 occupies its start address alone.
    flags
        ``(n,)`` ``uint8``, `ObjectFlags`; only EXACT_END matters here.
    inclusive_end
        Whether the address one past an object's end is the object's, where no other object
        starts there and the object's end is not exact.
    interior
        Whether addresses behind the start count at all.

    threads
        How many may build at once; the index is the same for any number.
    form
        How addresses are found, rather than what suits the objects: ``"ranks"`` (a bitmap of
        where objects start, 8 to 20 bytes an object where they lie close together),
        ``"directory"`` (the rows at each page's start) or ``"search"``. A form that would take
        much more memory than the objects' columns gives way to the next.

    Raises
    ------
    ValueError
        Columns of different lengths, 2**30 objects or more, objects out of order, overlapping
        or at the very end of the address space.
    """

    low: int
    span: int
    inclusive_end: bool
    interior: bool
    def __new__(
        cls,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        flags: NDArray[np.uint8] | None = None,
        *,
        inclusive_end: bool = False,
        interior: bool = True,
        threads: int = 1,
        form: str | None = None,
    ) -> AddressIndex: ...
    @property
    def form(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def lookup(self, values: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the target of each value, `NO_TARGET` for none; ``(n,)`` ``uint32``."""

    def __len__(self) -> int: ...
