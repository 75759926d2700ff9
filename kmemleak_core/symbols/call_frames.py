"""Turns the .eh_frame of a file and an address in its code into where a caller's registers are.

Layouts: DWARF 5, chapter 6.4; the section and its sorted index as in the Linux Standard Base, Core,
chapter 10.6. What a rule needs an expression for, as the stubs of the linker do, is not told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..dumps.elf_headers import Bytes
from .elf_file import ElfFile, Section

#: How a pointer is written: its format (low half) and what it counts from (high half).
_SIZES = {0x00: 0, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}
_SIGNED, _FROM_HERE = 0x08, 0x10
_OMITTED = 0xFF
#: Instructions of one function that are followed, and states that it may remember.
_MOST_STEPS, _MOST_STATES = 4096, 64
#: Functions of one file that are looked at, where it has no index of them.
_MOST_ENTRIES = 1 << 18


class _NotToldError(Exception):
    """The section is damaged, or says what is not followed here."""


@dataclass(slots=True)
class Rules:
    """Where a caller's registers are, at one address of a function.

    Parameters
    ----------
    function
        Where the function begins, as its file counts.
    register, offset
        The canonical frame address: a register's value (−1: not told), and what is added.
    saved
        Register → offset from the canonical frame address, for those that were saved.
    undefined
        Registers whose values are lost.
    return_register
        The one that holds, or stands for, the return address.
    is_signal
        Whether a signal interrupted the caller, which then made no call.
    """

    function: int
    register: int = -1
    offset: int = 0
    saved: dict[int, int] = field(default_factory=dict)
    undefined: set[int] = field(default_factory=set)
    return_register: int = 16
    is_signal: bool = False

    def save(self, register: int, offset: int) -> None:
        """Note where a register was saved."""
        self.saved[register] = offset
        self.undefined.discard(register)

    def restore(self, register: int, initial: dict[int, int] | None) -> None:
        """Note that a register is as it was when the function began, or as its caller has it."""
        self.saved.pop(register, None)
        self.undefined.discard(register)
        if initial is not None and register in initial:
            self.saved[register] = initial[register]

    def tells(self, register: int) -> bool:
        """Whether something is said of a register; others are as the caller has them."""
        return register in self.saved or register in self.undefined

    def lose(self, register: int) -> None:
        """Note that it is not known where a register is."""
        self.saved.pop(register, None)
        self.undefined.add(register)


class CallFrames:
    """The call frame information of one file.

    Parameters
    ----------
    file
        The program or library.
    """

    def __init__(self, file: ElfFile) -> None:
        self._file = file

    @cached_property
    def _frames(self) -> Section | None:
        return self._section(".eh_frame")

    def _section(self, name: str) -> Section | None:
        found = (s for s in self._file.sections if s.name == name and s.type != 8)
        return next(found, None)

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where functions begin, rising, and the addresses of their entries."""
        section = self._section(".eh_frame_hdr")
        if section is None:
            return self._walked()
        data = _content(self._file.data, section)
        # Linkers write but this: counted from the index itself, in 4 bytes.
        if data.size < 12 or data[:4].tolist()[2:] != [0x03, 0x3B] or not _SIZES.get(data[1] & 15):
            return self._walked()
        at = 4 + _SIZES[int(data[1]) & 15]
        order = self._file.header.order
        count = int(data[at : at + 4].copy().view(order + "u4")[0])
        table = data[at + 4 :]
        table = table[: min(count, table.size // 8) * 8].copy().view(order + "i4")
        rows = table.astype(np.int64).reshape(-1, 2) + section.address
        return rows[:, 0], rows[:, 1]

    def _walked(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the index of a file that has none, as static programs: from all entries."""
        section, found = self._frames, []
        if section is not None:
            reader = _Reader(_content(self._file.data, section), section.address, self._file)
            found = sorted(reader.functions())
        rows = np.array(found, np.int64).reshape(-1, 2)
        return rows[:, 0], rows[:, 1] + (0 if section is None else section.address)

    def rules(self, address: int) -> Rules | None:
        """Return where a caller's registers are at an address of the file's own; None: unknown."""
        begins, entries = self._index
        section = self._frames
        i = int(np.searchsorted(begins, address, side="right")) - 1
        if i < 0 or section is None:
            return None
        data = _content(self._file.data, section)
        try:
            return _Reader(data, section.address, self._file).rules(
                int(entries[i]) - section.address, address
            )
        except (_NotToldError, IndexError):
            return None


@dataclass(frozen=True, slots=True)
class _Common:
    """What the entries of several functions share; `part`: its instructions."""

    letters: str
    units: tuple[int, int]
    register: int
    encoding: int
    part: tuple[int, int]


class _Reader:
    """Reads one entry of the section."""

    def __init__(self, data: Bytes, base: int, file: ElfFile) -> None:
        self.data = data
        self.base = base
        self.order = "little" if file.header.order == "<" else "big"
        self.word = file.header.word_size
        self.at = 0
        self.end = 0
        self._shared: dict[int, _Common] = {}

    def functions(self) -> Iterator[tuple[int, int]]:
        """Yield where each function begins, and its entry; up to where the section is damaged."""
        at = 0
        try:
            for _ in range(_MOST_ENTRIES):
                end, common = self._begin(at)
                if common:
                    body = self.at
                    encoding = self._common(body - 4 - common).encoding
                    self.at, self.end = body, end
                    yield self._pointer(encoding), at
                at = end
        except _NotToldError:
            return

    def rules(self, entry: int, address: int) -> Rules | None:
        """Follow the entry of a function up to an address."""
        end, common = self._begin(entry)
        if common == 0:
            raise _NotToldError
        body = self.at
        shared = self._common(body - 4 - common)
        self.at, self.end = body, end
        begin = self._pointer(shared.encoding)
        if not begin <= address < begin + self._pointer(shared.encoding & 0x0F):
            return None
        if shared.letters:
            length = self._unsigned()
            self.at += length
        own = self.at, end
        signal = "S" in shared.letters
        rules = Rules(begin, return_register=shared.register, is_signal=signal)
        self._follow(shared.part, rules, shared.units, address, None)
        self._follow(own, rules, shared.units, address, dict(rules.saved))
        return rules

    def _common(self, entry: int) -> _Common:
        """Read what several functions share."""
        if entry not in self._shared:
            end, kind = self._begin(entry)
            version = self._byte()
            letters = self._text()
            if kind != 0 or version not in (1, 3) or (letters and letters[0] != "z"):
                raise _NotToldError
            units = self._unsigned(), self._signed()
            register = self._byte() if version == 1 else self._unsigned()
            encoding = self._augmented(letters)
            self._shared[entry] = _Common(letters, units, register, encoding, (self.at, end))
        return self._shared[entry]

    def _begin(self, entry: int) -> tuple[int, int]:
        """Stand behind the head of an entry; return its end, and its second word."""
        if not 0 <= entry < self.data.size:
            raise _NotToldError
        self.at, self.end = entry, self.data.size
        length = self._number(4)
        end = self.at + length
        if not 4 <= length < 0xFFFFFFF0 or end > self.data.size:
            raise _NotToldError
        self.end = end
        return end, self._number(4)

    def _augmented(self, letters: str) -> int:
        """Skip what a compiler added; return how pointers to code are written."""
        encoding = 0
        if not letters:
            return encoding
        length = self._unsigned()
        end = self.at + length
        for letter in letters[1:]:
            if letter == "R":
                encoding = self._byte()
            elif letter == "L":
                self._byte()
            elif letter == "P":
                self._pointer(self._byte())
            elif letter not in "SB":
                break
        self.at = end
        return encoding

    def _follow(
        self,
        part: tuple[int, int],
        rules: Rules,
        units: tuple[int, int],
        address: int,
        initial: dict[int, int] | None,
    ) -> None:
        """Follow instructions as long as they are of what comes up to an address.

        Parameters
        ----------
        part
            Where they begin and end.
        rules
            What is changed.
        units
            Of places in code, and of offsets.
        address
            The address.
        initial
            What was saved as the function began; None while that is what is followed.
        """
        self.at, self.end = part
        code, data = units
        place = rules.function
        states: list[tuple[int, int, dict[int, int], set[int]]] = []
        for _ in range(_MOST_STEPS):
            if self.at >= self.end:
                return
            op = self._byte()
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40 or op in (0x01, 0x02, 0x03, 0x04):
                if op == 0x01:
                    place = self._number(self.word)
                else:
                    place += (low if high else self._number(1 << (op - 2))) * code
                if place > address:
                    return
            elif high == 0x80:
                rules.save(low, self._unsigned() * data)
            elif high == 0xC0:
                rules.restore(low, initial)
            elif op == 0x0A:
                if len(states) >= _MOST_STATES:
                    raise _NotToldError
                saved, undefined = dict(rules.saved), set(rules.undefined)
                states.append((rules.register, rules.offset, saved, undefined))
            elif op == 0x0B:
                if not states:
                    raise _NotToldError
                rules.register, rules.offset, rules.saved, rules.undefined = states.pop()
            elif op in (0x0C, 0x0D, 0x0E, 0x0F, 0x12, 0x13):
                self._frame_address(op, rules, data)
            else:
                self._register(op, rules, data, initial)
        raise _NotToldError

    def _frame_address(self, op: int, rules: Rules, data: int) -> None:
        if op == 0x0F:
            self.at += self._unsigned()
            rules.register = -1
            return
        if op in (0x0C, 0x0D, 0x12):
            rules.register = self._unsigned()
        if op in (0x0C, 0x0E):
            rules.offset = self._unsigned()
        elif op != 0x0D:
            rules.offset = self._signed() * data

    def _register(self, op: int, rules: Rules, data: int, initial: dict[int, int] | None) -> None:
        if op in (0x00, 0x2D):  # 2D: the return address is signed, in bits that are no address
            return
        register = self._unsigned()
        if op == 0x05:
            rules.save(register, self._unsigned() * data)
        elif op == 0x11:
            rules.save(register, self._signed() * data)
        elif op in (0x06, 0x08):
            rules.restore(register, initial if op == 0x06 else None)
        elif op in (0x10, 0x16):
            length = self._unsigned()
            self.at += length
            rules.lose(register)
        elif op in (0x09, 0x14, 0x15):
            self._unsigned()
            rules.lose(register)
        elif op == 0x07:
            rules.lose(register)
        elif op != 0x2E:  # the size of arguments
            raise _NotToldError

    def _pointer(self, encoding: int) -> int:
        if encoding == _OMITTED:
            return 0
        size = _SIZES.get(encoding & 0x0F)
        here = self.base + self.at
        if size is None or encoding & 0x70 not in (0, _FROM_HERE):
            raise _NotToldError
        value = self._number(size or self.word, signed=bool(encoding & _SIGNED))
        return value + here if encoding & 0x70 else value

    def _byte(self) -> int:
        return self._number(1)

    def _number(self, size: int, *, signed: bool = False) -> int:
        if self.at + size > self.end:
            raise _NotToldError
        raw = self.data[self.at : self.at + size].tobytes()
        self.at += size
        return int.from_bytes(raw, self.order, signed=signed)  # type: ignore[arg-type]

    def _unsigned(self) -> int:
        value, _ = self._leb()
        return value

    def _signed(self) -> int:
        value, bits = self._leb()
        return value - (1 << bits) if value >> (bits - 1) else value

    def _leb(self) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, shift + 7
        raise _NotToldError

    def _text(self) -> str:
        text = self.data[self.at : min(self.end, self.at + 16)].tobytes().split(b"\0", 1)
        if len(text) < 2:
            raise _NotToldError
        self.at += len(text[0]) + 1
        return text[0].decode("latin-1")


def _content(data: Bytes, section: Section) -> Bytes:
    return data[section.offset : section.offset + section.size]
