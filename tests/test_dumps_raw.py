"""Raw memory and neutral tables: objects, roots, scan areas from CSV, JSONL and npz."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from kmemleak_core import BLACK, DumpError, ObjectFlags, RootRange, RootWord, UsageError
from kmemleak_core.coverage import Coverage
from kmemleak_core.dumps.raw import open_raw, read_objects, read_roots


def write(tmp_path, text, name="table"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("word_size", "byteorder"), [(8, "little"), (4, "big")])
def test_memory_is_read_at_its_address(tmp_path, word_size, byteorder):
    (tmp_path / "heap.bin").write_bytes(bytes(range(16)))
    (tmp_path / "b:c.bin").write_bytes(b"x" * 4)
    dump = open_raw(
        [f"0x7f000000:{tmp_path / 'heap.bin'}", f"4096:{tmp_path / 'b:c.bin'}"],
        word_size=word_size,
        byteorder=byteorder,
    )
    assert dump.image.word(0x7F000000) == int.from_bytes(bytes(range(word_size)), byteorder)
    assert dump.image.read(4096, 4) == b"xxxx"
    assert dump.format == "raw"
    assert [s.name for s in dump.image.segments] == ["b:c.bin", "heap.bin"]


def test_compressed_memory_is_read_too(tmp_path):
    (tmp_path / "heap.gz").write_bytes(gzip.compress(b"12345678"))
    assert open_raw([f"0x1000:{tmp_path / 'heap.gz'}"]).image.read(0x1000, 8) == b"12345678"


@pytest.mark.parametrize("item", ["heap.bin", "x:heap.bin", "0x1000:", "-5:heap.bin", ":x"])
def test_a_specification_that_is_none_is_a_usage_error(item):
    with pytest.raises(UsageError, match="--memory"):
        open_raw([item])


def test_overlapping_memory_is_an_error(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(bytes(100))
    with pytest.raises(DumpError, match="overlaps"):
        open_raw([f"0x1000:{path}", f"0x1010:{path}"])


def test_memory_that_leaves_the_address_space_is_an_error(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(bytes(100))
    with pytest.raises(DumpError, match="address space"):
        open_raw([f"0xfffffff0:{path}"], word_size=4)


def test_no_memory_is_an_error(tmp_path):
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(DumpError, match="no memory"):
        open_raw([f"0x1000:{tmp_path / 'm'}"])


OBJECTS = """\
address,size,min_count,flags,excess_ref,comment
0x2000,16,2,no_scan|full_scan,0x1000,x
0x1000,0x20,,,,
12288,8,0,ignore,,
0x4000,8,-1,7,0,"quoted, with comma"
"""


def check_objects(table):
    assert table.address.tolist() == [0x1000, 0x2000, 0x3000, 0x4000]
    assert table.size.tolist() == [0x20, 16, 8, 8]
    assert table.min_count.tolist() == [1, 2, BLACK, BLACK]
    both = ObjectFlags.NO_SCAN | ObjectFlags.FULL_SCAN
    assert table.flags.tolist() == [0, both, 0, ObjectFlags.NO_SCAN]
    assert table.excess_ref.tolist() == [0, 0x1000, 0, 0]
    assert table.allocation_order().tolist() == [1, 0, 2, 3]
    assert len(table.anomalies) == 0


def test_objects_from_csv(tmp_path):
    check_objects(read_objects(write(tmp_path, OBJECTS)))


def test_objects_from_csv_without_names(tmp_path):
    rows = ["# made by hand", "0x2000,16,2,no_scan|full_scan,0x1000", "0x1000,0x20", "12288,8,0,"
            "ignore", "", "0x4000,8,-1,7,0"]  # fmt: skip
    check_objects(read_objects(write(tmp_path, "\n".join(rows))))


def test_objects_from_compressed_csv(tmp_path):
    path = tmp_path / "objects.csv.gz"
    path.write_bytes(gzip.compress(OBJECTS.encode()))
    check_objects(read_objects(path))


def test_objects_from_jsonl(tmp_path):
    records = [
        {"address": "0x2000", "size": 16, "min_count": 2, "flags": 12, "excess_ref": 4096},
        {"address": 0x1000, "size": "0x20"},
        {"address": 12288, "size": 8, "min_count": 0, "flags": "ignore", "note": [1]},
        {"address": "0x4000", "size": 8, "min_count": -1, "flags": 7},
    ]
    check_objects(read_objects(write(tmp_path, "\n".join(map(json.dumps, records)))))


def test_objects_from_npz(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(
        path,
        address=np.array([0x2000, 0x1000, 0x3000, 0x4000], dtype=np.uint64),
        size=np.array([16, 32, 8, 8]),
        min_count=np.array([2, 1, -1, -1], dtype=np.int8),
        flags=np.array(["no_scan|full_scan", "", "ignore", "7"]),
        excess_ref=np.array([0x1000, 0, 0, 0], dtype=">u4"),
    )
    check_objects(read_objects(path))


def test_malformed_rows_are_counted_with_the_first_line(tmp_path):
    text = "address,size\n0x1000,8\n0x2000,eight\n-1,8\n,8\n0x3000,8,9\n0xfffffffffffffff8,64\n"
    table = read_objects(write(tmp_path, text + "0x5000,8\n"))
    assert table.address.tolist() == [0x1000, 0x5000]
    (note,) = table.anomalies
    assert (note.code, note.count) == ("table.malformed", 5)
    assert "line 3" in note.message


def test_overlapping_objects_are_left_out_and_told(tmp_path):
    table = read_objects(write(tmp_path, "address,size\n0x1000,64\n0x1010,8\n"))
    assert table.address.tolist() == [0x1000]
    assert table.anomalies.notes[0].code == "objects.overlap"


@pytest.mark.parametrize(
    "text", ["", "address,size\n", "address,size\nx,y\n", "{}\n", "\0\1\2\3\n" * 10]
)
def test_a_table_of_which_nothing_is_left_is_an_error(tmp_path, text):
    with pytest.raises(DumpError, match="holds no objects") as error:
        read_objects(write(tmp_path, text))
    assert "address,size" in error.value.hint


def test_a_table_without_an_obligatory_column_is_an_error(tmp_path):
    with pytest.raises(DumpError, match="no column 'size'"):
        read_objects(write(tmp_path, "address,length\n1,2\n"))


def test_scan_areas_belong_to_their_objects(tmp_path):
    areas = "object_address,start,size\n0x1000,0x1008,8\n0x1000,0x1010,8\n0x9000,1,1\n"
    table = read_objects(
        write(tmp_path, "address,size\n0x1000,64\n"), write(tmp_path, areas, "areas")
    )
    # As in the kernel the area that was added last comes first.
    assert table.area_address.tolist() == [0x1010, 0x1008]
    assert table.anomalies.notes[0].code == "objects.scan-area"


def test_a_million_rows_keep_their_values(tmp_path):
    address = np.arange(1, 200_001, dtype=np.uint64) * np.uint64(48)
    text = "address,size\n" + "".join(f"{a:#x},40\n" for a in address.tolist())
    table = read_objects(write(tmp_path, text))
    assert np.array_equal(table.address, address)


ROOTS = """\
kind,start,size,name,value
data,0x1000,64,.data,
,0x2000,8,,
registers,,,rbx of thread 1,0xdeadbeef
,,,,17
stack,zero,8,,
data,0x5000,0,empty,
"""


def test_roots_from_csv(tmp_path):
    coverage = Coverage()
    roots = read_roots(write(tmp_path, ROOTS), coverage)
    assert roots.ranges == (
        RootRange(0x1000, 64, "data", ".data"),
        RootRange(0x2000, 8, "memory", ""),
    )
    assert roots.words == (
        RootWord(0xDEADBEEF, "registers", "rbx of thread 1"),
        RootWord(17, "registers", ""),
    )
    assert [(n.code, n.count) for n in coverage] == [("table.malformed", 2)]


def test_roots_from_jsonl(tmp_path):
    text = '{"kind": "data", "address": 4096, "size": 8}\n{"value": "0x20", "name": "r1"}\n'
    roots = read_roots(write(tmp_path, text))
    assert roots.ranges == (RootRange(4096, 8, "data", ""),)
    assert roots.words == (RootWord(0x20, "registers", "r1"),)


def test_roots_of_which_nothing_is_left_are_an_error(tmp_path):
    with pytest.raises(DumpError, match="holds no roots"):
        read_roots(write(tmp_path, "kind,start,size\ndata,1,0\n"))


def test_an_npz_that_lies_about_its_size_is_an_error(tmp_path):
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<u8", "fortran_order": False, "shape": (1 << 50,)}
    )
    path = tmp_path / "o.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("address.npy", header.getvalue() + bytes(64))
    with pytest.raises(DumpError, match="npz"):
        read_objects(path)


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "o.npz"
    np.savez(path, address=np.array([1, "x"], dtype=object), size=np.array([1, 2]))
    with pytest.raises(DumpError, match="npz"):
        read_objects(path)


def test_the_kernel_s_tables_are_read(shared_data):
    folder = shared_data / "vmcore" / "snap1"
    table = read_objects(folder / "objects.csv.gz", folder / "scan_areas.csv")
    assert len(table) + sum(n.code == "objects.overlap" for n in table.anomalies) == 45196
    assert len(read_roots(folder / "roots.csv").ranges) == 185


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<u8", "<i8", ">u8", "<u4", "<i4"])
def test_columns_of_an_npz_of_any_integer_type_are_the_numbers_in_it(tmp_path, save, dtype):
    address = np.arange(1, 5000, dtype=dtype) * 16
    path = tmp_path / "objects.npz"
    save(path, address=address, size=np.full(address.size, 16, dtype=dtype))
    objects = read_objects(path)
    assert objects.address.dtype == np.uint64
    assert np.array_equal(objects.address, address)
    assert np.array_equal(objects.size, np.full(address.size, 16))
    assert (objects.min_count == 1).all()
    assert not objects.flags.any()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_negative_number_in_an_npz_is_a_malformed_row(tmp_path, save):
    path = tmp_path / "objects.npz"
    save(path, address=np.array([16, -32, 48], dtype=np.int64), size=np.array([8, 8, 8]))
    objects = read_objects(path)
    assert objects.address.tolist() == [16, 48]
    assert [note.count for note in objects.anomalies if note.code == "table.malformed"] == [1]


def test_an_object_up_to_the_end_of_the_address_space_is_left_out(tmp_path):
    path = tmp_path / "objects.npz"
    last = (1 << 64) - 17
    np.savez(path, address=np.array([16, last], dtype=np.uint64), size=np.array([8, 16]))
    assert read_objects(path).address.tolist() == [16]
