"""Tasks of small kernels: processes and their threads, stacks, and what damage does."""

from __future__ import annotations

import numpy as np
import pytest

from kmemleak_core.coverage import Coverage
from kmemleak_core.linux.kernel import Kernel
from kmemleak_core.linux.roots import kernel_roots
from kmemleak_core.linux.tasks import Tasks, read_tasks

from ..builders.kernel import TableTypes, kernel_of

BASE = 0xFFFF_8880_0000_0000
INIT = BASE
TASK = 256
TASKS, SIGNALS, STACKS, AREAS = BASE + 0x1000, BASE + 0x4000, BASE + 0x1_0000, BASE + 0x8000
STACK = 16384

MEMBERS = {
    "tasks": (0, 16),
    "thread_node": (16, 16),
    "signal": (32, 8),
    "pid": (40, 4, -1),
    "comm": (44, 16),
    "stack": (64, 8),
    "stack_refcount.refs.counter": (72, 4, -1),
    "stack_vm_area": (80, 8),
    "thread.sp": (88, 8),
    "on_cpu": (96, 4, -1),
}


class Machine:
    """Processes as lists of thread ids; a process's number is its first thread's."""

    def __init__(self, processes: list[list[int]], *, without: tuple[str, ...] = ()) -> None:
        self.memory = np.zeros(1 << 18, np.uint8)
        self.types = TableTypes(
            {
                "task_struct": (TASK, {k: v for k, v in MEMBERS.items() if k not in without}),
                "signal_struct": (64, {"thread_head": (8, 16)}),
                "vm_struct": (64, {"nr_pages": (16, 4)}),
            }
        )
        self.symbols = {"init_task": INIT, "__per_cpu_start": 0, "__per_cpu_end": 0}
        self.link([INIT] + [self.task(p[0]) for p in processes])
        for number, threads in enumerate(processes):
            signal = SIGNALS + 64 * number
            self.link([signal + 8] + [self.task(t) + 16 for t in threads])
            for thread in threads:
                at = self.task(thread)
                self.put(at + 32, signal)
                self.put(at + 40, thread, 4)
                self.put(at + 44, int.from_bytes(b"task%d" % thread, "little"), 16)
                self.put(at + 64, self.stack(thread))
                self.put(at + 72, 1, 4)
                self.put(at + 80, AREAS)
        self.put(AREAS + 16, STACK // 4096, 4)

    def task(self, number: int) -> int:
        return TASKS + TASK * number

    def stack(self, number: int) -> int:
        return STACKS + STACK * number

    def put(self, address: int, value: int, size: int = 8) -> None:
        at = address - BASE
        self.memory[at : at + size] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)

    def link(self, ring: list[int]) -> None:
        for here, after in zip(ring, [*ring[1:], ring[0]], strict=True):
            self.put(here, after)

    def kernel(self) -> Kernel:
        return kernel_of([(BASE, self.memory)], self.types, self.symbols, frames=64)

    def read(self) -> tuple[Tasks, list[str]]:
        coverage = Coverage()
        return read_tasks(self.kernel(), coverage), [note.code for note in coverage]


def test_threads_follow_their_process():
    tasks, notes = Machine([[1], [2, 5, 6], [3]]).read()
    assert (tasks.pid.tolist(), notes) == ([1, 2, 5, 6, 3], [])
    assert tasks.comm == ("task1", "task2", "task5", "task6", "task3")
    assert tasks.stack_size == STACK


def test_stacks_are_roots_that_bear_their_tasks_names():
    roots = kernel_roots(Machine([[1], [2, 5]]).kernel(), kinds=["stacks"])
    assert [(r.address, r.size, r.name) for r in roots.ranges] == [
        (STACKS + STACK * n, STACK, f"stack of task{n}/{n}") for n in (1, 2, 5)
    ]


def test_the_part_of_a_stack_below_its_pointer_is_a_class_of_its_own():
    machine = Machine([[1], [2], [3]])
    machine.put(machine.task(1) + 88, machine.stack(1) + 0x3000)
    machine.put(machine.task(2) + 88, 0xDEAD)  # no pointer into its stack
    machine.put(machine.task(3) + 88, machine.stack(3) + 0x3000)
    machine.put(machine.task(3) + 96, 1, 4)  # runs
    roots = kernel_roots(machine.kernel(), kinds=["stacks", "old-stacks"])
    assert [
        (r.kind, r.address - STACKS - STACK * n, r.size)
        for r, n in zip(roots.ranges, (1, 1, 2, 3), strict=True)
    ] == [
        ("old-stacks", 0, 0x3000),
        ("stacks", 0x3000, 0x1000),
        ("stacks", 0, STACK),
        ("stacks", 0, STACK),
    ]


def test_a_dead_task_has_no_stack():
    machine = Machine([[1], [2]])
    machine.put(machine.task(2) + 72, 0, 4)
    assert machine.read()[0].stack.tolist() == [machine.stack(1), 0]


class TestStackSize:
    def test_of_the_union_that_says_it(self):
        machine = Machine([[1]])
        machine.types.layouts["thread_union"] = (32768, {})
        assert machine.read()[0].stack_size == 32768

    def test_of_the_first_tasks_stack(self):
        machine = Machine([[1]], without=("stack_vm_area",))
        machine.symbols |= {"__start_init_stack": BASE, "__end_init_stack": BASE + 0x2000}
        assert machine.read()[0].stack_size == 0x2000

    def test_is_told_to_be_a_guess_where_nothing_tells(self):
        tasks, notes = Machine([[1]], without=("stack_vm_area",)).read()
        assert (tasks.stack_size, notes) == (16384, ["kernel.stack-size"])


class TestDamage:
    def test_a_list_of_processes_that_loops(self):
        machine = Machine([[1], [2], [3]])
        machine.put(machine.task(3), machine.task(2))
        tasks, notes = machine.read()
        assert (tasks.pid.tolist(), notes) == ([1, 2, 3], ["kernel.tasks"])

    def test_a_list_of_threads_that_leads_nowhere_keeps_the_process(self):
        machine = Machine([[1], [2, 3]])
        machine.put(SIGNALS + 64 + 8, 0xDEAD)
        tasks, notes = machine.read()
        assert (sorted(tasks.pid.tolist()), notes) == ([1, 2], ["kernel.tasks"])

    def test_a_process_without_its_signals_keeps_its_stack(self):
        machine = Machine([[1], [2]])
        machine.put(machine.task(2) + 32, 0xDEAD)
        assert sorted(machine.read()[0].pid.tolist()) == [1, 2]

    @pytest.mark.parametrize("symbol", ["init_task"])
    def test_no_first_task(self, symbol):
        machine = Machine([[1]])
        del machine.symbols[symbol]
        tasks, notes = machine.read()
        assert len(tasks) == 0
        assert "kernel.tasks" in notes
