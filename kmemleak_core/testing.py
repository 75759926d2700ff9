"""Turns a stretch of a test into a verdict: nothing leaked, or an error that shows the leaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import DetectorDisabledError

if TYPE_CHECKING:
    from .detector import Kmemleak
    from .lifecycle import ObjectView


class LeaksFound(AssertionError):  # noqa: N818 - it reads as what a test found
    """Objects were leaked.

    Parameters
    ----------
    leaks
        The objects.
    report
        The report, as the kernel's file would show it.
    """

    def __init__(self, leaks: list[ObjectView], report: str) -> None:
        nbytes = sum(leak.size for leak in leaks)
        objects = "1 object" if len(leaks) == 1 else f"{len(leaks):,} objects"
        super().__init__(f"{objects} leaked, {nbytes:,} bytes\n{report.rstrip()}")
        self.leaks = leaks
        self.report = report


def forget_leaks(detector: Kmemleak) -> None:
    """Grey what is unreferenced by now, so that only later leaks count.

    Raises
    ------
    DetectorDisabledError
        The detector is disabled, and would find nothing.
    """
    # One that has not been seen before, or has changed, passes for referenced that time.
    for _ in range(1 + bool(detector.checksums)):
        detector.scan()
    detector.clear_all()


def find_leaks(detector: Kmemleak) -> list[ObjectView]:
    """Wait until all objects are old enough, then scan as often as a report needs.

    A detector with checksums believes an object only when it has seen it twice without
    references and unchanged, and one with `min_unref_scans` when it has so often.

    Raises
    ------
    DetectorDisabledError
        The detector is disabled, and would find nothing.
    """
    if detector.min_age and len(detector):
        # Ages count in ticks of 4 ms: both ends may be cut.
        time.sleep(detector.min_age + 0.01)
    for _ in range(detector.min_unref_scans + bool(detector.checksums)):
        if detector.scan().interrupted:
            raise DetectorDisabledError(f"the detector is disabled: {detector.disable_reason}")
    return detector.unreferenced()


@contextmanager
def expect_no_leaks(detector: Kmemleak, *, layout: str = "6.8") -> Iterator[Kmemleak]:
    """Raise if what the block allocates is still tracked but referenced by nobody at its end.

    What is unreferenced before the block is forgiven (`Kmemleak.clear_all`); an object that gets
    lost within it counts, whenever it was allocated. If the block itself raises, nothing is
    scanned.

    Parameters
    ----------
    detector
        Who is told of the objects; waits for its `min_age` once.
    layout
        The report's: a release of Linux.

    Raises
    ------
    LeaksFound
        With the report for a message.
    DetectorDisabledError
        The detector is disabled, and would find nothing.

    Examples
    --------
    >>> from kmemleak_core import Kmemleak, MemoryImage
    >>> memory = MemoryImage.from_segments([(0x1000, bytearray(4096))])
    >>> detector = Kmemleak(memory, min_age=0)
    >>> with expect_no_leaks(detector):
    ...     detector.alloc(0x1100, 64)
    ...     detector.free(0x1100)
    """
    forget_leaks(detector)
    yield detector
    leaks = find_leaks(detector)
    if leaks:
        raise LeaksFound(leaks, detector.read(layout))
