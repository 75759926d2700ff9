"""Turns patterns on names, sizes and addresses into masks and columns over a leak table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .frame_patterns import FramePattern, function_of, module_of
from .leaks import LeakTable
from .provenance import Provenance
from .suppressions import Suppressions


def suppressed_by(
    leaks: LeakTable, provenance: Provenance | None, suppressions: Suppressions
) -> NDArray[np.int64]:
    """Return the index of the first suppression that each leak meets, ``(n,)``; −1 for none."""
    none = len(suppressions.entries)
    found = np.full(len(leaks), none, np.int64)
    if provenance is not None and provenance.trace is not None:
        found = by_trace(provenance, suppressions.of_frames, none)
    if provenance is not None and provenance.kind is not None:
        found = np.minimum(found, by_kind(provenance, suppressions.of_kind, none))
    for index, entry in suppressions.ranges:
        assert entry.span is not None
        values = leaks["size" if entry.what == "size" else "address"]
        meets = (values >= np.uint64(entry.span.low)) & (values <= np.uint64(entry.span.high))
        found[meets & (found > index)] = index
    found[found == none] = -1
    return found


def of_kinds(provenance: Provenance | None, patterns: Iterable[str]) -> NDArray[np.bool_]:
    """Return which leaks are of a kind that one of the patterns matches as a whole.

    Raises
    ------
    UsageError
        Nothing tells what objects are.
    """
    if provenance is None or provenance.kind is None:
        raise UsageError("this dump does not tell what its objects are: there are no types")
    globs = _globs(patterns)
    found = by_kind(provenance, lambda kind: any(g.matches(kind) for g in globs), 0)
    return found.astype(np.bool_)


def of_functions(provenance: Provenance | None, patterns: Iterable[str]) -> NDArray[np.bool_]:
    """Return which leaks have a function in their backtrace that one of the patterns matches.

    Raises
    ------
    UsageError
        There are no backtraces.
    """
    return _of_frames(provenance, patterns, function_of)


def of_modules(provenance: Provenance | None, patterns: Iterable[str]) -> NDArray[np.bool_]:
    """Return which leaks have a module in their backtrace; as `of_functions`."""
    return _of_frames(provenance, patterns, module_of)


def by_trace(
    provenance: Provenance, verdict: Callable[[tuple[str, ...]], int], none: int
) -> NDArray[np.int64]:
    """Return a column with the verdict on each leak's backtrace, `none` where it has none.

    The verdict is asked for once for each distinct backtrace.
    """
    assert provenance.trace is not None
    _, first, inverse = np.unique(provenance.trace, return_index=True, return_inverse=True)
    verdicts = [
        verdict(frames) if (frames := provenance.frames_of(row)) else none for row in first.tolist()
    ]
    return np.array(verdicts, np.int64)[inverse]


def by_kind(provenance: Provenance, verdict: Callable[[str], int], none: int) -> NDArray[np.int64]:
    """Return a column with the verdict on what each leak is, `none` where nothing tells."""
    assert provenance.kind is not None
    _, first, inverse = np.unique(provenance.kind, return_index=True, return_inverse=True)
    verdicts = [
        verdict(kind) if (kind := provenance.kind_of(row)) else none for row in first.tolist()
    ]
    return np.array(verdicts, np.int64)[inverse]


def _of_frames(
    provenance: Provenance | None,
    patterns: Iterable[str],
    name_of: Callable[[str], str | None],
) -> NDArray[np.bool_]:
    if provenance is None or provenance.trace is None:
        raise UsageError("this dump tells no backtraces: there are no functions, no modules")
    globs = _globs(patterns)

    def meets(frames: tuple[str, ...]) -> bool:
        names = {name for frame in frames if (name := name_of(frame))}
        return any(glob.matches(name) for name in names for glob in globs)

    return by_trace(provenance, meets, 0).astype(np.bool_)


def _globs(patterns: Iterable[str]) -> list[FramePattern]:
    if isinstance(patterns, str):
        raise UsageError(f"patterns are a collection of texts, not one text ({patterns!r})")
    return [FramePattern(text, whole=True) for text in patterns]
