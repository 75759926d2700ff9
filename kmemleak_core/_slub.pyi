import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._scan import ImageView

#: The list ended as it should.
OK: int
#: It leads out of its slab.
OUTSIDE: int
#: It leads between two slots.
ASKEW: int
#: It leads to a slot that is free already.
TWICE: int
#: It leads through memory that the image lacks.
ABSENT: int

class Slabs:
    """Slabs of equal slots, and which of them are free.

    Parameters
    ----------
    base : ndarray of uint64, shape (n,)
        Where each slab's first slot is (behind a red zone); ascending.
    stride : ndarray of uint32, shape (n,)
        Bytes from slot to slot, not 0.
    slots : ndarray of int64, shape (n,)
        How many each has.
    """

    count: int
    slots: int

    def __new__(cls, base: ArrayLike, stride: ArrayLike, slots: ArrayLike) -> Slabs: ...
    def walk(
        self,
        view: ImageView,
        head: ArrayLike,
        slab: ArrayLike,
        offset: ArrayLike,
        random: ArrayLike,
        swab: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Follow freelists and mark what they lead to as free.

        Parameters
        ----------
        view
            The memory.
        head : ndarray of uint64, shape (m,)
            What each list begins with; 0 for an empty one.
        slab : ndarray of int64, shape (m,)
            In which slab it stays.
        offset : ndarray of uint32, shape (m,)
            Where in a slot the pointer to the next one lies.
        random : ndarray of uint64, shape (m,)
            What pointers are xored with, beside the address where they lie; 0 where they are plain.
        swab
            Whether that address is xored with its bytes swapped.

        Returns
        -------
        length : ndarray of int64, shape (m,)
            Slots that were marked.
        problem : ndarray of uint8, shape (m,)
            How it ended: `OK`, `OUTSIDE`, ….
        """
    def forget(self) -> None:
        """Take all marks back."""
    def mark(self, slot: ArrayLike) -> int:
        """Mark slots as free, by number; return how many were not yet."""
    def find(self, address: ArrayLike) -> NDArray[np.int64]:
        """Return the numbers of the slots that begin at addresses; −1 where none does."""
    def allocated(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the addresses of all slots that are not free, in order; and of how many a slab."""
    def free_slots(self) -> NDArray[np.bool_]:
        """Return which slots are free: a view."""
