"""Addresses as the kernel prints them: hashed by the key in its memory."""

from __future__ import annotations

import numpy as np

from kmemleak_core.linux.hashed_pointers import HashedPointers, siphash
from kmemleak_core.linux.kernel import Kernel

from ..builders.kernel import TableTypes, kernel_of

BASE = 0xFFFF_FFFF_8200_0000


def kernel(drawn: bool = True, plain: bool = False, key: bytes = bytes(range(16))) -> Kernel:
    memory = np.zeros(4096, np.uint8)
    memory[: len(key)] = np.frombuffer(key, np.uint8)
    memory[16], memory[17] = drawn, plain
    symbols = {"ptr_key": BASE, "filled_random_ptr_key": BASE + 16, "no_hash_pointers": BASE + 17}
    return kernel_of([(BASE, memory)], TableTypes({}), symbols, frames=1)


def test_the_vector_of_siphashs_authors():
    first, second = (int.from_bytes(bytes(range(i, i + 8)), "little") for i in (0, 8))
    assert siphash(first, first, second) == 0x93F5F5799A932462


def test_the_lower_half_is_printed():
    address = int.from_bytes(bytes(range(8)), "little")
    assert HashedPointers(kernel()).text(address) == "000000009a932462"


def test_before_the_key_is_drawn_nothing_is_known():
    assert HashedPointers(kernel(drawn=False)).text(BASE) is None
    assert HashedPointers(kernel(key=bytes(16))).text(BASE) is None


def test_a_kernel_that_was_told_not_to_hash():
    assert HashedPointers(kernel(plain=True)).text(BASE) == "ffffffff82000000"


def test_a_key_that_is_not_in_the_dump():
    lost = kernel()
    lost.symbols.addresses["ptr_key"] = 0xDEAD
    assert HashedPointers(lost).text(BASE) is None
