"""Turns two runs into a verdict: which of our benchmarks became slower by more than 15 %.

A clock on a busy machine lies, so a benchmark has become slower only if it has by the clock *and*
by the clock in units of the bandwidth at which the same run read memory: a machine that is slow
today slows both. What looks slower is measured again, twice at most, and its best time counts.
Exits with 1 if something stays slower.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from .measuring import OURS
from .run import Measurement, Run, read_run

LIMIT = 0.15
ATTEMPTS = 2


def slowdown(old: Measurement, new: Measurement) -> float:
    """Return by which share a benchmark became slower, by the kinder of the two measures."""
    by_clock = new.seconds / old.seconds
    return min(by_clock, by_clock * new.bandwidth / old.bandwidth) - 1


def slower(old: Run, new: Run) -> dict[str, float]:
    """Return the names of our benchmarks that became too slow, and by how much."""
    before = {one.name: one for one in old.measurements if one.tool == OURS and one.name}
    found = {
        one.name: slowdown(before[one.name], one) for one in new.measurements if one.name in before
    }
    return {name: by for name, by in found.items() if by > LIMIT}


def measure_again(names: list[str]) -> Run:
    """Run some benchmarks once more."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.json"
        options = "--override-ini addopts= -p no:cacheprovider --benchmark-only --benchmark-quiet"
        command = [sys.executable, "-m", "pytest", *options.split(), f"--benchmark-json={out}"]
        subprocess.run([*command, *names], check=False, stdout=subprocess.DEVNULL)
        return read_run(out) if out.exists() else Run(())


def best(one: Run, other: Run) -> Run:
    """Return a run with the better of two results wherever both measured the same."""
    better = {measurement.name: measurement for measurement in other.measurements}
    return replace(
        one,
        measurements=tuple(
            min(m, better.get(m.name, m), key=lambda m: m.seconds) for m in one.measurements
        ),
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("saved", type=Path, help="run to compare with: see `make bench-save`")
    parser.add_argument("run", type=Path, help="run that is judged")
    asked = parser.parse_args()
    if not asked.saved.exists():
        parser.error(f"{asked.saved} does not exist: make bench-save")
    old, new = read_run(asked.saved), read_run(asked.run)
    if old.smoke != new.smoke:
        parser.error("one of the runs is a smoke test")
    if old.machine != new.machine:
        print(f"the saved run was made elsewhere: {old.machine}; now: {new.machine}")
    found = slower(old, new)
    for _ in range(ATTEMPTS):
        if found:
            print(f"measuring again what looks slower: {len(found)} benchmarks")
            new = best(new, measure_again(list(found)))
            found = slower(old, new)
    for name, by in sorted(found.items(), key=lambda entry: -entry[1]):
        print(f"slower by {by:.0%}: {name}")
    if not found:
        print(f"nothing became slower by more than {LIMIT:.0%} since {old.when}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
