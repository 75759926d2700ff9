"""Turns the mangled name of a C++ class into the name that a programmer knows it by.

Template arguments that are the usual ones are left out, as in the source. Without the extra
``symbols`` plain names are read here, and others stay mangled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..symbols.demangle import demangled

#: Characters of a name, and of a mangled one that is looked into; hostile ones are longer.
_LONGEST, _LONGEST_MANGLED = 240, 300
#: Templates whose instances are usual last arguments.
_USUAL = (
    "std::allocator<",
    "std::char_traits<",
    "std::default_delete<",
    "std::equal_to<",
    "std::hash<",
    "std::less<",
    "(__gnu_cxx::_Lock_policy)",
)
#: A class within a function: the function's encoding, and the class's name.
_LOCAL = re.compile(r"Z(.+?)E(\d+)([A-Za-z_]\w*?)(?:_\d*)?$")
_COUNTS = re.compile(r"std::_Sp_counted_(ptr_inplace|ptr|deleter)<(.*)>$")


def class_name(mangled: str) -> str:
    """Return the name of a class for people.

    Parameters
    ----------
    mangled
        As it follows ``_ZTV``, ``_ZTI`` or stands in a type's own name.

    Examples
    --------
    >>> class_name("N3app5CacheE")
    'app::Cache'
    """
    name = mangled
    if len(mangled) <= _LONGEST_MANGLED:
        name = _readable(_plain(mangled) or _demangled(mangled) or mangled)
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _demangled(mangled: str) -> str:
    told = demangled("_ZTI" + mangled)
    if told.startswith("typeinfo for "):
        return told.removeprefix("typeinfo for ")
    local = _LOCAL.match(mangled)
    if local is not None and int(local[2][:4]) == len(local[3]):
        return f"{demangled('_Z' + local[1])}::{local[3]}"
    return ""


def _plain(mangled: str) -> str:
    """Read a name without template arguments; empty where it is another."""
    nested = mangled.startswith("N") and mangled.endswith("E")
    text = mangled[1:-1] if nested else mangled
    parts = []
    while text:
        digits = re.match(r"\d{1,4}", text)
        if digits is None:
            return ""
        end = digits.end() + int(digits[0])
        if end > len(text):
            return ""
        parts.append(text[digits.end() : end])
        text = text[end:]
    return "::".join(parts) if parts and (nested or len(parts) == 1) else ""


def _readable(name: str) -> str:
    name = name.replace("std::__cxx11::", "std::").replace("_GLOBAL__N_1", "(anonymous)")
    name = _without_usual(name)
    name = name.replace("std::basic_string<char>", "std::string")
    counts = _COUNTS.match(name)
    if counts is None:
        return name
    what = next(_arguments(counts[2])).removesuffix("*")
    if counts[1] == "ptr_inplace":
        return f"std::make_shared<{what}>"
    return f"std::shared_ptr<{what}> count"


def _without_usual(name: str) -> str:
    """Leave out template arguments that are the usual ones, at any depth."""
    begin = name.find("<")
    if begin < 0:
        return name
    end = _closing(name, begin)
    if end < 0:
        return name
    kept = [
        _without_usual(one)
        for i, one in enumerate(_arguments(name[begin + 1 : end]))
        if not i or not one.startswith(_USUAL)
    ]
    return f"{name[:begin]}<{', '.join(kept)}>{_without_usual(name[end + 1 :])}"


def _arguments(text: str) -> Iterator[str]:
    depth = begin = 0
    for i, c in enumerate(text):
        depth += (c in "<(") - (c in ">)")
        if c == "," and depth == 0:
            yield text[begin:i].strip()
            begin = i + 1
    yield text[begin:].strip()


def _closing(name: str, begin: int) -> int:
    depth = 0
    for i in range(begin, len(name)):
        depth += (name[i] == "<") - (name[i] == ">")
        if depth == 0:
            return i
    return -1
