"""Redacted, no face of a report shows what memory holds, nor what the process was started with."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from kmemleak_core import MemoryImage, ObjectTable, Roots, scan, scan_image
from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture
from kmemleak_core.report import renderer_names
from kmemleak_core.report.columns import TABLES
from kmemleak_core.report.export import FORMATS

from .builders.programs import compile_c, running
from .test_report_formats import a_report

#: No eight characters of it occur by chance.
SECRET = "Zq7hunter2Kx9Wv4Jb3pLt8Ng6RsYc1d"

#: Leaks copies of its first argument: as text, behind pointers, and in a list.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct node { struct node *next; char text[40]; };
static struct node *volatile list;
int main(int argc, char **argv) {
    for (int i = 0; i < 4; i++) {
        strcpy(calloc(1, 64), argv[1]);
        struct node *node = calloc(1, sizeof *node);
        strcpy(node->text, argv[1]);
        node->next = list;
        list = node;
    }
    list = NULL;
    puts("ready");
    fflush(stdout);
    getchar();
}
"""


class Leaky(NamedTuple):
    core: Path
    #: An address in a leak.
    address: str


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Leaky:
    """A core of a program with the secret in its leaks, its arguments and its environment."""
    folder = tmp_path_factory.mktemp("secretive")
    program = compile_c(folder, "secretive", PROGRAM)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PASSWORD", SECRET)
        with running(program, SECRET) as process:
            capture(process.pid, folder / "core")
    report = scan(folder / "core", no_roots=["registers", "stacks"])
    assert len(report.leaks) >= 8
    return Leaky(folder / "core", hex(report.leaks["address"][-1]))


def forms() -> Iterator[str]:
    """Yield how a word of the secret can be written."""
    for begin in range(len(SECRET) - 7):
        piece = SECRET[begin : begin + 8]
        raw = piece.encode()
        yield piece
        yield raw.hex()
        yield raw.hex(" ")
        for byteorder in ("little", "big"):
            number = int.from_bytes(raw, byteorder)  # type: ignore[arg-type]
            yield f"{number:x}"
            yield str(number)
    yield base64.b64encode(SECRET.encode()).decode()[4:-4]


def shows_secret(text: str) -> bool:
    return any(form in text for form in forms())


def output_of(*arguments: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        code = main([str(argument) for argument in arguments])
    assert code in (0, 1)
    return out.getvalue()


#: Faces beside the formats of reports: the command line, with the core and an address to fill in.
COMMANDS = {
    "cluster dot": "cluster --no-roots registers,stacks {core} {address}",
    "cluster graphml": "cluster --no-roots registers,stacks {core} {address} --format graphml",
    "cluster json": "cluster --no-roots registers,stacks {core} {address} --format json",
    "diff": "diff {core} {core}",
    "diff json": "diff --json {core} {core}",
    "explain": "explain {core} {address}",
    "explain json": "explain --json {core} {address}",
    "paths": "paths {core} {address}",
    "referrers": "referrers {core} {address}",
    "retained": "retained {core}",
    "retained json": "retained --json {core}",
    "types": "types {core}",
    "types json": "types --json {core}",
}

#: Of those what shows content unless told not to.
OPEN = {"text", "json", "kmemleak", "diff", "diff json", "explain", "explain json"}


def arguments_of(name: str, core: Path, address: str) -> list[str]:
    """Return the command line of a face."""
    scan = "scan --format {name} --limit 0 --no-roots registers,stacks {core}"
    line = COMMANDS.get(name, scan)
    return line.format(name=name, core=core, address=address).split()


@pytest.mark.parametrize("name", [*renderer_names(), *COMMANDS])
def test_a_redacted_face_shows_nothing_of_the_memory(name: str, secretive: Leaky) -> None:
    arguments = arguments_of(name, *secretive)
    assert not shows_secret(output_of(*arguments, "--redact"))


@pytest.mark.parametrize("name", sorted(OPEN))
def test_a_face_that_is_not_redacted_shows_it(name: str, secretive: Leaky) -> None:
    assert shows_secret(output_of(*arguments_of(name, *secretive)))


def test_the_values_of_registers_are_redacted() -> None:
    """Copying a text leaves it in the vector registers."""
    image = MemoryImage.from_segments([(0x1000, bytes(64))])
    roots = Roots.from_ranges(words=[int.from_bytes(SECRET[:8].encode(), "little")])
    result = scan_image(image, ObjectTable.from_arrays([0x1000], [64]), roots)
    report = a_report(result=result, leaks=result.leaks, groups=(), image=image)
    assert shows_secret(report.to_arrow("roots").to_pandas().to_csv())
    assert not shows_secret(report.to_arrow("roots", redact=True).to_pandas().to_csv())


@pytest.mark.parametrize("format", FORMATS)
def test_redacted_tables_hold_nothing_of_the_memory(
    format: str, secretive: Leaky, tmp_path: Path
) -> None:
    line = ["export", "--redact", "--format", format, "-o", str(tmp_path), str(secretive.core)]
    output_of(*line)
    found = set()
    for path in tmp_path.iterdir():
        found.add(path.stem)
        assert not shows_secret(path.read_bytes().decode("latin-1"))
        # What is packed does not show it in any case.
        assert not shows_secret(values_of(path))
    assert found == set(TABLES)


def values_of(path: Path) -> str:
    """Return all that a file holds as text."""
    readers: dict[str, Callable[[Path], str]] = {
        ".parquet": lambda path: (
            pd.read_parquet(path).to_csv() + str(pyarrow.parquet.read_schema(path).metadata)
        ),
        ".arrow": lambda path: pd.read_feather(path).to_csv(),
        ".npz": _arrays,
    }
    return readers[path.suffix](path)


def _arrays(path: Path) -> str:
    with np.load(path) as arrays, np.printoptions(threshold=sys.maxsize):
        return "".join(f"{name} {arrays[name]}" for name in arrays)
