"""Turns leaks into test failures: pytest's fixtures ``kmemleak`` and ``kmemleak_detector``."""

# Every run of pytest imports this file where the package is installed: it lies outside of it, as
# the package brings numpy along, and imports it for the tests that ask for a fixture.

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kmemleak_core import Kmemleak


@pytest.fixture
def kmemleak_detector() -> Kmemleak:
    """Return the detector that ``kmemleak`` watches; override it to give your own.

    This one reads the memory of this process and knows no roots: `add_root` them, or a callback.
    """
    from kmemleak_core import Kmemleak, ProcessMemory

    return Kmemleak(ProcessMemory(), min_age=0.0)


@pytest.fixture
def kmemleak(kmemleak_detector: Kmemleak) -> Iterator[Kmemleak]:
    """Clear before the test, scan after it; leaks fail it, and the failure shows the report."""
    from kmemleak_core.testing import LeaksFound, find_leaks, forget_leaks

    forget_leaks(kmemleak_detector)
    yield kmemleak_detector
    leaks = find_leaks(kmemleak_detector)
    if leaks:
        pytest.fail(str(LeaksFound(leaks, kmemleak_detector.read())), pytrace=False)
