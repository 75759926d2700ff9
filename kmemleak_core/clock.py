"""Times the parts of an analysis, and tells of each as it begins."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Called as each part begins, with what is being done.
Progress = Callable[[str], None]


class Clock:
    """Times the parts of an analysis and tells of each as it begins."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._part = ""
        self._began = 0.0

    def __call__(self, part: str) -> Clock:
        """Name the part that is entered next."""
        self._part = part
        return self

    def __enter__(self) -> None:
        self._progress(self._part)
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[f"{self._part}_seconds"] = time.perf_counter() - self._began
