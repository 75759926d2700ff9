"""Turns referring words into what a person calls the place: symbol, section, frame, register.

What looks like a leftover is marked, never left out: a register that a call may have overwritten,
a word below a stack pointer, memory that was freed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..dump import Thread
from ..graph import Referrer
from ..pipeline import Found
from ..shapes import classify, shape_text
from ..symbols import Symbol
from ..symbols.process import ProcessSymbols
from .stack_frames import frame_address

#: Registers that a called function may overwrite (System V ABI, AAPCS64): while a thread waits in
#: a system call they are seldom of use any more.
_SCRATCH = {
    "x86_64": frozenset(["rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "orig_rax"]),
    "aarch64": frozenset(f"x{n}" for n in range(19)),
}
_VECTORS = ("xmm", "ymm", "zmm", "st", "mm", "v", "q")
_PROGRAM_COUNTER = {"x86_64": "rip", "aarch64": "pc", "i386": "eip", "arm": "pc"}

#: Why what holds an object may be a leftover, by the kind of its place.
_STALE = {
    "old-stacks": "below the stack pointer: left over by calls that returned",
    "dead-stack": "below the stack pointer, or of a thread that ended: not counted",
    "left-out": "on a stack, which was left out of the roots: not counted",
    "freed": "freed, or the allocator's own: not counted",
    "allocator": "in the allocator's own structures: not counted",
    "unused": "in memory that is no root: not counted",
}


@dataclass(frozen=True, slots=True)
class Holder:
    """One word that refers to an object, for people.

    Parameters
    ----------
    word
        The word.
    text
        ``"cache_head in .data of libfoo.so+0x4040"``, ``"register r12 of thread 2"``.
    symbol
        The variable that it is part of, or on a stack at least the function; empty if unknown.
    stale
        Why it may be a leftover; empty where nothing says so.
    frame
        On a stack: the function.
    """

    word: Referrer
    text: str
    symbol: str = ""
    stale: str = ""
    frame: str = ""


class Names:
    """What places of a dump are called.

    Parameters
    ----------
    found
        The dump, scanned.
    symbols
        Of a process; a kernel's come with `found`.
    redact
        Whether to say nothing of what memory holds.
    """

    def __init__(
        self, found: Found, symbols: ProcessSymbols | None = None, *, redact: bool = False
    ) -> None:
        self.found = found
        self.process = symbols
        self.redact = redact
        if symbols is None and found.symbols is None:
            self.process = ProcessSymbols(found.dump)

    def symbol(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in."""
        if self.found.symbols is not None:
            return self.found.symbols.find(address)
        return None if self.process is None else self.process.find(address)

    def code(self, address: int) -> str:
        """Write an address in code: ``"main+0x3c (prog)"``."""
        if self.found.symbols is not None:
            symbol = self.found.symbols.find(address)
            return hex(address) if symbol is None else _with_offset(symbol, address)
        return hex(address) if self.process is None else self.process.text(address)

    def what(self, row: int) -> str:
        """Write what an object is: its kind where something tells, else its shape."""
        result, provenance = self.found.result, self.found.heap.provenance
        if self.found.types is not None:
            provenance = self.found.types.all
        kind = "" if provenance is None else provenance.kind_of(row)
        if kind or self.redact:
            return kind
        address, size = (c[row : row + 1] for c in (result.objects.address, result.objects.size))
        codes = classify(result.image, result.objects, address, size)
        return shape_text(bytes(codes[0]), int(size[0]), result.image.word_size)

    def holder(self, word: Referrer) -> Holder:
        """Describe the place of one referring word."""
        stale = _STALE.get(word.kind, "")
        if word.place is None:
            return self._register(word)
        if word.kind == "object":
            return self._in_object(word)
        if word.kind in ("stacks", "old-stacks", "dead-stack", "left-out"):
            return self._on_stack(word, stale)
        if word.kind == "readonly":
            stale = "in memory that the program could not write to"
        thread = self._thread_of(word) if word.kind == "tls" else None
        if thread is not None and self.process is not None:
            name = self.process.thread_local(thread, word.place)
            if name:
                return Holder(word, f"{name} in TLS of thread {thread.tid}", name)
        return self._in_data(word, stale)

    def _in_data(self, word: Referrer, stale: str) -> Holder:
        assert word.place is not None
        if self.process is not None:
            named = self.process.variable(word.place)
        else:
            symbol = self.symbol(word.place)
            named = "" if symbol is None else _with_offset(symbol, word.place)
        where = word.name
        if self.process is not None and word.kind not in ("tls", "freed", "allocator"):
            place = self.process.place(word.place)
            where = where if place is None else place.text
        elif self.process is not None:
            where = f"{word.name} at {word.place:#x}" if word.kind != "tls" else word.name
        return Holder(word, f"{named} in {where}" if named else where, named, stale)

    def _in_object(self, word: Referrer) -> Holder:
        assert word.place is not None
        assert word.holder is not None
        row = self.found.result.objects.find(word.holder)
        kind = "" if row is None else self.what(row)
        offset = f"{word.place - word.holder:#x}"
        if row is not None and self._is_image(row):
            text = f"{kind}+{offset}"
        else:
            text = f"object {word.holder:#x}+{offset}" + (f" [{kind}]" if kind else "")
        # The kernel's own variables are objects of its kmemleak, too.
        symbol = None if self.found.symbols is None else self.found.symbols.find(word.place)
        named = "" if symbol is None else _with_offset(symbol, word.place)
        return Holder(word, f"{named} in {text}" if named else text, named)

    def _is_image(self, row: int) -> bool:
        """Whether an object is the memory of variables."""
        provenance = self.found.heap.provenance
        if provenance is None or provenance.kind is None:
            return False
        return int(provenance.kind[row]) in provenance.images

    def _register(self, word: Referrer) -> Holder:
        name = word.name.split(" ", 1)[0].split("[", 1)[0]
        scratch = name in _SCRATCH.get(self.found.dump.architecture, ())
        scratch |= name.startswith(_VECTORS) and self.found.symbols is None
        stale = "a register that any call may overwrite: it may be left over" if scratch else ""
        return Holder(word, f"register {word.name}", "", stale)

    def _on_stack(self, word: Referrer, stale: str) -> Holder:
        assert word.place is not None
        thread = self._thread_of(word)
        if self.found.symbols is not None:
            root = self.found.roots.find(word.place)
            low = root.address if root is not None and word.kind == "stacks" else word.place
        else:
            low = word.place if thread is None else thread.stack_pointer
        name = word.name.split("+", 1)[0]
        distance = word.place - low
        if thread is not None and word.kind == "stacks" and distance < 0:
            stale = "in the red zone below the stack pointer"
        sign = "-" if distance < 0 else "+"
        details = [f"sp{sign}{abs(distance):#x}"] if low != word.place else []
        function, variable = "", ""
        if distance >= 0 and not stale:
            function, variable = self._frame(word.place, low, thread)
        named = f"{variable} in " if variable else ""
        details += [f"{named}frame of {function}"] if function else []
        text = f"{name} ({', '.join(details)})" if details else f"{name} at {word.place:#x}"
        return Holder(word, text, variable or function, stale, function)

    def _frame(self, place: int, low: int, thread: Thread | None) -> tuple[str, str]:
        """Return the function that a place on a stack belongs to, and its variable there."""
        dump, kernel, process = self.found.dump, self.found.symbols, self.process
        frame = None if process is None or thread is None else process.frame(thread, place)
        if process is not None and frame is not None:
            return process.text(frame.code), process.local(frame, place)

        def is_kernel_code(address: int) -> bool:
            symbol = None if kernel is None else kernel.find(address)
            return symbol is not None and symbol.kind in "tTwW" and address != symbol.address

        def no_code(address: int, size: int) -> bytes:
            return b""

        at = frame_address(
            dump.image,
            place,
            low,
            is_code=is_kernel_code if process is None else process.is_code,
            code=no_code if process is None else process.code,
            architecture=dump.architecture,
        )
        if at is not None:
            # Behind a call that never returns begins the next function.
            return self.code(at - 1), ""
        counter = _PROGRAM_COUNTER.get(dump.architecture, "")
        at = 0 if thread is None else thread.registers.get(counter, 0)
        return self.code(at) if at else "", ""

    def _thread_of(self, word: Referrer) -> Thread | None:
        return self._threads.get(word.name.split("+", 1)[0])

    @cached_property
    def _threads(self) -> dict[str, Thread]:
        """Threads by the names of their stacks and TLS."""
        return {
            f"{what} of thread {thread.tid}": thread
            for thread in reversed(self.found.dump.threads)
            for what in ("stack", "TLS")
            if self.found.symbols is None
        }

    def contents(self, row: int, most: int = 512) -> list[tuple[int, str]]:
        """Return the words of an object that are addresses of symbols: offsets, and names."""
        result = self.found.result
        address, size = int(result.objects.address[row]), int(result.objects.size[row])
        width = result.image.word_size
        content = result.image.upto(address, min(size, most * width)) if size else None
        if content is None:
            return []
        words = content[: content.size // width * width].view(result.image.word_dtype)
        told = []
        for i in np.flatnonzero(words > 4095).tolist():
            symbol = self.symbol(int(words[i]))
            if symbol is not None:
                told.append((i * width, _with_offset(symbol, int(words[i]))))
        return told


def _with_offset(symbol: Symbol, address: int) -> str:
    offset = address - symbol.address
    module = f" [{symbol.module}]" if symbol.module and symbol.kind in "tTwW" else ""
    return f"{symbol.name}+{offset:#x}{module}" if offset else f"{symbol.name}{module}"
