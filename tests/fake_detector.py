"""A detector that only keeps account of what the control file asks of it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kmemleak_core.errors import ControlError

#: The address of the only object that it knows.
KNOWN = 0xFFFF888100000040


@dataclass
class FakeCounters:
    interrupted: bool = False
    new_leaks: int = 0


class FakeDetector:
    """Each scan finds one more leak; `hold` makes scans last until it is set or they are cancelled.

    `calls` is what was asked, in order.
    """

    def __init__(self, *, strict_kernel: bool = False) -> None:
        self.strict_kernel = strict_kernel
        self.enabled = True
        self.disable_reason = ""
        self.stack_scan = True
        self.calls: list[object] = []
        self.scanning_now = threading.Event()
        self.hold: threading.Event | None = None
        self.records: list[str] = []
        self.failure: Exception | None = None
        self._born = 0

    def scan(self, cancel: Callable[[], bool] | None = None) -> FakeCounters:
        self.calls.append("scan")
        if self.failure:
            raise self.failure
        interrupted = False
        self.scanning_now.set()
        while self.hold is not None and not self.hold.wait(0.01):
            if cancel is not None and cancel():
                interrupted = True
                break
        self.scanning_now.clear()
        if not interrupted:
            self.leak()
        return FakeCounters(interrupted, int(not interrupted))

    def leak(self) -> None:
        self._born += 1
        self.records.append(
            f"unreferenced object 0x{0x1000 * self._born:08x} (size 32):\n"
            f'  comm "fake", pid {self._born}, jiffies {4294892296 + self._born}\n'
        )

    def clear(self) -> int:
        self.calls.append("clear")
        gone = len(self.records)
        self.records.clear()
        return gone

    def clear_all(self) -> int:
        self.calls.append("clear all")
        return 0

    def disable(self, reason: str = "off") -> None:
        self.calls.append("off")
        self.enabled = False
        self.disable_reason = reason

    def start_scanning(self, period: float | None = None) -> None:
        self.calls.append(("start", period))

    def stop_scanning(self) -> None:
        self.calls.append("stop")

    def read(self) -> str:
        return "".join(self.records)

    def describe(self, address: int) -> str:
        self.calls.append(("dump", address))
        if address != KNOWN:
            raise ControlError(errno.EINVAL, f"Unknown object at 0x{address:08x}")
        return f"Object 0x{address:08x} (size 64):\n"

    def stats(self) -> dict[str, object]:
        return {"objects": 7, "scans": 2}
