"""The C API, its header, the .pxd files and the arena example that embeds the detector."""

from __future__ import annotations

import ctypes
import importlib.util
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kmemleak_core as km

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "arena" / "arena.py"

OK, OVERLAP, UNKNOWN, ALIAS, NO_MEMORY, DISABLED, FAILED = 0, -1, -2, -3, -4, -5, -6


class Api(ctypes.Structure):
    """``kmemleak_api``, through which these tests call as C does."""

    _P, _N, _I, _U = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint32
    _Q = ctypes.POINTER(ctypes.c_uint64)
    _fields_ = (
        ("version", _U),
        ("size", _U),
        ("attach", ctypes.PYFUNCTYPE(_P, ctypes.py_object)),
        ("detach", ctypes.CFUNCTYPE(None, _P)),
        ("alloc", ctypes.CFUNCTYPE(_I, _P, _P, _N, _I, _U)),
        ("free", ctypes.CFUNCTYPE(_I, _P, _P)),
        ("alloc_many", ctypes.CFUNCTYPE(ctypes.c_int64, _P, _Q, _Q, _N, _I, _U)),
        ("free_many", ctypes.CFUNCTYPE(ctypes.c_int64, _P, _Q, _N)),
        ("not_leak", ctypes.CFUNCTYPE(_I, _P, _P)),
        ("ignore", ctypes.CFUNCTYPE(_I, _P, _P)),
        ("unignore", ctypes.CFUNCTYPE(_I, _P, _P, _I)),
        ("no_scan", ctypes.CFUNCTYPE(_I, _P, _P)),
        ("scan_area", ctypes.CFUNCTYPE(_I, _P, _P, _N)),
        ("free_part", ctypes.CFUNCTYPE(_I, _P, _P, _N)),
        ("trace", ctypes.CFUNCTYPE(_U, _P, _Q, _N)),
        ("scan", ctypes.CFUNCTYPE(ctypes.c_int64, _P)),
    )


class Embedded:
    """A detector over 4 KiB at 0x1000, the first 256 bytes of it root, seen from C."""

    def __init__(self, **options: Any) -> None:
        self.memory = np.zeros(512, dtype=np.uint64)
        options = {"min_age": 0.0, "checksums": False, **options}
        image = km.MemoryImage.from_segments([(0x1000, self.memory.view(np.uint8))])
        self.detector = km.Kmemleak(image, **options)
        self.detector.add_root(0x1000, 256)
        self.attachment = km.attach(self.detector)
        self.handle = self.attachment.handle
        self.api = Api.from_address(self.attachment.api)

    def store(self, place: int, value: int) -> None:
        self.memory[(place - 0x1000) // 8] = value

    def leaks(self) -> list[int]:
        self.detector.scan()
        return [leak.address for leak in self.detector.unreferenced()]


@pytest.fixture
def embedded() -> Embedded:
    return Embedded()


def quads(*values: int) -> Any:
    return (ctypes.c_uint64 * len(values))(*values)


def test_the_table_tells_its_version_and_size(embedded: Embedded) -> None:
    assert embedded.api.version == 1
    assert embedded.api.size == ctypes.sizeof(Api)


def test_the_capsule_holds_the_same_table(embedded: Embedded) -> None:
    from kmemleak_core import _capi

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    assert get(_capi.API, b"kmemleak_core._capi.API") == embedded.attachment.api


def test_a_block_that_c_allocates_and_nobody_holds_is_a_leak(embedded: Embedded) -> None:
    assert embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0) == OK
    assert embedded.api.alloc(embedded.handle, 0x1300, 64, 1, 0) == OK
    embedded.store(0x1000, 0x1300)
    assert embedded.leaks() == [0x1200]


def test_a_block_that_c_frees_is_forgotten(embedded: Embedded) -> None:
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    assert embedded.api.free(embedded.handle, 0x1200) == OK
    assert len(embedded.detector) == 0


def test_c_and_python_share_the_objects(embedded: Embedded) -> None:
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    embedded.detector.alloc(0x1300, 64)
    embedded.detector.free(0x1200)
    assert embedded.api.free(embedded.handle, 0x1300) == OK
    assert len(embedded.detector) == 0


def test_bulk_calls_tell_how_many_they_took(embedded: Embedded) -> None:
    address, size = quads(0x1200, 0x1240, 0x1250, 0), quads(64, 64, 64, 64)
    assert embedded.api.alloc_many(embedded.handle, address, size, 4, 1, 0) == 2
    assert embedded.api.free_many(embedded.handle, address, 4) == 2
    assert {note.code: note.count for note in embedded.detector.anomalies} == {
        "objects.overlap": 1,
        "free.unknown": 1,
    }


