"""Turns calls that come before tracking starts into the same calls at its start, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class EarlyLog:
    """Calls that are kept until they are replayed.

    The lock is for callers on several threads: no call may get lost between the replay and the
    end of the log, and none be made before those that were kept. It is re-entrant because the
    replayed calls ask the log, too.

    Parameters
    ----------
    room
        So many calls are kept, further ones are only counted.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.lost = 0
        self._open = True
        self._lock = threading.RLock()

    def keep(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
        """Keep a call; False if it is to be made now, which is after all that were kept."""
        with self._lock:
            if self._open and len(self.kept) < self.room:
                self.kept.append((call, arguments, keywords))
            elif self._open:
                self.lost += 1
            return self._open

    @property
    def open(self) -> bool:
        """Whether calls are kept; waits for the end of a replay by another thread."""
        with self._lock:
            return self._open

    def replay(self) -> int:
        """Make the calls that were kept, unless some are missing; return how many are.

        A second replay does nothing.
        """
        with self._lock:
            self._open = False
            kept, self.kept = self.kept, []
            if not self.lost:
                for call, arguments, keywords in kept:
                    call(*arguments, **keywords)
            return self.lost
