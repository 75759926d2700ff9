"""Turns a period into scans: the thread that looks for leaks again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .errors import DetectorDisabledError

_log = logging.getLogger("kmemleak_core")

#: Seconds until the very first scan, as in the kernel: the program has to start up first.
FIRST = 60.0


class AutomaticScan:
    """Calls a function again and again in a thread of its own, until it is stopped.

    Parameters
    ----------
    scan
        Called with the event that tells it to end early.
    """

    def __init__(self, scan: Callable[[threading.Event], object]) -> None:
        self.period = 600.0
        self._scan = scan
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, first: float | None = None) -> None:
        """Start the thread, unless it runs or the period is 0.

        Parameters
        ----------
        first
            Seconds until the first scan; None: `FIRST`, or one period when started again.
        """
        with self._starting:
            # A thread that was told to stop may still be busy with that: a new one takes over.
            if self.period == 0 or (self.running and not self._stop.is_set()):
                return
            if first is None:
                first = min(FIRST, self.period) if self._thread is None else self.period
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stop, first), name="kmemleak", daemon=True
            )
            self._thread.start()

    def tell_to_stop(self) -> None:
        """Have the thread end, and a scan of its under way; does not wait."""
        self._stop.set()

    def stop(self) -> None:
        """Have the thread end, and wait for it."""
        self.tell_to_stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, stop: threading.Event, wait: float) -> None:
        _log.info("kmemleak: Automatic memory scanning thread started")
        while not stop.wait(wait):
            try:
                self._scan(stop)
            except DetectorDisabledError:
                break
            except Exception:
                _log.exception("kmemleak: an automatic scan failed")
            wait = self.period
        _log.info("kmemleak: Automatic memory scanning thread ended")
