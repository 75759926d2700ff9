"""Turns lines of a console log into what the kernel printed: takes off what loggers put before."""

from __future__ import annotations

import re
from collections.abc import Callable

#: What stands before a kernel's line in a log: levels, times, callers, host names. Several of
#: them can follow each other. Every part is bounded, and takes no more than one space after
#: itself: indentation belongs to the line.
_PARTS = r"""
    <[0-9]{1,4}>                                                 # <4>
  | \[\ {0,12}[0-9]{1,12}\.[0-9]{1,9}                            # [   12.345678]
      (?:\ <\ {0,12}[0-9]{1,12}\.[0-9]{1,9}>)?\]                 #   … dmesg -d
      (?:\ ?\[\ {0,12}[TC][0-9]{1,10}\])?\ ?                     #   … [  T123]
  | \[[A-Z][a-z]{2}\ [A-Z][a-z]{2}\ {1,2}[0-9]{1,2}              # dmesg -T
      \ [0-9]{2}:[0-9]{2}:[0-9]{2}\ [0-9]{4}\]\ ?
  | [0-9]{1,4},[0-9]{1,20},[0-9]{1,20},[^;\s]{1,64};             # /dev/kmsg
  | (?:[A-Z][a-z]{2}\ {1,2}[0-9]{1,2}\ [0-9:]{8}                 # syslog, journalctl
      | [0-9]{4}-[0-9]{2}-[0-9]{2}[T\ ][0-9:]{8}
        (?:[.,][0-9]{1,9})?(?:Z|[+-][0-9:]{4,5})?)
      \ (?:[^\s:]{1,255}\ )?kernel(?:\[[0-9]{1,10}\])?:\ ?
  | [a-z0-9]{1,8}\ {0,8}:[a-z]{1,8}\ {0,8}:\ ?                   # dmesg -x
"""
_PART = re.compile(_PARTS, re.VERBOSE)
#: One for each number of parts that there can be.
_PREFIXES = tuple(re.compile(f"(?:{_PARTS}){{1,{n}}}", re.VERBOSE) for n in range(1, 7))

#: What the kernel itself puts before kmemleak's lines in its log.
KMEMLEAK = "kmemleak: "

_NUMBER = re.compile(r"( *)([0-9]+)")
_LONGEST = 256

#: Returns where the kernel's own text begins in a line, or -1 if the line is of another kind.
Stripper = Callable[[str], int]


def looks_logged(line: str) -> bool:
    """Tell whether a line begins as lines of a kernel's log do."""
    return _PART.match(line) is not None


def stripper(prefix: str) -> Stripper | None:
    """Learn from what stands before one line of a log how to take it off others.

    A known prefix (dmesg, syslog, journalctl, /dev/kmsg) is found in any of its forms. Others,
    such as the ``> `` of a quoted mail or what a build server puts before each line, have to be
    the same but for their numbers.

    Returns
    -------
    Stripper or None
        None where the prefix is too long to be one.
    """
    if len(prefix) > _LONGEST:
        return None
    for known in _PREFIXES:
        # No more parts than here: what looks like one more belongs to the line.
        if known.fullmatch(prefix):
            return _taker(known)
    # Two numbers in a row stay apart by a space: no line can be divided in two ways, so that
    # matching takes linear time.
    pattern, end = "", 0
    for match in _NUMBER.finditer(prefix):
        pattern += re.escape(prefix[end : match.start()])
        joined = end and match.start() == end
        pattern += (" +" if joined else " *") + "[0-9]+"
        end = match.end()
    return _taker(re.compile(pattern + re.escape(prefix[end:])))


def _taker(pattern: re.Pattern[str]) -> Stripper:
    def strip(line: str) -> int:
        found = pattern.match(line)
        return found.end() if found else -1

    return strip
