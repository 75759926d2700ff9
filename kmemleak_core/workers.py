"""Runs tasks that release the interpreter's lock on several threads, results in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def available() -> int:
    """Return how many threads can run at once: the processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not every system has it
        return os.cpu_count() or 1


def run(threads: int, tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run every task and return their results in the tasks' order.

    Parameters
    ----------
    threads
        At most so many at once; 1 runs them here, one after the other.
    tasks
        Called without arguments; the first exception, in the tasks' order, is raised.
    """
    if threads <= 1 or len(tasks) <= 1:
        return [task() for task in tasks]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(threads, len(tasks)), "kmemleak") as pool:
        return list(pool.map(lambda task: task(), tasks))
