"""Turns the JSON file of a run into one table: targets, figures, verdicts, alternatives.

``python -m bench.report RUN.json`` prints it; with ``--into PAGE`` it replaces, in a page of
Markdown, what stands between the two marks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .run import Measurement, Run, read_run
from .targets import TARGETS, Target

COLUMNS = ("what", "target", "floor", "this run", "", "of reading", "others take")
#: Of the table where the output is no terminal.
WIDTH = 180
MARKS = "<!-- figures: make bench-docs writes them -->", "<!-- end of figures -->"


def rows(run: Run) -> list[tuple[str, ...]]:
    """Return the cells of each row."""
    table = []
    for target in TARGETS:
        found = target.figure(run)
        if found is None:
            table.append((target.what, *_limits(target), "not measured", "–", "", ""))
            continue
        value, one = found
        table.append(
            (
                target.what,
                *_limits(target),
                f"{_number(value)} {target.unit}".strip(),
                target.judge(value),
                f"{one.bytes_a_second / one.bandwidth:.0%}" if one and one.bytes_a_second else "",
                _others(run, one) if one else "",
            )
        )
    return table


def _limits(target: Target) -> tuple[str, str]:
    sign = "≥" if target.higher else "≤"
    floor = "" if target.floor == target.target else f"{sign} {_number(target.floor)}"
    return f"{sign} {_number(target.target)} {target.unit}".strip(), floor


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _others(run: Run, one: Measurement) -> str:
    """Tell how many times as long others take for a unit of the same work."""
    parts = []
    for theirs, ours in run.alternatives(one.work, one.size):
        size = "" if theirs.size == one.size else f" (at {theirs.size:.0e})".replace("e+0", "e")
        parts.append(f"{theirs.tool} ×{_number(theirs.nanoseconds / ours.nanoseconds)}{size}")
    return ", ".join(parts)


def _notes(run: Run) -> list[str]:
    reading = [one.bandwidth for one in run.measurements if one.bandwidth]
    lines = [f"{run.machine}, {run.when}."]
    if reading:
        low, high = min(reading) / 1e9, max(reading) / 1e9
        lines.append(f"Merely reading memory, by one thread: {low:.0f} to {high:.0f} GB/s.")
    if run.smoke:
        lines.append("A smoke test on a hundredth of the data: the figures mean nothing.")
    return lines


def show(run: Run) -> None:
    """Print the table to the terminal."""
    colours = {"pass": "green", "floor": "yellow", "miss": "red"}
    table = Table(*COLUMNS, title="Targets")
    for cells in rows(run):
        table.add_row(*cells, style=None if cells[4] != "–" else "dim")
        verdict = table.columns[4]._cells  # the verdict alone is coloured
        verdict[-1] = f"[{colours.get(cells[4], 'dim')}]{cells[4]}"
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    for line in _notes(run):
        console.print(line)


def show_all(run: Run) -> None:
    """Print every measurement, target or not."""
    table = Table("what", "objects", "by", "fastest", "a unit", "GB/s", "of reading")
    for one in run.measurements:
        rate = one.bytes_a_second
        table.add_row(
            one.work,
            f"{one.size:,}" if one.size else "",
            one.tool,
            f"{_number(one.seconds * 1e3)} ms",
            f"{_number(one.nanoseconds)} ns" if one.units != 1 else "",
            _number(rate / 1e9) if rate else "",
            f"{rate / one.bandwidth:.0%}" if rate else "",
        )
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def markdown(run: Run) -> str:
    """Return the table as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(run)]
    return "\n".join([*lines, "", *_notes(run)])


def replace_figures(page: Path, run: Run) -> None:
    """Write the table between a page's marks."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    _, tail = rest.split(MARKS[1])
    page.write_text(f"{head}{MARKS[0]}\n\n{markdown(run)}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("run", type=Path, help="file that --benchmark-json wrote")
    parser.add_argument("--into", type=Path, help="page of Markdown to write the table into")
    parser.add_argument("--all", action="store_true", help="show every measurement too")
    asked = parser.parse_args()
    run = read_run(asked.run)
    if asked.all:
        show_all(run)
    show(run)
    if asked.into:
        replace_figures(asked.into, run)


if __name__ == "__main__":
    main()
