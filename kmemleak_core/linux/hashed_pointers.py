"""Turns addresses into what a kernel's ``%p`` prints: hashes, by the key in its memory."""

from __future__ import annotations

from ..errors import FaultError
from .kernel import Kernel

_WORD = (1 << 64) - 1
#: SipHash's initial state.
_STATE = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


class HashedPointers:
    """The addresses that a 64-bit kernel prints instead of its own.

    Read in ``ptr_to_hashval()`` of lib/vsprintf.c (since Linux 4.15): the lower half of
    SipHash-2-4 of the address, whose key the kernel drew when it was ready to.

    Parameters
    ----------
    kernel
        The kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._plain = self._flag(kernel, "no_hash_pointers")
        self._key: tuple[int, int] | None = None
        address = kernel.symbols.address("ptr_key")
        if address is None or kernel.image.word_size != 8:
            return
        try:
            first, second = kernel.image.words(address, 2).tolist()
        except FaultError:
            return
        drawn = kernel.symbols.address("filled_random_ptr_key")
        if (first or second) and (drawn is None or self._flag(kernel, "filled_random_ptr_key")):
            self._key = first, second

    @staticmethod
    def _flag(kernel: Kernel, name: str) -> bool:
        address = kernel.symbols.address(name)
        try:
            return address is not None and kernel.image.read(address, 1) != b"\0"
        except FaultError:
            return False

    def text(self, address: int) -> str | None:
        """Return what is printed of an address; None where the kernel has no key yet."""
        if self._plain:
            return f"{address:016x}"
        if self._key is None:
            return None
        return f"{siphash(address, *self._key) & 0xFFFF_FFFF:016x}"


def siphash(value: int, first: int, second: int) -> int:
    """Return SipHash-2-4 of one 64-bit word (``siphash_1u64()``), by the key's two words."""
    state = [_STATE[0] ^ first, _STATE[1] ^ second, _STATE[2] ^ first, _STATE[3] ^ second]
    for word in (value, 8 << 56):
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= 0xFF
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(state: list[int], many: int) -> None:
    a, b, c, d = state
    for _ in range(many):
        a = (a + b) & _WORD
        b = _rotated(b, 13) ^ a
        a = _rotated(a, 32)
        c = (c + d) & _WORD
        d = _rotated(d, 16) ^ c
        a = (a + d) & _WORD
        d = _rotated(d, 21) ^ a
        c = (c + b) & _WORD
        b = _rotated(b, 17) ^ c
        c = _rotated(c, 32)
    state[:] = a, b, c, d


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & _WORD
