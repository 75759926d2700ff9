"""Turns a thread's registers into the frames of its stack: who called whom, and from where.

This follows what compilers wrote down for exceptions (`call_frames`), so that each frame is
certain; it ends where nothing is written down, and what lies beyond is left to `stack_frames`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..dump import Thread
from .call_frames import Rules

#: Frames of one thread that are followed.
_MOST_FRAMES = 10_000
_FIRST_X86 = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp")
#: DWARF's numbers of registers (System V ABI for x86-64, table 3.36; DWARF for the Arm 64-bit
#: architecture, table 4), those that calls leave as they are, stack pointer, program counter.
_NUMBERS: dict[str, tuple[dict[str, int], frozenset[int], int, str]] = {
    "x86_64": (
        {
            **dict(zip(_FIRST_X86, range(8), strict=True)),
            **{f"r{n}": n for n in range(8, 16)},
        },
        frozenset((3, 6, 12, 13, 14, 15)),
        7,
        "rip",
    ),
    "aarch64": (
        {**{f"x{n}": n for n in range(31)}, "sp": 31},
        frozenset(range(19, 30)),
        31,
        "pc",
    ),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack.

    Parameters
    ----------
    code
        An address in the function, within the instruction that the frame is at.
    low, high
        The bytes of the stack that are the frame's: from its stack pointer up to the canonical
        frame address.
    function
        Where the function, or the part of it that the frame is in, begins.
    registers
        DWARF's number → value, as far as they are known.
    """

    code: int
    low: int
    high: int
    function: int
    registers: Mapping[int, int]


def frames(
    thread: Thread,
    architecture: str,
    rules_at: Callable[[int], tuple[int, Rules] | None],
    word_at: Callable[[int], int | None],
) -> Iterator[Frame]:
    """Yield the frames of a thread, the innermost first, as far as they are certain.

    Parameters
    ----------
    thread
        Its registers.
    architecture
        As of a `Dump`; of another than x86-64 and AArch64 nothing is known.
    rules_at
        Where the caller's registers are, at an address; with how far its file was moved.
    word_at
        The word at an address; None where the dump has none.
    """
    if architecture not in _NUMBERS:
        return
    numbers, kept, stack, counter = _NUMBERS[architecture]
    registers = {n: thread.registers[r] for r, n in numbers.items() if r in thread.registers}
    registers[stack] = thread.stack_pointer
    code = thread.registers.get(counter, 0)
    # A return address can be that of the next function: the call is right before it.
    back = 0
    for _ in range(_MOST_FRAMES):
        found = rules_at(code - back)
        if found is None or found[1].register not in registers:
            return
        bias, rules = found
        frame = (registers[rules.register] + rules.offset) & ((1 << 64) - 1)
        if not registers[stack] <= frame:
            return
        yield Frame(code - back, registers[stack], frame, rules.function + bias, registers)
        words = {register: word_at(frame + at) for register, at in rules.saved.items()}
        before = {r: v for r, v in registers.items() if r in kept and r not in rules.undefined}
        before |= {register: value for register, value in words.items() if value is not None}
        # It may still be in its register, but only while nothing else was called.
        following = before.pop(rules.return_register, None)
        if not rules.tells(rules.return_register):
            following = registers.get(rules.return_register)
        if not following:
            return
        code, back = following & ((1 << 48) - 1), 0 if rules.is_signal else 1
        registers = {**before, stack: frame}
