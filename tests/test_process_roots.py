"""Which bytes of a process are roots, and of which class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.heaps import Exclusion, Heap, StackRange
from kmemleak_core.process_roots import ROOT_KINDS, process_roots

STACK, HEAP, DATA, CODE, TLS = 0x7000_0000, 0x1000_0000, 0x40_0000, 0x41_0000, 0x2000_0000
CONSTANTS, GENERATED = 0x42_0000, 0x3000_0000


def segment(address, size=0x4000, permissions="rw-", kind="anonymous", name=""):
    return km.Segment(address, np.zeros(size, np.uint8), permissions, kind, name)


def a_dump(*threads, architecture="x86_64"):
    segments = [
        segment(STACK, name="[stack]"),
        segment(HEAP),
        segment(DATA, kind="file", name="/bin/program"),
        segment(CODE, permissions="r-x", kind="file", name="/bin/program"),
        segment(CONSTANTS, permissions="r--", kind="file", name="/bin/program"),
        segment(TLS),
    ]
    return km.Dump(km.MemoryImage(segments), threads=threads, architecture=architecture)


def thread(sp, *, tid=1, tls=0, **registers):
    return km.Thread(tid, registers, sp, tls_base=tls)


def a_heap(excluded=(), stacks=()):
    return Heap("test", km.ObjectTable(), excluded=list(excluded), stacks=list(stacks))


def covered(roots, kind):
    return [(r.address, r.end) for r in roots.ranges if r.kind == kind]


@pytest.mark.parametrize(
    ("kind", "address"), [("data", DATA), ("readonly", CONSTANTS), ("anonymous", HEAP)]
)
def test_a_mapping_has_the_class_of_its_permissions_and_file(kind, address):
    assert (address, address + 0x4000) in covered(process_roots(a_dump(), a_heap()), kind)


def test_machine_code_of_a_file_is_no_root():
    assert process_roots(a_dump(), a_heap()).find(CODE) is None


@pytest.mark.parametrize(("kind", "name"), [("anonymous", ""), ("file", "/memfd:jit (deleted)")])
def test_machine_code_that_a_program_generates_is_a_root(kind, name):
    code = segment(GENERATED, permissions="r-x", kind=kind, name=name)
    roots = process_roots(km.Dump(km.MemoryImage([code])), a_heap())
    assert covered(roots, "readonly") == [(GENERATED, GENERATED + 0x4000)]


def test_a_stack_is_a_root_from_the_red_zone_up_and_dead_below():
    roots = process_roots(a_dump(thread(STACK + 0x2000)), a_heap())
    assert covered(roots, "stacks") == [(STACK + 0x2000 - 128, STACK + 0x4000)]
    assert roots.find(STACK + 0x1000) is None


def test_there_is_no_red_zone_on_aarch64():
    dump = a_dump(thread(STACK + 0x2000), architecture="aarch64")
    assert covered(process_roots(dump, a_heap()), "stacks") == [(STACK + 0x2000, STACK + 0x4000)]


def test_a_threads_stack_is_where_the_c_library_says():
    heap = a_heap(stacks=[StackRange(TLS, TLS + 0x1000, 2)])
    roots = process_roots(a_dump(thread(TLS + 0x800, tid=2)), heap)
    assert covered(roots, "stacks") == [(TLS + 0x800 - 128, TLS + 0x1000)]
    assert (TLS + 0x1000, TLS + 0x4000) in covered(roots, "anonymous")


def test_a_thread_that_runs_elsewhere_keeps_its_whole_stack():
    heap = a_heap(stacks=[StackRange(TLS, TLS + 0x1000, 2)])
    roots = process_roots(a_dump(thread(DATA + 0x100, tid=2)), heap)
    assert covered(roots, "stacks") == [(TLS, TLS + 0x1000)]


def test_thread_local_storage_has_a_class_of_its_own():
    roots = process_roots(a_dump(thread(STACK, tls=TLS + 0x2000)), a_heap())
    ((low, high),) = covered(roots, "tls")
    assert low <= TLS + 0x2000 - 64 < TLS + 0x2000 + 64 <= high


def test_every_byte_has_one_class():
    dump = a_dump(thread(STACK + 0x2000, tls=TLS + 0x2000), thread(STACK, tid=2, tls=TLS + 0x2400))
    ranges = sorted((r.address, r.end) for r in process_roots(dump, a_heap()).ranges)
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))


def test_what_the_heap_excludes_is_no_root():
    heap = a_heap([Exclusion(HEAP + 0x100, HEAP + 0x4000, "heap")])
    roots = process_roots(a_dump(), heap)
    assert (HEAP, HEAP + 0x100) in covered(roots, "anonymous")
    assert roots.find(HEAP + 0x100) is None


def test_registers_are_named_after_their_thread():
    roots = process_roots(a_dump(thread(0, tid=7, rbx=5, rax=0)), a_heap())
    assert [(w.value, w.name) for w in roots.words] == [(5, "rbx of thread 7")]


def test_a_vector_register_is_as_many_words_as_it_holds():
    raw = (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    dump = a_dump(km.Thread(7, {}, 0, vectors=(("xmm0", raw),)))
    words = process_roots(dump, a_heap()).words
    assert [(w.value, w.name) for w in words] == [
        (1, "xmm0[0] of thread 7"),
        (2, "xmm0[8] of thread 7"),
    ]


def test_only_documented_classes_occur():
    dump = a_dump(thread(STACK + 0x2000, tls=TLS + 0x2000, rbx=1))
    assert process_roots(dump, a_heap()).kinds == set(ROOT_KINDS)


def test_a_heap_right_behind_the_control_block_is_no_root():
    heap = a_heap([Exclusion(TLS + 0x2100, TLS + 0x4000, "heap")])
    roots = process_roots(a_dump(thread(STACK, tls=TLS + 0x2000)), heap)
    assert roots.find(TLS + 0x20F8) is not None
    assert roots.find(TLS + 0x2100) is None
