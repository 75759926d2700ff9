"""Turns two dumps, or reports, into a Difference: scanned one after the other, then compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ..clock import Progress
from ..errors import UsageError
from ..options import AnalyseOptions, RawSource
from ..report.model import Report
from .census import Census
from .difference import Difference, compare
from .matching import Match

#: What can be compared: the path of a dump, a report or a census; a report, its document, a census.
Source: TypeAlias = "str | os.PathLike[str] | RawSource | Report | Mapping[str, Any] | Census"

#: Bytes of a file's beginning that tell what it is.
_HEAD = 4096


def diff(
    old: Source,
    new: Source,
    *,
    match: Match = "auto",
    options: AnalyseOptions | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Difference:
    """Tell what has changed between two dumps of one process, one program or one kernel.

    Two dumps are compared object by object, or group by group; as soon as one of both is a
    report, leaks alone are. Only one dump is open at a time.

    Parameters
    ----------
    old, new
        Each the path of a dump, of a report that ``kmemleak scan --json`` wrote, or of a census
        that ``kmemleak census`` did; a `Report`, or its document; or what `census` returned.
    match
        ``"address"``, ``"signature"`` or, what fits, ``"auto"``: see `diff.compare`.
    options
        How dumps are scanned.
    progress
        Told what begins.
    **asked
        Instead of `options`: its fields, as of `scan`.

    Raises
    ------
    KmemleakError
        As of `analyse`; or a report cannot be read, or there are no addresses to match by.

    Examples
    --------
    >>> km.diff("core.monday", "core.tuesday").groups(5)  # doctest: +SKIP
    """
    options = options or AnalyseOptions.asked(**asked)
    leaks_only = any(_is_report(source) for source in (old, new))
    if match == "address" and leaks_only:
        raise UsageError(
            "a report does not tell where all objects are: they cannot be matched by address",
            hint="--match signature, or two dumps",
        )
    first, second = (
        _census(source, options, progress, leaks_only=leaks_only) for source in (old, new)
    )
    return compare(first, second, match)


def census(
    source: Source,
    *,
    options: AnalyseOptions | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Census:
    """Take down what a dump, or a report, comes to: all that `diff` wants to know of it.

    Parameters
    ----------
    source, options, progress, **asked
        As of `diff`.

    Examples
    --------
    >>> km.census("core").save("monday.census")  # doctest: +SKIP
    """
    options = options or AnalyseOptions.asked(**asked)
    return _census(source, options, progress, leaks_only=_is_report(source))


def _census(
    source: Source, options: AnalyseOptions, progress: Progress | None, *, leaks_only: bool
) -> Census:
    from .report_census import census_of_document, census_of_report, load_report

    if _what(source) == "census":
        from .census_file import load_census

        source = load_census(Path(source))  # type: ignore[arg-type]
    if isinstance(source, Census):
        if leaks_only and source.complete:
            raise UsageError(
                f"{source.identity.path}: the census of a dump is not compared with a report",
                hint="give the dump itself",
            )
        return source
    if isinstance(source, Report):
        return census_of_report(source)
    if isinstance(source, Mapping):
        return census_of_document(source)
    if not isinstance(source, RawSource):
        source = Path(source)
        if _what(source) == "report":
            return load_report(source)
    tell = None
    if progress is not None:
        name = "memory" if isinstance(source, RawSource) else source.name

        def tell(part: str) -> None:
            progress(f"{name}: {part}")

    if leaks_only:
        from ..pipeline import analyse

        taken = census_of_report(analyse(source, options, tell))
        return replace(taken, identity=replace(taken.identity, what="dump"))
    from ..pipeline import find_leaks
    from .take_census import take_census

    # References are wanted; what is only possibly lost is reachable like the rest.
    found = find_leaks(source, replace(options, low_memory=False, possible=False), tell)
    return take_census(found, options.sysroot, options.threads, tell)


def _is_report(source: Source) -> bool:
    if isinstance(source, Census):
        return not source.complete
    return isinstance(source, Report | Mapping) or _what(source) == "report"


def _what(source: Source) -> str:
    """Return what a path is of: ``"report"``, ``"census"`` or ``"dump"``; empty for a value."""
    if isinstance(source, Census | Report | Mapping | RawSource):
        return ""
    from .census_file import is_census
    from .report_census import is_report

    try:
        with open(source, "rb", opener=_without_waiting) as file:
            head = file.read(_HEAD)
    except OSError:
        return "dump"  # whoever opens it as one says what is wrong
    return "report" if is_report(head) else "census" if is_census(head) else "dump"


def _without_waiting(path: str, flags: int) -> int:
    # Without it, opening a pipe that nobody writes to would wait for ever.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
