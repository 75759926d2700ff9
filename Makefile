# Two commands do everything on a machine with Python >= 3.10, a C compiler and make:
# `make demo` and `make test`. What they need is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := setup.py pyproject.toml $(wildcard kmemleak_core/*.pyx kmemleak_core/*.pxd kmemleak_core/*.h)

.PHONY: demo test test-all test-kernel lint sanitize clean help bench bench-smoke bench-save bench-compare bench-docs bench-instructions
.DEFAULT_GOAL := help

help:
	@echo "make demo         compile, run, dump and scan a small leaky program"
	@echo "make test         run the tests"
	@echo "make test-all     run the tests that take minutes or gigabytes too"
	@echo "make test-kernel  boot Debian's kernel under QEMU, dump it, compare with what it said"
	@echo "make lint         ruff, cython-lint, mypy, stubtest"
	@echo "make bench        time everything; one table: targets, figures, what others take"
	@echo "make bench-save   the same, kept; make bench-compare then tells what became slower"
	@echo "make bench-smoke  run each benchmark once, on small data"
	@echo "make sanitize     run the engine's tests with sanitizers (SANITIZER=thread: that one)"
	@echo "make clean        remove what was built"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than 3.10: make PYTHON=python3.x ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "no venv module: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
	  || { echo "no Python.h: apt-get install python3-dev" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "no C compiler: apt-get install gcc" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip "setuptools>=77" "cython>=3.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test,bench,lint]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest

test-all: $(STAMP)
	$(BIN)/python -m pytest --runslow

# A kernel that nobody here built: Debian's, booted under QEMU, dumped, and read.
test-kernel: $(STAMP)
	$(BIN)/python -m pytest --runslow tests/vmcore/test_fresh_kernels.py -k bookworm

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint kmemleak_core
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml --ignore-disjoint-bases --allowlist .stubtest-allow \
	  kmemleak_core._index kmemleak_core._scan kmemleak_core._mark kmemleak_core._heap \
	  kmemleak_core._heap_find kmemleak_core._columns kmemleak_core._replay kmemleak_core._replay_places \
	  kmemleak_core._tracker kmemleak_core._graph kmemleak_core._dominators kmemleak_core._shapes kmemleak_core._capi \
	  kmemleak_core._structures kmemleak_core._kallsyms kmemleak_core._btf kmemleak_core._names kmemleak_core._unpack_pages \
	  kmemleak_core._slub

# Runs are kept in .benchmarks; `python -m bench.report FILE` shows one again.
RUNS := .benchmarks
BENCH := $(BIN)/python -m pytest bench --override-ini addopts= -p no:cacheprovider -rs -q \
  --benchmark-only --benchmark-quiet

bench: $(STAMP)
	@mkdir -p $(RUNS)
	$(BENCH) --benchmark-json=$(RUNS)/run.json || failed=1; \
	  $(BIN)/python -m bench.report $(RUNS)/run.json; exit $${failed:-0}

bench-smoke: $(STAMP)
	@mkdir -p $(RUNS)
	KMEMLEAK_BENCH_SMOKE=1 $(BENCH) --benchmark-json=$(RUNS)/smoke.json --benchmark-min-rounds=1 \
	  --benchmark-max-time=0.001 --benchmark-calibration-precision=1 || failed=1; \
	  $(BIN)/python -m bench.report $(RUNS)/smoke.json; exit $${failed:-0}

# Counted, not timed: the same on a busy machine.
bench-instructions: $(STAMP)
	$(BIN)/python -m bench.instructions

bench-save: bench
	cp $(RUNS)/run.json $(RUNS)/saved.json

bench-compare: bench
	$(BIN)/python -m bench.compare $(RUNS)/saved.json $(RUNS)/run.json

# Measures all, then writes the page's table and its picture; both belong into a commit.
bench-docs: bench
	$(BIN)/python -m bench.report $(RUNS)/run.json --into docs/benchmarks.md >/dev/null
	$(BIN)/python -m bench.scaling docs/benchmarks/scaling.svg

# The engine's tests on a copy that is built with sanitizers. The interpreter itself is not, so that
# their runtimes are loaded before it; their shadow does not fit into little address space.
SANITIZER ?= address,undefined
SANITIZED := build/sanitized
ifeq ($(findstring thread,$(SANITIZER)),)
RUNTIMES := libasan.so libubsan.so
else
RUNTIMES := libtsan.so
# The runtime wants its shadow at fixed places, where much randomness may put other maps before it.
UNMOVED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
# What runs on several threads, in parts that the tests make small.
THREADED_TESTS := tests/test_free_threading.py tests/test_heap_parallel.py \
  tests/detector/test_threads.py tests/test_embedding.py
endif
ENGINE_TESTS ?= $(THREADED_TESTS) tests/test_scan_oracle.py tests/test_scan_semantics.py \
  tests/test_simd.py tests/test_model.py tests/test_heap_walk.py tests/test_replay.py \
  tests/test_graph.py tests/test_dominators.py tests/test_possible.py tests/test_trees.py \
  tests/diff/test_properties.py tests/test_tracker.py tests/vmcore/test_dump_packing.py \
  tests/vmcore/test_symbols_btf.py tests/vmcore/test_symbols_kallsyms.py \
  tests/vmcore/test_list_structures.py tests/vmcore/test_slub_synthetic.py

sanitize: $(STAMP)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r setup.py pyproject.toml README.md LICENSE pytest_kmemleak.py kmemleak_core tests bench examples $(SANITIZED)
	rm -f $(SANITIZED)/kmemleak_core/*.so
	cd $(SANITIZED) && KMEMLEAK_SANITIZE=$(SANITIZER) $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 \
	  LD_PRELOAD="$(foreach runtime,$(RUNTIMES),$(shell $${CC:-cc} -print-file-name=$(runtime)))" \
	  $(UNMOVED) $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider $(ENGINE_TESTS) \
	  --deselect tests/test_tracker.py::TestMemory::test_a_process_of_little_address_space_gets_a_smaller_table

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f kmemleak_core/*.c kmemleak_core/*.so kmemleak_core/*.html
