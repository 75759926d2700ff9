"""The kernel's own report from dumps of other kernels, as the rig next to this makes them.

Set ``KMEMLEAK_TEST_KERNELS`` to a folder of them: ``KERNEL/SNAPSHOT/vmcore.elf``, beside each the
kernel's report (``kmemleak.txt``), read as ``python -m tests.vmcore.rig.built`` does: after the
last scan, before the dump.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dumps import open_dump
from kmemleak_core.linux.comparison import Reason, compare
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.linux.kmemleak import find_kmemleak
from kmemleak_core.linux.kmemleak_report import kernel_records, report_layout
from kmemleak_core.linux.verdict import (
    AS_KERNEL,
    AS_NOW,
    births_and_ages,
    find_verdict,
    stored_white,
)
from kmemleak_core.report.kernel_layouts import format_record

FOLDER = os.environ.get("KMEMLEAK_TEST_KERNELS", "")
REPORTS = sorted(Path(FOLDER).glob("*/*/kmemleak.txt")) if FOLDER else []
if not REPORTS:
    pytest.skip(
        "no dumps of other kernels with kmemleak: set KMEMLEAK_TEST_KERNELS",
        allow_module_level=True,
    )


@pytest.fixture(scope="module", params=REPORTS, ids=lambda r: f"{r.parts[-3]}-{r.parts[-2]}")
def judged(request):
    kernel = open_kernel(open_dump(request.param.with_name("vmcore.elf")))
    found = find_kmemleak(kernel)
    assert found is not None
    now = find_verdict(kernel, found, AS_NOW)
    return request.param, kernel, found, now, find_verdict(kernel, found, AS_KERNEL, base=now.base)


def test_the_kernels_text_record_by_record(judged):
    report, kernel, found, _, rules = judged
    layout = report_layout(kernel)
    # The processor that printed a record shows its own copy of a per-CPU object.
    texts = [
        [
            "".join(f"{line}\n" for line in format_record(record, layout))
            for record in kernel_records(kernel, found, rules.rows.tolist(), processor=processor)
        ]
        for processor in range(len(kernel.per_cpu_offsets))
    ]
    told = re.split(r"^(?=unreferenced object)", report.read_text("latin-1"), flags=re.MULTILINE)
    told = [text for text in told if text]
    mine = list(zip(*texts, strict=True))
    if not sheaves(kernel):
        assert len(told) == len(mine)
    at = 0
    for text in told:
        at = next(i for i in range(at, len(mine)) if text in mine[i]) + 1


def sheaves(kernel) -> bool:
    """Whether what holds a leak in a scan may be gone in the dump: leftovers in sheaves are."""
    return kernel.types.struct("slab_sheaf") is not None


def test_every_colour_but_those_of_the_checksum_round_is_the_one_that_the_kernel_stored(judged):
    _, kernel, found, now, rules = judged
    older = ~births_and_ages(kernel, found)[0] & (found.objects.min_count > 0)
    lost = older & (rules.white != stored_white(found))
    assert not (lost & ~rules.white).any()
    assert not lost.any() or sheaves(kernel)
    plain = find_verdict(kernel, found, replace(AS_KERNEL, checksums=False), base=now.base)
    differ = older & (plain.white != stored_white(found)) & ~lost
    assert np.array_equal(differ, rules.modified & older)


def test_the_kernels_own_report_holds_no_surprise(judged):
    _, kernel, found, now, rules = judged
    surprises = set(compare(kernel, found, now, rules).surprises)
    gone = {Reason.LOST_SINCE, Reason.CHANGED_BETWEEN}
    assert surprises <= (gone if sheaves(kernel) else set())
    assert not list(found.heap.coverage)


def test_what_modules_lost_is_found_now_whatever_sheaves_held(judged):
    report, _, found, now, _ = judged
    log = report.with_name("dmesg.txt")
    if report.parent.name != "plain" or not log.exists():
        pytest.skip("no module told what it lost")
    told = re.findall(r"RIG LOST (?!list|child)\S+ (0x[0-9a-f]+) ", log.read_text("latin-1"))
    leaks = set(found.objects.address[now.rows].tolist())
    missed = [address for address in told if int(address, 16) not in leaks]
    # Stale words lie on stacks, too.
    assert len(missed) <= len(told) // 8
