"""`kmemleak scan vmcore`, from nothing but the dump: what it says and what it exits with."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.report.json import schema

from .conftest import SNAPSHOTS, rows


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "kmemleak_core", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def reports(vmcores):
    """Return the report on a snapshot by some options, made once."""
    made = {}

    def report(name, **options):
        key = name, tuple(sorted(options.items()))
        if key not in made:
            made[key] = km.scan(vmcores(name), **options)
        return made[key]

    return report


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_running_kernels_own_report_is_printed(vmcores, shared_data, name):
    done = run("scan", "--as", "kernel", "--format", "kmemleak", vmcores(name))
    own = (shared_data / "vmcore" / name / "kernel_report.txt").read_bytes()
    assert done.returncode == 1, done.stderr
    assert done.stdout == own


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_its_own_addresses_come_in_its_order(reports, shared_data, name):
    expected = [int(r["address"], 16) for r in rows(shared_data / "vmcore" / name / "expected.csv")]
    report = reports(name, verdict="kernel")
    in_order = report.leaks.rows_by("allocation")
    assert report.leaks["address"][in_order].tolist() == expected


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_every_older_object_has_the_colour_that_the_kernel_stored(reports, name):
    agreed, others = reports(name).kernel.colours
    assert others == 0
    assert agreed > 40_000


def test_without_the_checksum_round_the_same_leaks_come_out(reports):
    plain = reports("snap2", verdict="kernel")
    without = reports("snap2", verdict="kernel", no_rules=frozenset({"checksums"}))
    assert without.leaks["address"].tolist() == plain.leaks["address"].tolist()


def test_the_frozen_images_verdict_tells_where_the_kernels_differs(reports):
    now, kernel = reports("snap1"), reports("snap1", verdict="kernel")
    (difference,) = now.kernel.differences
    assert difference.code == "born-later"
    assert difference.leak
    assert difference.objects == len(now.leaks) - len(kernel.leaks) == 7
    assert set(difference.examples) <= set(now.leaks["address"].tolist())
    # Seen from the other side they are no leaks.
    assert [d.leak for d in kernel.kernel.differences] == [False]


def test_low_memory_and_threads_tell_the_same(reports):
    plain = reports("snap2").to_dict()
    for options in ({"low_memory": True}, {"threads": 1}, {"threads": 3}):
        other = reports("snap2", **options).to_dict()
        assert other["leaks"] == plain["leaks"]
        assert other["kernel"] == plain["kernel"]


def test_leaks_of_one_backtrace_and_cache_are_one_group_with_the_oldest_as_example(reports):
    report = reports("big")
    for group in report.groups:
        origins = {report.provenance.origin(int(row)) for row in group.rows[:20]}
        assert {o.frames for o in origins} == {group.origin.frames}
        assert {o.kind for o in origins} == {group.origin.kind}
        births = [report.provenance.origin(int(row)).birth for row in group.rows]
        assert births == sorted(births)
    keys = [(g.origin.frames, g.origin.kind) for g in report.groups if g.origin.frames]
    assert len(set(keys)) == len(keys)


def test_the_text_names_kernel_backtrace_cache_and_task(reports):
    text = reports("snap1").report("text", width=200)
    assert "vmcore, x86_64, Linux 6.1.192, 2 processors, objects from kmemleak's records" in text
    assert "kmalloc_trace+0x11/0x20" in text
    assert 'comm "insmod", pid 120, jiffies 42948' in text
    assert "1 object of 4,096 bytes  kmalloc-4k  [" in text
    assert "made after the kernel's last scan began" in text
    assert "The kernel's own report has 41 leaks, as its rules have it." in text


@pytest.mark.parametrize("options", [{}, {"verdict": "kernel"}, {"records": "slub"}])
def test_the_json_is_as_its_schema_tells(reports, options):
    document = json.loads(reports("snap1", **options).report("json"))
    jsonschema.validate(document, schema())
    assert document["kernel"]["release"] == "6.1.192"
    assert document["kernel"]["records"] == options.get("records", "kmemleak")
    assert any(leak["kind"] for leak in document["leaks"])


def test_redacted_nothing_of_the_content_is_shown(reports):
    for format in ("text", "json", "kmemleak", "list"):
        shown = reports("snap1").report(format, redact=True)
        assert "4b 4d 4c 44" not in shown
        assert "4b4d4c44" not in shown


def test_a_report_of_a_kernel_in_a_notebook_is_escaped_html(reports):
    html = reports("big")._repr_html_()
    assert "<script" not in html
    assert "<table>" in html


def test_a_kernels_options_do_not_go_with_a_process(tmp_path, capsys):
    raw = tmp_path / "ram.bin"
    raw.write_bytes(bytes(64))
    (tmp_path / "o.csv").write_text("address,size\n0x1000,8\n")
    objects = ["--objects", str(tmp_path / "o.csv"), "--as", "kernel"]
    assert main(["scan", "--memory", f"0x1000:{raw}", *objects]) == 2
    assert "no dump of a kernel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-rules", "ages,colour"], "no rule called 'colour'"),
        (["--no-roots", "tls"], "no class of roots called 'tls'"),
        (["--records", "slub", "--as", "kernel"], "were not asked for"),
        (["--sysroot", "/"], "sysroot"),
    ],
)
def test_options_that_contradict_each_other_are_told(vmcores, capsys, arguments, message):
    assert main(["scan", *arguments, str(vmcores("snap1"))]) == 2
    assert message in capsys.readouterr().err


#: Leaks of the kernel's own report that only annotations hide from the allocators' books.
HIDDEN = {"snap1": 2, "snap2": 0, "big": 0}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_by_the_allocators_books_the_kernels_leaks_are_found_and_others_explained(reports, name):
    by_books = set(reports(name, records="slub").leaks["address"].tolist())
    by_kernel = set(reports(name, verdict="kernel").leaks["address"].tolist())
    differences = {d.code: d for d in reports(name, records="slub").kernel.differences}
    hidden = differences.pop("hidden", None)
    assert len(by_kernel - by_books) == (hidden.objects if hidden else 0) == HIDDEN[name]
    assert all(d.leak for d in differences.values())
    assert sum(d.objects for d in differences.values()) == len(by_books - by_kernel)
    assert differences.keys() <= {"annotated", "born-later", "too-young", "untracked", "held"}


def test_the_books_leaks_are_grouped_by_cache(reports):
    report = reports("snap1", records="slub")
    assert {g.origin.kind for g in report.groups} >= {"kmalloc-96", "kmalloc-4k", "vmalloc"}


def test_a_dump_that_is_cut_off_is_told_so(vmcores, tmp_path, capsys):
    short = tmp_path / "vmcore"
    with vmcores("snap1").open("rb") as whole:
        short.write_bytes(whole.read(100_000_000))
    assert main(["scan", str(short)]) == 3
    assert "cut off" in capsys.readouterr().err


def test_of_a_kernel_nothing_is_told_to_be_possibly_lost(reports, vmcores):
    """Its lists link objects by members in their middle: nearly everything would be."""
    report = reports("snap2")
    assert report.summary.possible_objects is None
    assert len(report.possible) == 0
    assert "possibly" not in report.report()
    with pytest.raises(km.UsageError, match="in their middle"):
        km.scan(vmcores("snap2"), possible=True)
