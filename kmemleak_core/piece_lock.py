"""Turns two kinds of visitors to memory into an order: a free goes before a scan's next piece."""

from __future__ import annotations

import threading


class PieceLock:
    """A lock that a scan takes piece by piece, and that it never takes from a waiting `free`.

    A plain lock is not enough: the scan that releases it is running, and has it again before the
    waiting thread wakes up. Here a scan's next piece begins when nobody waits. Used as a context
    manager it is taken for a `free`; through `scanning` for a piece.

    Both locks are re-entrant: the thread that reads a piece may itself come to a `free`, in a
    callback or in a finaliser that the garbage collector runs there, and cannot wait for itself.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._turn = threading.Condition(threading.RLock())
        self._waiting = 0
        #: ``acquire(False)`` is the cheap way in; where it fails, `wait` is the other one.
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self.scanning = _Scanning(self)

    def wait(self) -> None:
        """Take the lock after the piece that is being read."""
        with self._turn:
            self._waiting += 1
        try:
            self._lock.acquire()
        finally:
            with self._turn:
                self._waiting -= 1
                self._turn.notify_all()

    def wait_for_turn(self) -> None:
        """Take the lock for the next piece, after all that wait to free."""
        with self._turn:
            while self._waiting:
                self._turn.wait()
        self._lock.acquire()

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            self.wait()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Scanning:
    """The scan's side of a `PieceLock`, as a context manager."""

    def __init__(self, lock: PieceLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.wait_for_turn()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
