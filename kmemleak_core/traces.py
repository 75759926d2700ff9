"""Stores who allocated what, once for each distinct backtrace."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType

#: Names an address; None where it cannot.
Resolver = Callable[[int], "str | None"]

#: Frames that the kernel keeps.
DEPTH = 16

Frame = int | tuple[CodeType, int] | str


@dataclass(frozen=True, slots=True)
class Trace:
    """Who allocated: a task and the way there.

    Parameters
    ----------
    pid
        Process id.
    comm
        The task's name.
    frames
        Innermost first: native addresses, Python code with a line number, or plain text.
    """

    pid: int
    comm: str
    frames: tuple[Frame, ...] = ()


class TraceStore:
    """Distinct traces, each known by a small number; 0 is "this task, no backtrace"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        here = Trace(os.getpid(), _task_name())
        self._traces = [here]
        self._ids = {here: 0}
        # By identities of code objects, which are kept: an identity is not used again.
        self._captured: dict[tuple[int, ...], tuple[int, list[CodeType]]] = {}

    def add(
        self, frames: Iterable[Frame] = (), *, pid: int | None = None, comm: str | None = None
    ) -> int:
        """Return the number of a trace."""
        here = self._traces[0]
        trace = Trace(
            here.pid if pid is None else pid,
            here.comm if comm is None else comm,
            tuple(frames)[:DEPTH],
        )
        known = self._ids.get(trace)
        if known is not None:
            return known
        with self._lock:
            known = self._ids.get(trace)
            if known is None:
                # In this order: whoever sees the number, without the lock, finds its trace.
                known = len(self._traces)
                self._traces.append(trace)
                self._ids[trace] = known
        return known

    def capture(self, skip: int) -> int:
        """Return the number of the caller's own backtrace, leaving out so many inner frames."""
        codes: list[CodeType] = []
        places: list[int] = []
        innermost = frame = sys._getframe(skip + 1)
        while frame is not None and len(codes) < DEPTH:
            code = frame.f_code
            codes.append(code)
            places += (id(code), frame.f_lasti)
            frame = frame.f_back  # type: ignore[assignment]
        # Code objects are slow to hash, and line numbers slow to find.
        key = tuple(places)
        known = self._captured.get(key)
        if known is not None:
            return known[0]
        frames: list[Frame] = []
        frame = innermost
        for code in codes:
            frames.append((code, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        number = self.add(frames)
        self._captured[key] = (number, codes)
        return number

    @staticmethod
    def lines_of(frames: Iterable[Frame], resolver: Resolver | None = None) -> list[str]:
        """Return frames as text; native addresses through a resolver, if there is one."""
        return [_frame_text(frame, resolver) for frame in frames]

    def __getitem__(self, number: int) -> Trace:
        return self._traces[number]

    def __len__(self) -> int:
        return len(self._traces)


def _frame_text(frame: Frame, resolver: Resolver | None) -> str:
    if isinstance(frame, str):
        return frame
    if isinstance(frame, int):
        name = resolver(frame) if resolver is not None else None
        return name or f"{frame:#x}"
    code, line = frame
    return f"{code.co_name} ({code.co_filename}:{line})"


def _task_name() -> str:
    try:
        with open("/proc/self/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")[:15]
    except OSError:
        return os.path.basename(sys.executable)[:15]
