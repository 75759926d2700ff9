"""Turns a running process into a stopped one whose registers can be read (Linux ptrace)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from pathlib import Path
from types import TracebackType

from ..errors import DumpError

# include/uapi/linux/ptrace.h
_DETACH, _GETREGSET, _SEIZE, _INTERRUPT = 17, 0x4204, 0x4206, 0x4207
_EVENT_STOP = 128
_WALL = 0x40000000

#: How long a thread may take to stop, seconds.
STOP_TIMEOUT = 10.0


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class StoppedProcess:
    """Every thread of a process, stopped; a context manager that always lets it go on.

    A process that was stopped before (SIGSTOP, a terminal) stays stopped afterwards: the kernel
    puts a seized thread back into its group stop. Should this process die, the kernel detaches.

    Parameters
    ----------
    pid
        The process.

    Raises
    ------
    DumpError
        On entering: no such process, no permission, a thread that does not stop.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Threads, the main thread first.
        self.threads: list[int] = []
        self._pending: dict[int, int] = {}  # thread → signal that it was about to receive
        self._attached: list[int] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = (
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )

    def __enter__(self) -> StoppedProcess:
        if self.pid == os.getpid():
            raise DumpError("a process cannot dump itself", hint="dump it from another process")
        try:
            self._stop_all()
        except BaseException:
            self._detach_all()
            raise
        if not self.threads:
            raise _no_process(self.pid)
        # The main thread's id is the process's, whatever the order of the directory.
        self.threads.sort(key=lambda tid: (tid != self.pid, tid))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._detach_all()

    def registers(self, tid: int, kind: int) -> bytes:
        """Read one register set (an ``NT_`` number); empty if the thread has none."""
        buffer = ctypes.create_string_buffer(1 << 16)
        vector = _Vector(ctypes.addressof(buffer), len(buffer))
        if self._ptrace(_GETREGSET, tid, kind, ctypes.addressof(vector)):
            return b""
        return buffer.raw[: vector.size]

    def _ptrace(self, request: int, tid: int, address: int = 0, data: int = 0) -> int:
        """Return 0 or an errno."""
        ctypes.set_errno(0)
        return ctypes.get_errno() if self._libc.ptrace(request, tid, address, data) < 0 else 0

    def _stop_all(self) -> None:
        seen: set[int] = set()
        # A thread that still runs may make more of them: until a look finds no new one.
        while True:
            new = [tid for tid in _tasks(self.pid) if tid not in seen]
            if not new:
                return
            seen.update(new)
            seized = []
            for tid in new:
                error = self._ptrace(_SEIZE, tid)
                if error == errno.ESRCH:
                    continue  # it ended in the meantime
                if error:
                    raise _refused(self.pid, tid, error)
                self._attached.append(tid)
                if not self._ptrace(_INTERRUPT, tid):
                    seized.append(tid)
            for tid in seized:
                if self._wait(tid):
                    self.threads.append(tid)
                else:
                    self._attached.remove(tid)

    def _wait(self, tid: int, timeout: float = STOP_TIMEOUT) -> bool:
        deadline = time.monotonic() + timeout
        pause = 0.0001
        while True:
            try:
                found, status = os.waitpid(tid, _WALL | os.WNOHANG)
            except ChildProcessError:
                return False
            if found:
                break
            if time.monotonic() > deadline:
                raise DumpError(
                    f"thread {tid} of process {self.pid} does not stop (it waits in the kernel)",
                    hint=f"/proc/{tid}/wchan and /proc/{tid}/stack tell for what; try again",
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        if not os.WIFSTOPPED(status):
            return False
        if status >> 16 != _EVENT_STOP:
            # It stopped because a signal is about to be delivered: hand that on afterwards.
            self._pending[tid] = os.WSTOPSIG(status)
        return True

    def _detach_all(self) -> None:
        while self._attached:
            tid = self._attached.pop()
            error = self._ptrace(_DETACH, tid, 0, self._pending.get(tid, 0))
            if error == errno.ESRCH:
                # Not stopped yet (an error came in between): a detach needs a stop.
                with contextlib.suppress(DumpError):
                    if self._wait(tid, 0.1):
                        self._ptrace(_DETACH, tid, 0, self._pending.get(tid, 0))


def _tasks(pid: int) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _no_process(pid: int) -> DumpError:
    return DumpError(f"no process {pid}", hint="pgrep -a NAME lists processes by name")


def _refused(pid: int, tid: int, error: int) -> DumpError:
    tracer = status_field(pid, "TracerPid")
    if tracer not in ("", "0"):
        return DumpError(
            f"process {pid} is being traced by process {tracer} already",
            hint="end that debugger or strace first",
        )
    if status_field(pid, "State").startswith("Z"):
        return DumpError(f"process {pid} has ended and has no memory any more (zombie)")
    if error != errno.EPERM:
        return DumpError(f"process {pid} cannot be stopped: {os.strerror(error)} (thread {tid})")
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        scope = ""
    hint = "run as root, or as the user of the process"
    if scope in ("1", "2"):
        hint = "run as root, or allow it: sysctl kernel.yama.ptrace_scope=0"
    elif scope == "3":
        hint = "kernel.yama.ptrace_scope is 3: nobody may until the next boot; let it dump core"
    if os.geteuid() == 0:
        hint = "in a container: give it the capability SYS_PTRACE; kernel threads have no memory"
    return DumpError(f"no permission to stop process {pid}", hint=hint)


def status_field(pid: int, name: str) -> str:
    """Return a field of ``/proc/PID/status``, empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(name)), ""
    )
