"""Turns addresses of C++ virtual tables into names of classes: by symbols, else by RTTI.

Layout: the Itanium C++ ABI, sections 2.5.2 (two words stand before what an object's pointer
points at: how far the object is from the whole one, and its type's ``type_info``) and 2.9.5 (a
``type_info`` has its own virtual table, then the mangled name).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cxx_names import class_name

if TYPE_CHECKING:
    from .context import Context

#: Tables beyond these are not looked at: no program has so many.
_MOST = 1 << 14
#: Bytes of a type's name; templates of templates have long ones.
_LONGEST = 4096
_MANGLED = re.compile(rb"\*?([NSZ0-9][0-9A-Za-z_.$]*)")
#: Names of the classes of type_info objects for classes.
_OF_CLASSES = re.compile(rb"\*?N10__cxxabiv1(17__|20__si_|21__vmi_)class_type_infoE")
_LIBRARIES = ("libstdc++", "libc++")


class VirtualTables:
    """The virtual tables of a process.

    Parameters
    ----------
    context
        The dump.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._names: dict[int, str] = {}
        self._infos: dict[int, bool] = {}

    def classes(self, words: NDArray[np.uint64]) -> tuple[NDArray[np.int32], list[str]]:
        """Find the classes of which objects as a whole begin with certain words.

        Parameters
        ----------
        words
            ``(n,)``; any value.

        Returns
        -------
        code : ndarray of int32, shape (n,)
            Index of a class; −1 where the word is no table's, or nothing tells whose.
        names : list of str
            The classes.
        """
        different, which = np.unique(words, return_inverse=True)
        self._look_up(different)
        tables = np.array(sorted(self._names), np.uint64)
        names = {
            name: i for i, name in enumerate(filter(None, dict.fromkeys(self._names.values())))
        }
        numbers = np.array([names.get(self._names[t], -1) for t in tables.tolist()], np.int32)
        code = np.full(different.size, -1, np.int32)
        if tables.size:
            at = np.minimum(np.searchsorted(tables, different), tables.size - 1)
            code = np.where(tables[at] == different, numbers[at], code)
        return code[which], list(names)

    def _look_up(self, words: NDArray[np.uint64]) -> None:
        context, word = self._context, self._context.word
        tables = words[context.in_files(words) & (words > 2 * word)]
        tables = np.setdiff1d(tables, np.array(list(self._names), np.uint64))
        before = tables - np.uint64(2 * word)
        values, present = context.read(before, 0, word)
        for i in np.flatnonzero(~present.all(axis=0))[:_MOST].tolist():
            held = context.symbols.unchanged(int(before[i]), 2 * word)
            if len(held) == 2 * word:
                values[:, i] = np.frombuffer(held, context.image.word_dtype)
                present[:, i] = True
        distance, info = values
        whole = present.all(axis=0) & (distance == 0) & ((info == 0) | context.in_files(info))
        for i in np.flatnonzero(whole)[: _MOST - len(self._names)].tolist():
            table = int(tables[i])
            self._names[table] = self._by_symbol(table) or self._by_type(int(info[i]))

    def _by_symbol(self, table: int) -> str:
        # Where a class has no virtual functions, only bases, the table ends here.
        name = self._context.symbols.linkage_name(table - self._context.word)
        return class_name(name.removeprefix("_ZTV")) if name.startswith("_ZTV") else ""

    def _by_type(self, info: int) -> str:
        if not info:
            return ""
        own, name = self._type_info(info)
        if own not in self._infos:
            self._infos[own] = self._is_of_classes(own)
        if not self._infos[own]:
            return ""
        found = _MANGLED.fullmatch(self._context.text(name, _LONGEST))
        return "" if found is None else class_name(found[1].decode("ascii"))

    def _is_of_classes(self, table: int) -> bool:
        """Return whether a virtual table is that of type_info objects for classes."""
        word = self._context.word
        held = self._context.bytes_at(table - word, word) if table > word else b""
        if len(held) < word:
            return False
        info = int(np.frombuffer(held, self._context.image.word_dtype)[0])
        name = self._type_info(info)[1]
        text = self._context.text(name, 64)
        if not text:
            # Its file is neither in the dump nor here: it lies where it should at least.
            place = self._context.symbols.place(table)
            return place is not None and place.module.startswith(_LIBRARIES)
        return _OF_CLASSES.fullmatch(text) is not None

    def _type_info(self, info: int) -> tuple[int, int]:
        """Return a type_info's virtual table and where its name is; zeros where it is none."""
        width = 2 * self._context.word
        held = self._context.bytes_at(info, width)
        if len(held) < width:
            return 0, 0
        table, name = np.frombuffer(held, self._context.image.word_dtype).tolist()
        return table, name
