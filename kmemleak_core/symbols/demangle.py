"""Turns names as C++ compilers write them into names as programmers do.

With the extra ``symbols`` (itanium_demangler, which is plain Python: names come from untrusted
files); without it, and where a name does not parse, the mangled name stays.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Longer names stay as they are, and so do those with more references back to their own parts: the
#: time that a parser takes, and the text that comes out, can double with each.
_LONGEST, _MOST_REFERENCES = 300, 16
_REFERENCE = re.compile("[ST][0-9A-Z]*_")


@lru_cache(4096)
def demangled(name: str) -> str:
    """Return a name for people; the name itself where it is not mangled, or too intricate."""
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return name
    if len(_REFERENCE.findall(name)) > _MOST_REFERENCES:
        return name
    try:
        import itanium_demangler
    except ImportError:
        return name
    try:
        text = str(itanium_demangler.parse(name) or name)
    except (RecursionError, LookupError, ValueError, TypeError, AttributeError):
        return name
    except (NotImplementedError, AssertionError):
        return name
    return text.replace("_GLOBAL__N_1", "(anonymous namespace)")
