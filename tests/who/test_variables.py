"""Variables, and members of them, are called as a debugger would call them: of programs that tell
how that is, compiled in several ways."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.cli import main
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.capture import capture
from kmemleak_core.pipeline import find_leaks
from kmemleak_core.symbols.dwarf_entries import Budget, DamagedError, Entries, TooMuchError
from kmemleak_core.symbols.elf_file import open_elf
from kmemleak_core.symbols.variables import variable_text
from kmemleak_core.who.explain import Explainer

from ..builders.debug_files import split_debug
from ..builders.programs import running

HERE = Path(__file__).parent


@dataclass
class Named:
    """A core, and what the program says of what it holds: symbol, offset and whole name."""

    core: Path
    program: Path
    blocks: dict[int, tuple[str, int, str]]
    sysroot: Path | None = None

    def explainer(self) -> Explainer:
        return Explainer(find_leaks(self.core), self.sysroot)

    def symbols(self, explainer: Explainer, address: int) -> set[str]:
        return {h.symbol for h in explainer.holders(address) if h.word.live and h.symbol}


def compiled(folder: Path, source: str, *flags: str) -> Path:
    compiler = shutil.which("g++" if source.endswith("pp") else "gcc")
    if compiler is None:
        pytest.skip("no compiler")
    program = folder / source.partition(".")[0]
    subprocess.run([compiler, "-o", str(program), str(HERE / source), *flags], check=True)
    return program


def dumped(program: Path, sysroot: Path | None = None) -> Named:
    core = program.with_suffix(".core")
    blocks = {}
    with running(program) as process:
        assert process.stdout is not None
        capture(process.pid, core)
        process.kill()
        for line in process.stdout.read().decode().splitlines():
            if line != "ready":
                address, symbol, offset, name = line.split(" ", 3)
                blocks[int(address, 16)] = symbol, int(offset, 16), name
    if sysroot is not None:
        # The frames below the program's own are the C library's.
        for path in {f.path for f in open_dump(core).files}:
            copy = sysroot / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    return Named(core, program, blocks, sysroot)


@pytest.fixture(
    scope="module",
    params=["-g -O0", "-gdwarf-4 -O0", "-gdwarf-5 -O0 -no-pie -static", "split", "compressed"],
)
def in_c(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Named:
    folder = tmp_path_factory.mktemp("named")
    if request.param.startswith("-"):
        return dumped(compiled(folder, "named.c", *request.param.split()))
    program = compiled(folder, "named.c", "-g", "-O0", "-Wl,--build-id")
    flags = ["--compress-debug-sections=zlib"] if request.param == "compressed" else []
    split_debug(program, folder / "sysroot", *flags)
    return dumped(program, folder / "sysroot")


@pytest.fixture(scope="module", params=["-O0", "-O2", "library", "shared"])
def in_cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Named:
    folder = tmp_path_factory.mktemp("named")
    if request.param == "shared":
        # As distributions do it, what two files have in common is in a third.
        if shutil.which("dwz") is None:
            pytest.skip("no dwz")
        program = compiled(folder, "named.cpp", "-g", "-O0")
        shutil.copy2(program, folder / "another")
        common = str(folder / "common.debug")
        names = [str(program), str(folder / "another")]
        subprocess.run(["dwz", "-m", common, "-M", "common.debug", *names], check=True)
        return dumped(program)
    if request.param == "library":
        library = compiled(folder, "named.cpp", "-g", "-shared", "-fPIC", "-Dmain=in_library")
        (folder / "uses.cpp").write_text("int in_library(); int main() { return in_library(); }")
        program = folder / "uses"
        made = [library.rename(folder / "libnamed.so"), f"-Wl,-rpath,{folder}"]
        subprocess.run(["g++", "-o", program, folder / "uses.cpp", *made], check=True)
        return dumped(program)
    return dumped(compiled(folder, "named.cpp", "-g", request.param))


@pytest.fixture(scope="module")
def without_dwarf(tmp_path_factory: pytest.TempPathFactory) -> Named:
    return dumped(compiled(tmp_path_factory.mktemp("named"), "named.c", "-O0"))


def names(named: Named) -> Iterator[tuple[str, set[str]]]:
    explainer = named.explainer()
    assert len(named.blocks) == 9
    for address, (_, _, name) in named.blocks.items():
        yield name, named.symbols(explainer, address)


def test_members_elements_and_locals_of_c(in_c: Named) -> None:
    for name, symbols in names(in_c):
        wanted = f"remember()::{name}" if name.startswith("memory.") else name
        assert wanted in symbols


def test_members_bases_singletons_and_containers_of_cpp(in_cpp: Named) -> None:
    for name, symbols in names(in_cpp):
        assert name in symbols


def test_what_is_in_a_file_that_is_gone_has_no_names(
    tmp_path: Path, in_cpp: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (in_cpp.core.parent / "common.debug").exists():
        return
    monkeypatch.setattr("kmemleak_core.symbols.process.shared_file", lambda file, sysroot: None)
    explainer = in_cpp.explainer()
    told = set().union(*(in_cpp.symbols(explainer, address) for address in in_cpp.blocks))
    assert any(text.startswith("app::derived+0x") for text in told)


def test_a_local_is_told_with_its_frame(in_c: Named) -> None:
    explainer = in_c.explainer()
    (address,) = (a for a, (_, _, name) in in_c.blocks.items() if name == "local.slots[1]")
    (holder,) = (h for h in explainer.holders(address) if h.symbol == "local.slots[1]")
    assert holder.frame.startswith("outer+0x")
    assert f"local.slots[1] in frame of {holder.frame}" in holder.text


def test_without_dwarf_names_degrade_to_symbol_and_offset(without_dwarf: Named) -> None:
    explainer = without_dwarf.explainer()
    for address, (symbol, offset, _) in without_dwarf.blocks.items():
        if symbol == "-":
            (holder,) = (h for h in explainer.holders(address) if h.word.live)
            assert holder.symbol == holder.frame != ""
            continue
        (told,) = without_dwarf.symbols(explainer, address)
        # A compiler numbers the static variables of functions.
        head, _, tail = told.partition("+")
        assert head.partition(".")[0] == symbol
        assert int(tail or "0", 16) == offset


def test_the_frames_are_those_that_gdb_finds(without_dwarf: Named) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    ways = ["-ex", "set backtrace past-main", "-ex", "set backtrace past-entry", "-ex", "bt"]
    files = [str(without_dwarf.program), str(without_dwarf.core)]
    shown = subprocess.run(["gdb", "-batch", "-nx", *ways, *files], capture_output=True, text=True)
    # The innermost is told twice; what is inlined has no address of its own there.
    of_gdb = re.findall(r"^#\d+ +(0x[0-9a-f]+) in", shown.stdout, re.MULTILINE)
    explainer = without_dwarf.explainer()
    (thread,) = explainer.found.dump.threads
    process = explainer._process
    assert process is not None
    place, ours = thread.stack_pointer, []
    while (frame := process.frame(thread, place)) is not None:
        # Within the call, where gdb has the address behind it; the innermost makes no call.
        ours.append(frame.code + bool(ours))
        place = frame.high
    assert ours == [int(address, 16) for address in of_gdb[1:]]
    names = [process.text(code).partition("+")[0] for code in ours]
    assert names[1:4] == ["wait_with", "outer", "main"]
    assert names[-1] == "_start"


def test_a_file_with_too_much_dwarf_is_left_alone_and_that_is_told(
    in_cpp: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = in_cpp.explainer()
    process = explainer._process
    assert process is not None
    monkeypatch.setattr(process, "_budget", Budget(10))
    told = [explainer.explain(address) for address in in_cpp.blocks]
    assert any("app::derived+0x" in h.symbol for t in told for h in t.holders)
    notes = [n.message for n in told[-1].coverage if n.code == "symbols.dwarf"]
    (note,) = (note for note in notes if note.startswith(f"{in_cpp.program.parent}/"))
    assert "members of variables have no names" in note


def test_damaged_dwarf_has_fewer_names_and_nothing_worse(tmp_path: Path) -> None:
    program = compiled(tmp_path, "named.c", "-g", "-O0")
    listed = subprocess.run(["nm", str(program)], capture_output=True, text=True).stdout
    (address,) = (int(line[:16], 16) for line in listed.splitlines() if line.endswith(" cache"))
    whole = np.fromfile(program, np.uint8)

    def text(data: np.ndarray) -> str | None:
        file = open_elf(data)
        assert file is not None
        return variable_text(Entries(file, Budget(2000)), address, 24)

    assert text(whole) == "cache.buckets[0].value"
    random = np.random.default_rng(7)
    parts = [s for s in open_elf(whole).sections if s.name.startswith(".debug_")]
    outcomes = set()
    for _ in range(300):
        damaged = whole.copy()
        for part in parts:
            at = random.integers(part.offset, part.offset + part.size, 1 + part.size // 200)
            damaged[at] = random.integers(0, 256, at.size)
        try:
            outcomes.add(type(text(damaged)))
        except (DamagedError, TooMuchError) as error:
            outcomes.add(type(error))
    assert {str, DamagedError} <= outcomes


def test_redacted_names_of_variables_stay(in_cpp: Named, capsys: pytest.CaptureFixture) -> None:
    address = next(iter(in_cpp.blocks))
    assert main(["explain", "--redact", str(in_cpp.core), hex(address)]) == 0
    assert "app::derived.of_base in " in capsys.readouterr().out
