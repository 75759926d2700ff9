"""Turns a place on a stack into the function in whose frame it lies, by return addresses.

No unwinding tables are needed: below a frame stands the address to which what it called will
return, and that lies in the frame's own function. Words that calls of earlier left behind can look
the same, so that an answer is likely, not certain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import FaultError
from ..image import MemoryImage

#: Bytes of stack that are searched for a return address.
_REACH = 1 << 16
#: Words that are looked at closely.
_MOST = 4096


def frame_address(
    image: MemoryImage,
    place: int,
    low: int,
    *,
    is_code: Callable[[int], bool],
    code: Callable[[int, int], bytes],
    architecture: str,
) -> int | None:
    """Return the address in the code of the function in whose frame a place lies.

    Parameters
    ----------
    image
        The memory.
    place
        On the stack.
    low
        The stack pointer: what lies below is dead.
    is_code
        Whether an address lies in code.
    code
        Returns so many bytes of code at an address, or fewer.
    architecture
        As of a `Dump`: tells what a call looks like.

    Returns
    -------
    int or None
        A return address; None where there is none between the stack pointer and the place.
    """
    word = image.word_size
    place -= place % word
    low = max(low - low % word, place - _REACH)
    if place <= low:
        return None
    try:
        values = image.words(low, (place - low) // word)[::-1]
    except FaultError:
        return None
    # Code is far from the stack, and from small numbers.
    likely = values[(values > 4095) & (values - np.uint64(low) >= _REACH)]
    for value in likely[:_MOST].tolist():
        if is_code(value) and follows_call(code(value - 8, 8), architecture):
            return int(value)
    return None


def follows_call(before: bytes, architecture: str) -> bool:
    """Whether the bytes before an address end in a call; True where they are not known.

    Encodings: Intel SDM volume 2, CALL (E8 rel32; FF /2); Arm ARM, BL and BLR.
    """
    if len(before) < 8:
        return True
    if architecture in ("x86_64", "i386"):
        # FF /2 has a mod-r/m byte of which the middle field is 2, and up to five bytes more.
        return before[-5] == 0xE8 or any(
            before[-n] == 0xFF and before[1 - n] >> 3 & 7 == 2 for n in (2, 3, 4, 6, 7)
        )
    if architecture == "aarch64":
        instruction = int.from_bytes(before[-4:], "little")
        return instruction >> 26 == 0x25 or instruction & 0xFFFFFC1F == 0xD63F0000
    return True
