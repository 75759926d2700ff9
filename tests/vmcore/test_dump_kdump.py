"""Compressed kernel dumps: the same memory as the ELF dump has, wherever a page is present."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard

from kmemleak_core import Dump, DumpError
from kmemleak_core.dumps import open_dump

from ..builders.vmcore import KERNEL_MAP, PAGE, Machine, flattened
from .test_dump_layouts import VMALLOC, codes, opened

ZLIB, LZO, SNAPPY, ZSTD = 1, 2, 4, 0x20


def lzo(page: bytes) -> bytes:
    """Pack as the first byte and a copy of it, over and over, where that makes the page."""
    if page.count(page[:1]) < len(page):
        return page
    zeros, rest = divmod(len(page) - 1 - 2 - 31 - 1, 255)
    # Literal; copy of 33 + 255 * zeros + last bytes from distance 1; the end.
    return bytes([18]) + page[:1] + bytes([32, *[0] * zeros, rest + 1, 0, 0]) + b"\x11\0\0"


def same(dump: Dump, whole: Dump) -> bool:
    return all(
        np.array_equal(r.data, whole.machine.physical.view(r.address, r.data.size))
        for r in dump.machine.physical.ranges
    )


@pytest.fixture(scope="module")
def whole(vmcores) -> Dump:
    return open_dump(vmcores("snap1"))


class TestRealOnes:
    def test_a_filtered_lzo_dump_has_what_it_was_made_from(self, shared_data, whole):
        dump = open_dump(shared_data / "vmcore" / "snap1" / "vmcore.lzo-d31.kdump")
        assert dump.machine.missing == 26966
        assert dump.machine.physical.nbytes == (40960 - 26966) * PAGE
        assert same(dump, whole)
        assert dump.machine.info == whole.machine.info
        assert dump.threads == whole.threads
        assert (dump.format, dump.architecture) == ("kdump", "x86_64")

    def test_what_is_mapped_is_there_or_a_hole(self, shared_data, whole):
        image = open_dump(shared_data / "vmcore" / "snap1" / "vmcore.lzo-d31.kdump").image
        assert image.nbytes + sum(h.size for h in image.holes) == whole.image.nbytes + sum(
            h.size for h in whole.image.holes
        )
        for segment in image.segments:
            assert np.array_equal(segment.data, whole.image.view(segment.address, segment.size))

    @pytest.mark.parametrize("options", ["-c -d31", "-l -d0", "-d31", "-c -d1", "-E -d31"])
    @pytest.mark.parametrize("flat", [False, True], ids=["file", "flattened"])
    def test_whatever_makedumpfile_writes_is_read(self, vmcores, whole, tmp_path, options, flat):
        program = shutil.which("makedumpfile")
        if program is None:
            pytest.skip("makedumpfile is not installed: apt-get install makedumpfile")
        core, made = str(vmcores("snap1")), tmp_path / "made"
        command = [program, *options.split(), core]
        if flat:
            with made.open("wb") as out:
                subprocess.run([*command, "-F"], stdout=out, stderr=subprocess.PIPE, check=True)
        else:
            subprocess.run([*command, str(made)], capture_output=True, check=True)
        dump = open_dump(made)
        assert same(dump, whole)
        assert dump.machine.physical.nbytes + dump.machine.missing * PAGE == 40960 * PAGE
        assert dump.machine.info == whole.machine.info
        assert dump.threads == whole.threads


class TestSmallOnes:
    @pytest.mark.parametrize(
        ("pack", "flag"),
        [
            (None, 0),
            (zlib.compress, ZLIB),
            (lzo, LZO),
            (zstandard.ZstdCompressor().compress, ZSTD),
        ],
        ids=["not packed", "zlib", "lzo", "zstd"],
    )
    @pytest.mark.parametrize("share_zeros", [True, False])
    def test_pages_come_out_as_they_were(self, tmp_path, pack, flag, share_zeros):
        machine = Machine()
        machine.write(0x3000, bytes(range(256)) * 16)
        machine.write(0x30000, b"x" * PAGE)
        machine.map(VMALLOC, 0x3000)
        dump = opened(tmp_path, machine.kdump(pack, flag, share_zeros=share_zeros))
        assert bytes(dump.machine.physical.view(0, machine.size)) == bytes(machine.memory)
        assert dump.image.read(VMALLOC, PAGE) == bytes(range(256)) * 16
        assert not codes(dump)

    def test_pages_that_were_left_out_are_counted(self, tmp_path):
        machine = Machine()
        machine.map(VMALLOC, 40 * PAGE, 4)
        dump = opened(tmp_path, machine.kdump(zlib.compress, ZLIB, left_out=frozenset({41, 50})))
        assert dump.machine.missing == 2
        assert [(h.address, h.size) for h in dump.image.holes] == [(VMALLOC + PAGE, PAGE)]
        assert codes(dump) == ["vmcore.filtered", "vmcore.missing"]

    @pytest.mark.parametrize("machine", [b"", b"Unknown"])
    def test_a_writer_that_leaves_the_machine_out_is_understood(self, tmp_path, machine):
        dump = opened(tmp_path, Machine().kdump(zlib.compress, ZLIB, machine=machine))
        assert dump.architecture == "x86_64"

    def test_older_headers_are_read(self, tmp_path):
        dump = opened(tmp_path, Machine().kdump(version=5))
        assert dump.image.read(KERNEL_MAP, 3) == b"the"

    def test_a_flattened_dump_is_put_together(self, tmp_path):
        machine = Machine()
        for content in (machine.elf(), machine.kdump(zlib.compress, ZLIB)):
            dump = opened(tmp_path, flattened(content))
            assert bytes(dump.machine.physical.view(0, machine.size)) == bytes(machine.memory)

    def test_one_of_several_files_holds_its_part(self, tmp_path):
        dump = opened(tmp_path, Machine().kdump(pieces=(0, 40)))
        assert dump.machine.physical.nbytes == 40 * PAGE
        assert dump.machine.missing == 24
        assert codes(dump) == ["vmcore.split", "vmcore.filtered"]

    def test_a_page_that_is_damaged_is_left_out_and_counted(self, tmp_path):
        machine = Machine()
        machine.write(0x3000, b"damaged" + bytes(range(250)))
        content = machine.kdump(zlib.compress, ZLIB, share_zeros=False)
        packed = zlib.compress(bytes(machine.memory[0x3000:0x4000]))
        dump = opened(tmp_path, content.replace(packed, b"\xff" * len(packed)))
        assert dump.machine.physical.find(0x3000) is None
        assert dump.machine.physical.nbytes == machine.size - PAGE
        assert (dump.machine.missing, codes(dump)) == (1, ["dump.truncated"])


class TestErrors:
    def test_a_file_cut_off_in_its_pages_is_read_as_far_as_it_goes(self, tmp_path):
        machine = Machine()
        machine.write(20 * PAGE, b"x" * 30 * PAGE)
        content = machine.kdump()
        dump = opened(tmp_path, content[: -20 * PAGE])
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
        assert "dump.truncated" in codes(dump)

    def test_a_dump_that_its_writer_did_not_finish_says_so(self, tmp_path):
        dump = opened(tmp_path, Machine().kdump(flag=8))
        assert [n.message for n in dump.coverage] == [
            "its writer did not finish the dump: pages are missing"
        ]

    @pytest.mark.parametrize(
        ("size", "match"),
        [
            (100, "header"),
            (PAGE + 10, "sub-header"),
            (3 * PAGE, "bitmaps"),
            (4 * PAGE, "no memory"),
        ],
    )
    def test_a_file_cut_off_before_its_pages_says_where(self, tmp_path, size, match):
        with pytest.raises(DumpError, match=match):
            opened(tmp_path, Machine().kdump()[:size])

    def test_another_architecture_is_named(self, tmp_path):
        with pytest.raises(DumpError, match="architecture"):
            opened(tmp_path, Machine().kdump(machine=b"ppc64le"))

    def test_what_does_not_fit_is_told(self, tmp_path, monkeypatch):
        import os

        class Full:
            f_bavail, f_frsize = 1, 4096

        monkeypatch.setattr(os, "fstatvfs", lambda descriptor: Full)
        with pytest.raises(DumpError, match="TMPDIR"):
            opened(tmp_path, Machine().kdump())

    def test_nothing_is_left_in_the_temporary_folder(self, tmp_path, monkeypatch):
        import tempfile

        folder: Path = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        opened(tmp_path, flattened(Machine().kdump()))
        assert not list(folder.iterdir())