@pytest.mark.parametrize("address", [0, 2**64 - 1, 2**64 - 4095])
def test_null_and_error_pointers_are_ignored(embedded: Embedded, address: int) -> None:
    assert embedded.api.alloc(embedded.handle, address, 64, 1, 0) == OK
    assert embedded.api.free(embedded.handle, address) == OK
    assert embedded.api.not_leak(embedded.handle, address) == OK
    assert len(embedded.detector) == 0


def test_misuse_is_a_return_value_and_a_counted_anomaly(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    assert api.alloc(handle, 0x1210, 64, 1, 0) == OVERLAP
    assert api.free(handle, 0x1208) == ALIAS
    assert api.free(handle, 0x1900) == UNKNOWN
    assert api.ignore(handle, 0x1900) == UNKNOWN
    assert api.no_scan(handle, 0x1208) == ALIAS
    assert api.scan_area(handle, 0x1900, 8) == UNKNOWN
    assert api.free_part(handle, 0x1900, 8) == UNKNOWN
    assert [note.code for note in embedded.detector.anomalies] == [
        "objects.overlap",
        "free.alias",
        "free.unknown",
        "ignore.unknown",
        "no_scan.alias",
        "scan_area.unknown",
        "free_part.unknown",
    ]
    assert len(embedded.detector) == 1


def test_an_overlap_disables_a_strict_detector_as_in_the_kernel() -> None:
    embedded = Embedded(strict_kernel=True)
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    assert embedded.api.alloc(embedded.handle, 0x1210, 64, 1, 0) == OVERLAP
    assert not embedded.detector.enabled
    assert embedded.api.alloc(embedded.handle, 0x1300, 64, 1, 0) == DISABLED


def test_a_disabled_detector_takes_nothing_from_c(embedded: Embedded) -> None:
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    embedded.detector.disable()
    assert embedded.api.alloc(embedded.handle, 0x1300, 64, 1, 0) == DISABLED
    assert embedded.api.alloc_many(embedded.handle, quads(0x1300), quads(8), 1, 1, 0) == DISABLED
    assert embedded.api.free(embedded.handle, 0x1200) == DISABLED
    assert embedded.api.scan(embedded.handle) == DISABLED
    assert len(embedded.detector) == 0


def test_not_leak_from_c_hides_an_object_and_what_it_holds(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    api.alloc(handle, 0x1300, 64, 1, 0)
    embedded.store(0x1200, 0x1300)
    assert api.not_leak(handle, 0x1200) == OK
    assert embedded.leaks() == []


def test_ignore_from_c_hides_an_object_but_not_what_it_holds(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    api.alloc(handle, 0x1300, 64, 1, 0)
    embedded.store(0x1200, 0x1300)
    assert api.ignore(handle, 0x1200) == OK
    assert embedded.leaks() == [0x1300]


def test_unignore_from_c_makes_an_object_a_leak_again(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    api.ignore(handle, 0x1200)
    assert api.unignore(handle, 0x1200, 1) == OK
    assert embedded.leaks() == [0x1200]


def test_no_scan_from_c_loses_what_only_that_object_holds(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    api.alloc(handle, 0x1300, 64, 1, 0)
    embedded.store(0x1000, 0x1200)
    embedded.store(0x1200, 0x1300)
    assert api.no_scan(handle, 0x1200) == OK
    assert embedded.leaks() == [0x1300]


def test_a_scan_area_from_c_is_all_that_is_scanned_of_its_object(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    for address in (0x1200, 0x1300, 0x1400):
        api.alloc(handle, address, 64, 1, 0)
    embedded.store(0x1000, 0x1200)
    embedded.store(0x1200, 0x1300)
    embedded.store(0x1220, 0x1400)
    assert api.scan_area(handle, 0x1220, 2**64 - 1) == OK
    assert embedded.leaks() == [0x1300]


def test_scan_areas_of_an_object_that_c_frees_are_dropped(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 64, 1, 0)
    api.scan_area(handle, 0x1220, 8)
    api.free(handle, 0x1200)
    api.alloc(handle, 0x1300, 64, 1, 0)
    embedded.detector.scan()
    assert embedded.detector._areas == {}


def test_free_part_from_c_leaves_both_sides_tracked(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    api.alloc(handle, 0x1200, 96, 1, 0)
    assert api.free_part(handle, 0x1220, 32) == OK
    assert embedded.leaks() == [0x1200, 0x1240]


def test_a_backtrace_from_c_is_stored_once_and_shown(embedded: Embedded) -> None:
    api, handle = embedded.api, embedded.handle
    trace = api.trace(handle, quads(0xABC0, 0xDEF0), 2)
    assert trace == api.trace(handle, quads(0xABC0, 0xDEF0), 2) > 0
    api.alloc(handle, 0x1200, 64, 1, trace)
    embedded.leaks()
    (leak,) = embedded.detector.unreferenced()
    assert leak.backtrace == (0xABC0, 0xDEF0)


def test_c_can_scan(embedded: Embedded) -> None:
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    assert embedded.api.scan(embedded.handle) == 1
    assert embedded.api.scan(embedded.handle) == 0


def test_the_age_of_a_block_from_c_counts_from_its_allocation(embedded: Embedded) -> None:
    time.sleep(0.05)
    embedded.api.alloc(embedded.handle, 0x1200, 64, 1, 0)
    from_c = embedded.detector.find(0x1200)
    embedded.detector.alloc(0x1300, 64)
    from_python = embedded.detector.find(0x1300)
    assert from_c is not None
    assert from_python is not None
    assert 0 < from_c.jiffies <= from_python.jiffies


def test_a_detector_with_a_pending_early_log_is_not_attached() -> None:
    with pytest.raises(km.UsageError, match="start"):
        Embedded(early_log=10)


def test_only_a_detector_can_be_attached() -> None:
    with pytest.raises(TypeError, match="int"):
        km.attach(3)  # type: ignore[arg-type]


def test_an_attachment_from_c_keeps_the_detector_alive() -> None:
    embedded = Embedded()
    api = embedded.api
    handle = api.attach(embedded.detector)
    memory = embedded.memory
    del embedded
    assert api.alloc(handle, 0x1200, 64, 1, 0) == OK
    assert api.scan(handle) == 1
    api.detach(handle)
    assert memory.size == 512


def test_threads_allocate_and_free_from_c_while_scans_run() -> None:
    embedded = Embedded()
    api, handle = embedded.api, embedded.handle
    wrong: list[int] = []
    done = threading.Event()

    def work(base: int) -> None:
        address = quads(*range(base, base + 64 * 200, 64))
        size = quads(*[64] * 200)
        for _ in range(100):
            if api.alloc_many(handle, address, size, 200, 0, 0) != 200:
                wrong.append(base)
            if api.free_many(handle, address, 200) != 200:
                wrong.append(base)

    threads = [threading.Thread(target=work, args=(0x100000 * (n + 1),)) for n in range(4)]
    scanner = threading.Thread(target=lambda: [embedded.leaks() for _ in iter(done.is_set, True)])
    scanner.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    scanner.join()
    assert wrong == []
    assert len(embedded.detector) == 0
    assert embedded.leaks() == []


# The header and the .pxd files.


def compiler() -> list[str]:
    command = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C compiler: {command[0]}")
    return command


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_on_its_own(tmp_path: Path, language: str) -> None:
    source = tmp_path / "user.c"
    source.write_text(
        "#include <kmemleak_core.h>\n"
        "int use(const kmemleak_api *api, kmemleak_detector *d, void *p);\n"
        "int use(const kmemleak_api *api, kmemleak_detector *d, void *p) {\n"
        "    return api->alloc(d, p, 8, 1, 0) == KMEMLEAK_OK;\n"
        "}\n"
    )
    command = [*compiler(), "-x", language, "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += [f"-I{km.get_include()}", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cc1plus" in done.stderr:
        pytest.skip("no C++ compiler")
    assert done.returncode == 0, done.stderr


EXTENSION = r"""
#include <Python.h>
#include <kmemleak_core.h>

/* plant(detector, address): tracks a block there. */
static PyObject *plant(PyObject *self, PyObject *args) {
    PyObject *detector;
    unsigned long long address;
    (void)self;
    if (!PyArg_ParseTuple(args, "OK", &detector, &address)) return NULL;
    const kmemleak_api *api = kmemleak_import();
    if (api == NULL) return NULL;
    kmemleak_detector *leak = api->attach(detector);
    if (leak == NULL) return NULL;
    int got;
    Py_BEGIN_ALLOW_THREADS
    got = api->alloc(leak, (void *)(uintptr_t)address, 64, 1, 0);
    Py_END_ALLOW_THREADS
    api->detach(leak);
    return PyLong_FromLong(got);
}

static PyMethodDef methods[] = {{"plant", plant, METH_VARARGS, ""}, {0, 0, 0, 0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "planter", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_planter(void) {
    PyObject *made = PyModule_Create(&module);
#ifdef Py_GIL_DISABLED
    if (made) PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
"""

CYTHON = """
from libc.stdint cimport int64_t, uint64_t
from kmemleak_core._scan cimport ImageView
from kmemleak_core._tracker cimport ObjectStore


def put(ObjectStore store, uint64_t address):
    cdef int64_t slot
    with nogil:
        with store.lock:
            slot = store.add(address, 64, 1, 0, 0, 0)
    return slot


def word(ImageView view, uint64_t address):
    cdef uint64_t value = 0
    return value if view.gather(address, &value, 8) == 8 else None
"""


def build(source: Path, *flags: str) -> ModuleType:
    """Compile a Python extension and import it."""
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        pytest.skip("no Python.h")
    module = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    command = [*compiler(), "-shared", "-fPIC", "-O1", f"-I{python}", f"-I{km.get_include()}"]
    subprocess.run([*command, *flags, str(source), "-o", str(module)], check=True)
    spec = importlib.util.spec_from_file_location(source.stem, module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_an_extension_module_embeds_the_detector(tmp_path: Path, embedded: Embedded) -> None:
    source = tmp_path / "planter.c"
    source.write_text(EXTENSION)
    planter = build(source, "-Wall", "-Wextra", "-Werror")
    assert planter.plant(embedded.detector, 0x1200) == OK
    assert embedded.leaks() == [0x1200]
    with pytest.raises(TypeError, match="str"):
        planter.plant("no detector", 0x1200)


def test_cython_code_cimports_the_store_and_the_image(tmp_path: Path, embedded: Embedded) -> None:
    pytest.importorskip("Cython", reason="no Cython")
    source = tmp_path / "cimporter.pyx"
    source.write_text(CYTHON)
    # An editable installation is not on the path that Cython searches.
    packages = str(Path(km.__file__).resolve().parents[1])
    cython = [sys.executable, "-m", "cython", "-3", "-I", packages]
    cython += ["-X", "freethreading_compatible=True"]
    subprocess.run([*cython, str(source)], check=True, cwd=tmp_path)
    module = build(source.with_suffix(".c"), f"-I{packages}/kmemleak_core")
    assert module.put(embedded.detector._objects, 0x1200) >= 0
    assert embedded.leaks() == [0x1200]
    embedded.store(0x1000, 77)
    assert module.word(embedded.detector.memory.image.engine, 0x1000) == 77


# The example.


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arena_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler()
    library: ctypes.CDLL = example.load(tmp_path_factory.mktemp("arena"))
    return library


@pytest.fixture
def arena(example: ModuleType, library: ctypes.CDLL) -> Iterator[Any]:
    arena = example.Arena(library, min_age=0.0)
    yield arena
    arena.close()


def test_the_example_finds_the_leaks_that_it_plants() -> None:
    compiler()
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("unreferenced object") == 2


def test_the_arenas_leaks_are_found_and_nothing_else(arena: Any) -> None:
    kept, child, lost = arena.alloc(64), arena.alloc(64), arena.alloc(64)
    arena.roots[0] = kept
    arena.store(kept + 16, child + 8)
    assert arena.leaks() == [lost]


def test_a_block_that_the_arena_frees_is_no_leak_and_its_successor_is(arena: Any) -> None:
    block = arena.alloc(64)
    arena.free(block)
    assert arena.leaks() == []
    assert arena.alloc(64) == block
    assert arena.leaks() == [block]


def test_a_double_free_in_the_arena_is_counted(arena: Any) -> None:
    block = arena.alloc(64)
    arena.free(block)
    arena.free(block)
    assert [note.code for note in arena.detector.anomalies] == ["free.unknown"]


def test_not_leak_makes_the_arenas_permanent_blocks_no_leaks(arena: Any) -> None:
    permanent, held = arena.alloc_permanent(64), arena.alloc(64)
    arena.store(permanent, held)
    assert arena.leaks() == []


def test_ignore_hides_a_block_and_gives_up_what_it_holds(arena: Any) -> None:
    ignored, held = arena.alloc(64), arena.alloc(64)
    arena.store(ignored, held)
    arena.detector.ignore(ignored)
    assert arena.leaks() == [held]


def test_no_scan_keeps_the_arenas_data_from_holding_anything(arena: Any) -> None:
    data, lost = arena.alloc_data(64), arena.alloc(64)
    arena.roots[0] = data
    arena.store(data, lost)
    assert arena.leaks() == [lost]


def test_a_scan_area_keeps_the_rest_of_a_block_from_holding_anything(arena: Any) -> None:
    block, held, lost = arena.alloc(64), arena.alloc(64), arena.alloc(64)
    arena.roots[0] = block
    arena.store(block + 8, held)
    arena.store(block + 32, lost)
    arena.detector.scan_area(block, 16)
    assert arena.leaks() == [lost]
