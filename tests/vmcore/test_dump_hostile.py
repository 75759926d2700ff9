"""Whatever a machine's dump holds: a Dump or a DumpError, in bounded time and memory."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core import Dump, DumpError
from kmemleak_core.dumps import open_dump

from ..builders.vmcore import (
    LARGE,
    PAGE,
    PRESENT,
    TABLE,
    ArmMachine,
    Machine,
    flattened,
    qemu_state,
)
from .test_dump_layouts import DIRECT, VMALLOC

QUIET = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def machine() -> Machine:
    made = Machine()
    made.leaf(DIRECT, 30, LARGE)
    made.map(VMALLOC, 0x3000, 8)
    made.write(60 * PAGE, made.vmcoreinfo())
    return made


WHOLE = machine()
DUMPS = {
    "elf": WHOLE.elf(notes=WHOLE.notes() + qemu_state({}, WHOLE.root)),
    "kdump": WHOLE.kdump(zlib.compress, 1),
    "flattened": flattened(WHOLE.kdump(zlib.compress, 1)),
    "flattened elf": flattened(WHOLE.elf()),
    "arm": ArmMachine().dump(),
}
TABLES = range(WHOLE.root, WHOLE.next_table, 8)


def survives(path, content: bytes) -> Dump | None:
    path.write_bytes(content)
    try:
        dump = open_dump(path)
    except DumpError as error:
        if str(path) not in str(error):
            raise
        return None
    assert dump.image.engine is not None
    for segment in dump.image.segments[:100]:
        assert int(segment.data[0]) + int(segment.data[-1]) >= 0
    repr((dump.image, dump.image.holes[:10], dump.machine, dump.coverage, dump.threads))
    return dump


@pytest.mark.parametrize("kind", DUMPS)
@given(data=st.data())
@QUIET
def test_any_damage_to_headers_and_notes(tmp_path, kind, data):
    content = bytearray(DUMPS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(content), 3 * PAGE) - 8))
        value = data.draw(st.sampled_from([0, 1, 0xFF, 1 << 31, 1 << 63, (1 << 64) - 1]))
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        content[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    survives(tmp_path / "vmcore", bytes(content))


@pytest.mark.parametrize("kind", DUMPS)
@given(data=st.data())
@QUIET
def test_any_place_to_be_cut_off(tmp_path, kind, data):
    content = DUMPS[kind]
    survives(tmp_path / "vmcore", content[: data.draw(st.integers(0, len(content)))])


@given(data=st.data())
@QUIET
def test_any_entries_in_page_tables(tmp_path, data):
    made = machine()
    for _ in range(data.draw(st.integers(1, 20))):
        frame = data.draw(st.one_of(st.integers(0, 80), st.integers(0, (1 << 40) - 1)))
        flags = data.draw(st.sampled_from([0, PRESENT, LARGE, TABLE, 1 << 63 | LARGE]))
        at = data.draw(st.sampled_from(TABLES))
        struct.pack_into("<Q", made.memory, at, frame << 12 | flags)
    survives(tmp_path / "vmcore", made.elf())


@pytest.mark.parametrize("bits", [39, 52])
@given(data=st.data())
@QUIET
def test_any_entries_in_page_tables_of_arm(tmp_path, bits, data):
    made = ArmMachine(bits=bits)
    for _ in range(data.draw(st.integers(1, 20))):
        frame = data.draw(
            st.one_of(st.integers(0, 80).map((1 << 18).__add__), st.integers(0, (1 << 40) - 1))
        )
        flags = data.draw(st.sampled_from([0, 1, 2, 3, 0x701, 0x703]))
        at = data.draw(st.sampled_from(range(made.root, made.next_table, 8)))
        struct.pack_into("<Q", made.memory, at, frame << 12 | flags)
    survives(tmp_path / "vmcore", made.dump())


@given(data=st.data())
@QUIET
def test_any_descriptors_and_data_of_pages(tmp_path, data):
    content = bytearray(DUMPS["kdump"])
    for _ in range(data.draw(st.integers(1, 10))):
        at = data.draw(st.integers(2 * PAGE, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    survives(tmp_path / "vmcore", bytes(content))


@given(
    st.dictionaries(
        st.sampled_from([*WHOLE.info, "NUMBER(sme_mask)"]),
        st.one_of(st.text(max_size=40), st.integers(-(1 << 70), 1 << 70).map(str)),
    )
)
@QUIET
def test_any_vmcoreinfo(tmp_path, changed):
    made = machine()
    made.info.update(changed)
    survives(tmp_path / "vmcore", made.elf(notes=qemu_state({}, made.root) + made.notes()))


def test_tables_that_all_lead_to_one_another_take_no_time(tmp_path):
    # 64 tables of 512 entries, each to another table: 512**4 ways lead through them.
    made = Machine()
    for frame in range(64):
        for index in range(512):
            to = (frame * 7 + index) % 64
            struct.pack_into("<Q", made.memory, frame * PAGE + 8 * index, to << 12 | TABLE)
    dump = survives(tmp_path / "vmcore", made.elf())
    assert dump is None or len(dump.image.segments) <= 64 * 512
