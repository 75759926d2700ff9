"""The start of a process: what importing, asking for help and scanning load, and what they do not.

Nothing is timed here: bench/bench_start.py does that.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import kmemleak_core
from kmemleak_core.cli.command import SUBCOMMANDS
from kmemleak_core.dumps.capture import capture

from .builders.programs import compile_c, running

#: What takes long to load and has no part in a plain scan.
HEAVY = {
    "asyncio",
    "elftools",
    "importlib.metadata",
    "jinja2",
    "lz4",
    "multiprocessing",
    "pandas",
    "pyarrow",
    "pydoc",
    "rich",
    "scipy",
    "zstandard",
}

#: Objects that each hold themselves and another one, and that leak, but perhaps for the last.
LEAKY = """
#include <stdio.h>
#include <stdlib.h>
void **volatile held;
int main(void) {
    for (int i = 0; i < 10; i++) {
        held = malloc(100);
        held[0] = held;
        held[1] = malloc(50);
    }
    held = NULL;
    puts("ready");
    fflush(stdout);
    getchar();
}
"""


@pytest.fixture(scope="module")
def leaky_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    program = compile_c(folder, "leaky", LEAKY)
    with running(program) as process:
        capture(process.pid, folder / "core")
    return folder / "core"


def loaded_by(code: str, *arguments: str | Path) -> set[str]:
    """Run code in a new interpreter; return the modules that it has loaded by its end."""
    tell = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    done = subprocess.run(
        [sys.executable, "-c", f"{tell}\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return set(done.stderr.splitlines()[-1].split())


def loaded_by_command(*arguments: str | Path) -> set[str]:
    return loaded_by("from kmemleak_core.cli import main; sys.exit(main())", *arguments)


class TestPublicNames:
    def test_every_public_name_is_there(self) -> None:
        for name in kmemleak_core.__all__:
            assert getattr(kmemleak_core, name) is not None

    def test_they_are_what_their_modules_define(self) -> None:
        from kmemleak_core.errors import DumpError
        from kmemleak_core.pipeline import scan

        assert kmemleak_core.DumpError is DumpError
        assert kmemleak_core.scan is scan

    def test_what_type_checkers_read_is_what_is_imported(self) -> None:
        """The imports that mypy follows name the same homes as the table used at run time."""
        tree = ast.parse(Path(kmemleak_core.__file__).read_text(encoding="utf-8"))
        (block,) = (node for node in tree.body if isinstance(node, ast.If))
        read = {
            alias.name: node.module
            for node in block.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert read == kmemleak_core._homes
        assert sorted(read) == sorted(kmemleak_core.__all__)

    def test_dir_tells_them(self) -> None:
        assert set(kmemleak_core.__all__) <= set(dir(kmemleak_core))
        assert "__version__" in dir(kmemleak_core)

    def test_a_star_import_gives_them(self) -> None:
        names: dict[str, object] = {}
        exec("from kmemleak_core import *", names)
        assert set(kmemleak_core.__all__) <= set(names)

    def test_another_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match=r"kmemleak_core.* has no attribute 'teapot'"):
            kmemleak_core.teapot  # type: ignore[attr-defined]  # noqa: B018

    def test_a_module_does_not_hide_the_function_of_its_name(self) -> None:
        importlib.import_module("kmemleak_core.scan")
        code = "import kmemleak_core.scan; assert callable(kmemleak_core.scan); print('callable')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "callable\n"

    def test_a_name_can_be_replaced_and_restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scan = kmemleak_core.scan
        with monkeypatch.context() as patched:
            patched.setattr(kmemleak_core, "scan", len)
            assert kmemleak_core.scan is len
        assert kmemleak_core.scan is scan


class TestWhatIsLoaded:
    def test_importing_the_package_loads_nothing_but_the_package(self) -> None:
        loaded = loaded_by("import kmemleak_core")
        assert not loaded & {*HEAVY, "numpy", "intervaltree"}
        assert {name for name in loaded if name.startswith("kmemleak_core.")} == {
            "kmemleak_core.lazy"
        }

    def test_a_name_loads_what_it_needs(self) -> None:
        loaded = loaded_by("import kmemleak_core; kmemleak_core.KmemleakError")
        assert "kmemleak_core.errors" in loaded
        assert "numpy" not in loaded

    def test_the_detector_loads_nothing_heavy(self) -> None:
        loaded = loaded_by("import kmemleak_core; kmemleak_core.Kmemleak")
        assert "kmemleak_core.detector" in loaded
        assert not loaded & HEAVY

    @pytest.mark.parametrize(
        "arguments",
        [("--help",), ("--version",), ("no-such-command",), *((s, "--help") for s in SUBCOMMANDS)],
        ids=" ".join,
    )
    def test_help_does_without_numpy(self, arguments: tuple[str, ...]) -> None:
        loaded = loaded_by_command(*arguments)
        assert "kmemleak_core.cli.command" in loaded
        # What formats of reports there are, other packages can tell.
        names_others = arguments == ("scan", "--help")
        assert ("importlib.metadata" in loaded) == names_others
        heavy = HEAVY - {"importlib.metadata"} if names_others else HEAVY
        assert not loaded & {*heavy, "numpy", "intervaltree"}

    def test_a_subcommand_does_not_load_the_others(self) -> None:
        loaded = loaded_by_command("scan", "--help")
        assert {s for s in SUBCOMMANDS if f"kmemleak_core.cli.{s}" in loaded} == {"scan"}

    @pytest.mark.parametrize(
        "form", ["text", "list", "json", "kmemleak", "sarif", "folded", "speedscope"]
    )
    def test_a_scan_loads_nothing_heavy(self, form: str, leaky_core: Path) -> None:
        loaded = loaded_by_command("scan", "--format", form, leaky_core)
        assert "kmemleak_core.leaks" in loaded
        assert not loaded & HEAVY
