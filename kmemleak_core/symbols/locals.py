"""Turns a place in a function's frame into the local variable or parameter there, and its member.

Only what is certain is told: variables that have one place for all of the function (compiled
without optimisation, or whose address is taken), counted from a frame that was unwound.
"""

from __future__ import annotations

from collections.abc import Iterator

from .dwarf_entries import Entries, Entry
from .unwind import Frame
from .variables import declared_name, location_of, member_way, number_of, size_of, variable_type

_FROM_FRAME, _FRAME_ADDRESS, _REGISTER = 0x91, 0x9C, 0x50
#: Places in .debug_info that are looked at for the function.
_MOST_PLACES = 64
_DEEPEST = 64
_VARIABLES = frozenset(("DW_TAG_variable", "DW_TAG_formal_parameter"))
_BLOCKS = frozenset(("DW_TAG_lexical_block", "DW_TAG_inlined_subroutine"))


def local_text(entries: Entries, frame: Frame, bias: int, place: int) -> str:
    """Return the variable, and its member, at a place of a frame.

    Parameters
    ----------
    entries
        Of the file that the function is in.
    frame
        The frame.
    bias
        How far the file was moved.
    place
        In the frame.

    Returns
    -------
    str
        ``"config.paths[2]"``; empty where nothing is certain.

    Raises
    ------
    TooMuchError
    DamagedError
    """
    function = _function(entries, frame.function - bias)
    base = None if function is None else _base(function, frame)
    if function is None or base is None:
        return ""
    best, smallest = "", 1 << 62
    for entry in _variables(entries, function, frame.code - bias):
        offset = _offset(location_of(entry))
        if offset is None:
            continue
        within = place - base - offset
        kind = variable_type(entries, entry)
        size = size_of(entries, kind)
        # Of those that share a place as they are never live together, none is certain.
        if size is None or not 0 <= within < size:
            continue
        name = declared_name(entries, entry)
        text = f"{name}{member_way(entries, kind, within)}" if name else ""
        best, smallest = ("" if smallest < 1 << 62 else text), size
    return best


def _function(entries: Entries, begin: int) -> Entry | None:
    """Return the function that begins at an address."""
    needle = begin.to_bytes(8 if entries.wide else 4, entries.order)  # type: ignore[arg-type]
    at = -1
    for _ in range(_MOST_PLACES):
        at = entries.find(needle, at + 1)
        if at < 0:
            return None
        around = entries.around(at)
        if around is not None:
            entry = around[-1]
            if entry.tag == "DW_TAG_subprogram" and number_of(entry, "DW_AT_low_pc") == begin:
                return entry
    return None


def _base(function: Entry, frame: Frame) -> int | None:
    """Return what the places of a function's variables are counted from."""
    base = location_of(function, "DW_AT_frame_base")
    if len(base) != 1:
        return None
    if base[0] == _FRAME_ADDRESS:
        return frame.high
    return frame.registers.get(base[0] - _REGISTER)


def _variables(entries: Entries, entry: Entry, code: int, depth: int = 0) -> Iterator[Entry]:
    """Yield the variables that are there at an address: those of blocks around it, too."""
    for child in entries.children(entry):
        if child.tag in _VARIABLES:
            yield child
        elif child.tag in _BLOCKS and depth < _DEEPEST and _holds(child, code):
            yield from _variables(entries, child, code, depth + 1)


def _holds(block: Entry, code: int) -> bool:
    low, high = number_of(block, "DW_AT_low_pc"), number_of(block, "DW_AT_high_pc")
    if low is None or high is None:
        return False
    if block.attributes["DW_AT_high_pc"].form != "DW_FORM_addr":
        high += low
    return low <= code < high


def _offset(location: bytes) -> int | None:
    """Return how far a variable is from the base of its frame; None where it is elsewhere."""
    if len(location) < 2 or location[0] != _FROM_FRAME or location[-1] >= 0x80:
        return None
    value = 0
    for i, byte in enumerate(location[1:]):
        if i < len(location) - 2 and byte < 0x80:
            return None
        value |= (byte & 0x7F) << 7 * i
    bits = 7 * (len(location) - 1)
    return value - (1 << bits) if value >> (bits - 1) else value
