"""Turns addresses of CPython's type objects into names, flags and sizes.

Offsets are those of ``PyTypeObject`` (Include/cpython/object.h), the same since Python 3.0. A
class's module is found in its dict, whatever the layout of that is: behind the address of the
text ``"__module__"`` stands that of the module's name.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ..errors import FaultError
from ..image import Segment
from .context import Context

_TYPE, _NAME, _SIZE, _FLAGS, _DICT = 8, 24, 32, 168, 264
#: Bits of tp_flags (Include/object.h).
HAVE_GC, PRE_HEADER = np.uint64(1 << 14), np.uint64(1 << 3 | 1 << 4)
LIST, DICT = np.uint64(1 << 25), np.uint64(1 << 29)
_HEAP_TYPE, _READY = np.uint64(1 << 9), np.uint64(1 << 12)
_TEXT, _OF_TYPES = np.uint64(1 << 28), np.uint64(1 << 31)
#: An object's least size, and more than any type's.
_LEAST, _LARGEST = np.uint64(16), np.uint64(1 << 24)
#: Interpreters in one process; types of one.
_MOST_INTERPRETERS, _MOST = 16, 1 << 14
#: Bytes of a name; words of a dict's keys that are looked at.
_LONGEST, _MOST_KEYS = 512, 4096
_KEYS = 32
#: Texts that begin like the one that is sought.
_MOST_TRIED = 4
_MODULE = b"__module__"
#: Where the characters of an ASCII text are: since Python 3.12, and before.
_CHARACTERS = (40, 48)
_IDENTIFIER = re.compile(r"[\w.<>]+")


class PythonTypes:
    """The types of the interpreters in a process.

    Parameters
    ----------
    context
        The dump.
    metatypes
        ``(m,)``: addresses of each interpreter's ``type``.
    """

    def __init__(self, context: Context, metatypes: NDArray[np.uint64]) -> None:
        self._context = context
        self._metatypes = metatypes
        self._names: dict[int, str] = {}

    @classmethod
    def find(cls, context: Context) -> PythonTypes | None:
        """Look for interpreters: for what is its own type, and is called ``type``."""
        found: list[int] = []
        for segment in context.image.segments:
            if segment.writable and segment.kind == "file":
                found += _self_typed(context, segment)
        metatypes = [
            at
            for at in found[:_MOST_INTERPRETERS]
            if context.text(_word(context, at + _NAME), 8) == b"type"
        ]
        return cls(context, np.array(metatypes, np.uint64)) if metatypes else None

    def of(
        self, types: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint64], NDArray[np.uint64]]:
        """Say which words are addresses of types.

        Returns
        -------
        known : ndarray of bool, shape (n,)
            Whether each is one.
        flags, least : ndarray of uint64, shape (n,)
            Its flags, and the bytes that an object of it has at least.
        """
        different, which = np.unique(types, return_inverse=True)
        (meta, size, flags), there = self._context.read(different, _TYPE, _SIZE, _FLAGS)
        good = there.all(axis=0) & (different & np.uint64(7) == 0) & (flags & _READY != 0)
        good &= (size >= _LEAST) & (size < _LARGEST)
        (above, of_meta), there = self._context.read(meta, _TYPE, _FLAGS)
        is_metatype = there.all(axis=0) & (of_meta & _OF_TYPES != 0)
        plain = np.isin(meta, self._metatypes)
        good &= plain | (is_metatype & np.isin(above, self._metatypes))
        # A text of ASCII alone is shorter than what its type says.
        least = np.where(flags & _TEXT != 0, np.uint64(_CHARACTERS[0]), size)
        return good[which], flags[which], least[which]

    def called(self, name: str, types: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return which types have a name."""
        different = np.unique(types).tolist()
        return np.array([type_ for type_ in different if self.name(type_) == name], np.uint64)

    def name(self, type_: int) -> str:
        """Return a type's name, with its module where it has one; empty where it cannot be read."""
        if type_ not in self._names and len(self._names) < _MOST:
            self._names[type_] = self._name(type_)
        return self._names.get(type_, "")

    def _name(self, type_: int) -> str:
        context = self._context
        text = context.text(_word(context, type_ + _NAME), _LONGEST)
        name = text.decode("utf-8", "replace")
        if not _IDENTIFIER.fullmatch(name):
            return ""
        if "." in name or not _word(context, type_ + _FLAGS) & int(_HEAP_TYPE):
            return name
        module = self._module(type_)
        return f"{module}.{name}" if module and module != "builtins" else name

    def _module(self, type_: int) -> str:
        context = self._context
        keys = _word(context, _word(context, type_ + _DICT) + _KEYS)
        try:
            held = context.image.upto(keys, 8 * _MOST_KEYS)
        except FaultError:
            return ""
        words = held[: held.size // 8 * 8].view(context.image.word_dtype).astype(np.uint64)
        (length, *texts), there = context.read(words[:-1], 16, *_CHARACTERS)
        begin = np.frombuffer(_MODULE[:8], context.image.word_dtype)[0]
        for offset, text in zip(_CHARACTERS, texts, strict=True):
            good = there.all(axis=0) & (length == len(_MODULE)) & (text == begin)
            for i in np.flatnonzero(good)[:_MOST_TRIED].tolist():
                if context.bytes_at(int(words[i]) + offset, 11) == _MODULE + b"\0":
                    return self._text(int(words[i + 1]), offset)
        return ""

    def _text(self, address: int, offset: int) -> str:
        """Return a text of ASCII alone, whose characters are behind so many bytes."""
        text = self._context.text(address + offset, _LONGEST).decode("utf-8", "replace")
        fine = len(text) == _word(self._context, address + 16) and _IDENTIFIER.fullmatch(text)
        return text if fine else ""


def _self_typed(context: Context, segment: Segment) -> list[int]:
    """Return where in a segment a word holds the address of the word before it."""
    skipped = -segment.address % 8
    data = segment.data[skipped : skipped + (segment.size - skipped) // 8 * 8]
    words = data.view(context.image.word_dtype)
    found: list[int] = []
    for begin in range(0, words.size, 1 << 16):
        some = words[begin : begin + (1 << 16)]
        first = segment.address + skipped + 8 * begin
        own = np.uint64(first) + np.arange(some.size, dtype=np.uint64) * np.uint64(8)
        at = np.flatnonzero(some == own - np.uint64(_TYPE))
        found += [first + 8 * i - _TYPE for i in at.tolist()]
        if len(found) > 1 << 12:
            break
    return found


def _word(context: Context, address: int) -> int:
    held = context.bytes_at(address, 8) if 0 <= address < 1 << 63 else b""
    return int(np.frombuffer(held, context.image.word_dtype)[0]) if len(held) == 8 else 0
