"""Turns a kernel's lists of tasks into columns: names, numbers, stacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import FaultError
from .kernel import Kernel
from .structures import Structures

#: Bytes of a task's stack where nothing tells: THREAD_SIZE of x86-64 and AArch64.
_STACK = 16384
#: No stack is larger.
_LARGEST = 1 << 20


@dataclass(slots=True, eq=False)
class Tasks:
    """All threads of all processes, but for the processors' idle tasks; n of them.

    Parameters
    ----------
    address : ndarray of uint64, shape (n,)
        Where each ``struct task_struct`` lies; a process's threads follow one another.
    pid : ndarray of int64, shape (n,)
        Number of each thread.
    comm
        Names.
    stack : ndarray of uint64, shape (n,)
        Lowest address of each kernel stack; 0 for tasks that have given theirs back.
    used : ndarray of uint64, shape (n,)
        Where the used part of each stack begins: stacks grow downwards. All of it, of a task
        that runs or where nothing tells.
    stack_size
        Bytes of each stack: ``THREAD_SIZE``.
    """

    address: NDArray[np.uint64]
    pid: NDArray[np.int64]
    comm: tuple[str, ...]
    stack: NDArray[np.uint64]
    used: NDArray[np.uint64]
    stack_size: int

    def __len__(self) -> int:
        return int(self.address.size)


def read_tasks(kernel: Kernel, coverage: Coverage) -> Tasks:
    """Read all tasks.

    Parameters
    ----------
    kernel
        Whose tasks they are.
    coverage
        Receives ``kernel.tasks`` (lists that end early, tasks that are not in the dump) and
        ``kernel.stack-size`` (nothing tells how large stacks are).

    Raises
    ------
    DumpError
        The layout of ``task_struct`` is not known.
    """
    structures = kernel.structures()
    task = _tasks(kernel, structures, coverage)
    columns = ["pid", "stack"]
    # Since 4.9 a dead task's stack may be gone before the task is.
    counter = next(
        (
            path
            for path in ("stack_refcount.refs.counter", "stack_refcount.counter")
            if structures.has("task_struct", path)
        ),
        None,
    )
    pid, stack = structures.columns(task, "task_struct", *columns)
    if counter is not None:
        stack[structures.column(task, "task_struct", counter) == 0] = 0
    comm = structures.member("task_struct", "comm")
    text, _ = structures.bytes(task, comm.offset, comm.size)
    size = _stack_size(kernel, structures, task, coverage)
    used = _used(structures, task, stack, size)
    if structures.missing:
        coverage.add(
            "kernel.tasks",
            f"{structures.missing:,} values of tasks are not in the dump",
            count=structures.missing,
        )
    return Tasks(
        task,
        pid.astype(np.int64),
        tuple(row.tobytes().split(b"\0", 1)[0].decode("latin-1") for row in text),
        stack,
        used,
        size,
    )


def _used(
    structures: Structures, task: NDArray[np.uint64], stack: NDArray[np.uint64], size: int
) -> NDArray[np.uint64]:
    """Return the stack pointers of tasks that wait, the stacks' beginnings of all others."""
    names = ("thread.sp", "thread.cpu_context.sp")  # of x86 and AArch64
    name = next((n for n in names if structures.has("task_struct", n)), None)
    if name is None or not structures.has("task_struct", "on_cpu"):
        return stack.copy()
    pointer, running = structures.columns(task, "task_struct", name, "on_cpu")
    word = structures.image.word_size
    sane = (running == 0) & (pointer >= stack) & (pointer - stack < size)
    return np.where(sane & (pointer % np.uint64(word) == 0), pointer, stack)


def _tasks(kernel: Kernel, structures: Structures, coverage: Coverage) -> NDArray[np.uint64]:
    """Return the threads of each process, as ``for_each_process_thread()`` meets them."""
    nothing = np.empty(0, np.uint64)
    init = kernel.symbols.address("init_task")
    link = structures.member("task_struct", "tasks").offset
    try:
        if init is None:
            raise FaultError(0, "the kernel has no symbol init_task")
        first = structures.number(init + link, kernel.image.word_size)
    except FaultError as error:
        coverage.add("kernel.tasks", f"no task was found: {error}")
        return nothing
    nodes, problem = structures.follow(first, 0, end=init + link)
    if problem:
        coverage.add("kernel.tasks", f"the list of processes ends early: {problem}")
    leaders = nodes - np.uint64(link)
    if not structures.has("task_struct", "signal", "thread_node"):
        return leaders
    # Since Linux 3.14 threads are in a list of what they share; the older one went in 6.7.
    head = structures.member("signal_struct", "thread_head").offset
    heads = structures.column(leaders, "task_struct", "signal") + np.uint64(head)
    firsts, present = structures.numbers(heads, 0, kernel.image.word_size)
    firsts = np.where(present, firsts, heads)
    threads, _, damaged = structures.follow_many(firsts, 0, end=heads, most=_most(kernel))
    if damaged:
        coverage.add("kernel.tasks", f"{damaged:,} lists of threads end early", count=damaged)
    threads = threads - np.uint64(structures.member("task_struct", "thread_node").offset)
    # Where the list is broken the process itself is known still.
    # (np.setdiff1d would say it too, and import what takes longer than all of this.)
    known = np.append(np.sort(threads), np.uint64(0))
    lonely = leaders[known[np.searchsorted(known[:-1], leaders)] != leaders]
    return np.concatenate((threads, lonely)) if lonely.size else threads


def _most(kernel: Kernel) -> int:
    """How many tasks there can be: each has a stack."""
    return kernel.physical.nbytes // 4096 + 1


def _stack_size(
    kernel: Kernel, structures: Structures, task: NDArray[np.uint64], coverage: Coverage
) -> int:
    """Return ``THREAD_SIZE``, from whatever tells it."""
    union = kernel.types.struct("thread_union")
    if union is not None and _plausible(union.size):
        return union.size
    if structures.has("task_struct", "stack_vm_area") and structures.has("vm_struct", "nr_pages"):
        area = structures.column(task, "task_struct", "stack_vm_area")
        pages, present = structures.numbers(
            area[area != 0], structures.member("vm_struct", "nr_pages").offset, 4
        )
        size = int(np.median(pages[present])) * kernel.page_size if present.any() else 0
        if _plausible(size):
            return size
    for low, high in (
        ("__start_init_stack", "__end_init_stack"),
        ("__start_init_task", "__end_init_task"),
    ):
        begin, end = kernel.symbols.address(low), kernel.symbols.address(high)
        if begin is not None and end is not None and _plausible(end - begin):
            return end - begin
    coverage.add(
        "kernel.stack-size", f"nothing tells how large stacks are: taken to be {_STACK:,} bytes"
    )
    return _STACK


def _plausible(size: int) -> bool:
    return 4096 <= size <= _LARGEST and size & (size - 1) == 0
