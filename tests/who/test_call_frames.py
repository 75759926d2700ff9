"""Where a caller's registers are, as .eh_frame tells it: held to what pyelftools makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from kmemleak_core.symbols.call_frames import CallFrames, Rules
from kmemleak_core.symbols.elf_file import ElfFile


@pytest.fixture(scope="module", params=["this machine's", "AArch64's"])
def libc(request: pytest.FixtureRequest) -> Path:
    """The C library: thousands of functions, written by compilers and by hand."""
    if request.param == "AArch64's":
        crossed = Path("/usr/aarch64-linux-gnu/lib/libc.so.6")
        if not crossed.exists():
            pytest.skip("no C library of AArch64 (libc6-arm64-cross)")
        return crossed
    maps = Path("/proc/self/maps").read_text().split()
    found = [Path(word) for word in maps if Path(word).name.startswith(("libc.so", "libc-2"))]
    if not found:
        pytest.skip("this Python uses no glibc")
    return found[0]


def told(rules: Rules | None) -> tuple[object, ...] | None:
    if rules is None or rules.register < 0:
        return None
    return rules.function, rules.register, rules.offset, rules.saved


def of_pyelftools(entry: FDE, row: dict[str, object]) -> tuple[object, ...] | None:
    cfa = row["cfa"]
    if cfa.reg is None:
        return None
    offsets = {r: rule.arg for r, rule in row.items() if getattr(rule, "type", "") == "OFFSET"}
    return entry["initial_location"], cfa.reg, cfa.offset, offsets


def test_every_row_of_a_library_is_as_another_reader_tells_it(libc: Path) -> None:
    ours = CallFrames(ElfFile(np.fromfile(libc, np.uint8)))
    checked = 0
    with libc.open("rb") as file:
        entries = ELFFile(file).get_dwarf_info().EH_CFI_entries()
        for entry in [e for e in entries if isinstance(e, FDE)][::7]:
            end = entry["initial_location"] + entry["address_range"]
            try:
                rows = [row for row in entry.get_decoded().table if row["pc"] < end]
            except ValueError:  # DW_CFA_GNU_args_size, which pyelftools does not know
                continue
            for row, following in zip(rows, [*rows[1:], {"pc": end}], strict=True):
                if row["pc"] < following["pc"]:
                    for address in (row["pc"], following["pc"] - 1):
                        assert told(ours.rules(address)) == of_pyelftools(entry, row)
                        checked += 1
    assert checked > 1000


def test_without_an_index_all_entries_are_looked_at(libc: Path) -> None:
    data = np.fromfile(libc, np.uint8)
    indexed, walked = CallFrames(ElfFile(data)), CallFrames(ElfFile(data))
    object.__setattr__(walked, "_index", walked._walked())
    begins = indexed._index[0]
    assert np.array_equal(np.unique(begins), np.unique(walked._index[0]))
    for address in begins[::20].tolist():
        assert told(indexed.rules(address)) == told(walked.rules(address))


def test_damage_tells_less_and_nothing_worse(libc: Path) -> None:
    whole = np.fromfile(libc, np.uint8)
    parts = [s for s in ElfFile(whole).sections if s.name.startswith(".eh_frame")]
    random = np.random.default_rng(3)
    addresses = CallFrames(ElfFile(whole))._index[0]
    outcomes = set()
    for _ in range(30):
        damaged = whole.copy()
        for part in parts:
            at = random.integers(part.offset, part.offset + part.size, part.size // 20)
            damaged[at] = random.integers(0, 256, at.size)
        frames = CallFrames(ElfFile(damaged))
        for address in random.choice(addresses, 50).tolist():
            outcomes.add(frames.rules(address + 20) is None)
        assert frames._walked()[0].size <= addresses.size * 4
    assert outcomes == {True, False}
