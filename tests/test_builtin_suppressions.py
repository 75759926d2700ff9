"""What libraries keep on purpose is suppressed unasked, told as such, and never nagged about."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture
from kmemleak_core.report.json import schema
from kmemleak_core.suppressions import BUILTIN, Suppressions

from .builders.programs import compile_c, running


@pytest.fixture
def memory(tmp_path: Path) -> list[str]:
    """Memory without roots, and a log that tells who allocated its two blocks."""
    (tmp_path / "ram").write_bytes(bytes(4096))
    log = [
        "kind,address,size,trace",
        "alloc,0x10000,288,calloc;_dl_allocate_tls;allocate_stack;pthread_create;main",
        "alloc,0x10400,64,malloc;my_dl_allocate_tls_too;main",
    ]
    (tmp_path / "events.csv").write_text("\n".join(log) + "\n")
    return ["--memory", f"0x10000:{tmp_path / 'ram'}", "--events", str(tmp_path / "events.csv")]


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    main(["scan", "--json", *words])
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, schema())
    return told


def test_what_a_library_keeps_is_no_leak(
    memory: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(capsys, *memory)
    assert [leak["address"] for leak in told["leaks"]] == ["0x10400"]
    (use,) = told["suppressions"]
    assert (use["builtin"], use["path"], use["objects"]) == (True, BUILTIN, 1)


def test_it_is_reported_if_that_is_wanted(
    memory: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(capsys, *memory, "--no-builtin-suppressions")
    assert len(told["leaks"]) == 2
    assert told["suppressions"] == []


def test_the_text_says_what_was_suppressed_and_how_to_see_it(
    memory: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", *memory])
    text = "".join(capsys.readouterr().out.split())
    assert "1object(288B)keptonpurposebyalibrary" in text
    assert "'^_dl_allocate_tls$'(--no-builtin-suppressionsreportsthem)" in text


def test_the_user_s_own_come_first(
    memory: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.supp"
    own.write_text("leak:_dl_allocate_tls\n")
    told = document(capsys, *memory, "--suppressions", str(own))
    (use,) = told["suppressions"]
    assert (use["builtin"], use["objects"]) == (False, 2)


def test_a_built_in_one_that_does_nothing_is_not_told(
    memory: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(memory[3])
    log.write_text(log.read_text().replace(";_dl_allocate_tls;", ";other;"))
    assert document(capsys, *memory)["suppressions"] == []
    main(["scan", *memory])
    assert "was not used" not in capsys.readouterr().out


def test_only_whole_names_are_built_in() -> None:
    for entry in Suppressions.builtin().entries:
        assert entry.what in ("leak", "type")
        assert "*" not in entry.text
        assert entry.what == "type" or entry.text[0] + entry.text[-1] == "^$"


THREADS = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static char *volatile inside;
static pthread_barrier_t barrier;
static void *wait(void *unused) {
    pthread_barrier_wait(&barrier);
    for (;;) pause();
    return unused;
}
int main(void) {
    pthread_t thread;
    pthread_barrier_init(&barrier, 0, 4);
    for (int i = 0; i < 3; i++) pthread_create(&thread, 0, wait, 0);
    inside = (char *)malloc(200) + 100;
    pthread_barrier_wait(&barrier);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
"""


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A core of three threads that wait, and of a block that is held by a pointer into it."""
    folder = tmp_path_factory.mktemp("threads")
    program = compile_c(folder, "threads", THREADS, "-pthread")
    with running(program) as process:
        capture(process.pid, folder / "core")
    return folder / "core"


def test_tables_of_living_threads_are_not_possibly_lost(
    threads: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(capsys, str(threads))
    assert [row["size"] for row in told["possible"]] == [200]
    (use,) = told["suppressions"]
    assert (use["what"], use["builtin"], use["possible_objects"]) == ("type", True, 3)
    main(["scan", str(threads)])
    assert "3 possibly lost objects kept on purpose" in " ".join(capsys.readouterr().out.split())


def test_without_it_they_are(threads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = document(capsys, str(threads), "--no-builtin-suppressions")
    assert len(told["possible"]) == 4


def test_explain_says_so(threads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = document(capsys, str(threads))["possible"]
    main(["explain", str(threads), block["address"]])
    text = capsys.readouterr().out
    assert "held: a root leads to it\n  possibly lost: no way to it" in text
    assert "inside in .bss of threads+" in text
    main(["explain", "--json", str(threads), block["address"]])
    assert json.loads(capsys.readouterr().out)["possibly_lost"]
