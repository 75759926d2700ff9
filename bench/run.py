"""Reads a JSON file of pytest-benchmark into measurements that can be divided by one another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .measuring import OURS

#: Parts of the names of benchmarks that time something else than this package.
OTHERS = ("intervaltree", "dict", "numpy", "scipy", "bisect", "in_python", "walk_python")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One benchmark's result.

    Attributes
    ----------
    name
        pytest's, with the file.
    seconds
        The fastest round; or what the measured program said, where it timed itself.
    work, size, tool, units
        As `measuring.measure` was told. Where it was not: the group, 0, the tool that the
        benchmark's name tells, 1.
    bandwidth
        Bytes a second at which the machine merely read memory, at the same time.
    extra
        All that the benchmark noted.
    """

    name: str
    seconds: float
    work: str
    size: int
    tool: str
    units: float
    bandwidth: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def nanoseconds(self) -> float:
        """Nanoseconds a unit of work."""
        return self.seconds / self.units * 1e9

    @property
    def bytes_a_second(self) -> float | None:
        """How fast it went over its memory, where it went over memory."""
        return self.extra["bytes"] / self.seconds if "bytes" in self.extra else None


@dataclass(frozen=True, slots=True)
class Run:
    """All measurements of one session.

    Attributes
    ----------
    measurements
        In the order in which they were made.
    machine, when, smoke
        What was measured, and whether the figures mean anything.
    """

    measurements: tuple[Measurement, ...]
    machine: str = ""
    when: str = ""
    smoke: bool = False

    def find(self, work: str, size: int = 0, tool: str = OURS) -> Measurement | None:
        """Return the measurement of some work, None if it was not made."""
        for one in self.measurements:
            if (one.work, one.size, one.tool) == (work, size, tool):
                return one
        return None

    def named(self, name: str) -> Measurement | None:
        """Return the measurement whose name ends so, None if it was not made."""
        return next((one for one in self.measurements if one.name.endswith(name)), None)

    def alternatives(self, work: str, size: int) -> Iterator[tuple[Measurement, Measurement]]:
        """Yield, for each other tool, its measurement and ours beside it.

        That is at the size asked for, or else at the largest smaller one that both were given.
        """
        for tool in dict.fromkeys(one.tool for one in self.measurements if one.work == work):
            pairs = [
                (theirs, ours)
                for theirs in self.measurements
                if theirs.work == work and theirs.tool == tool and theirs.size <= size
                if (ours := self.find(work, theirs.size)) is not None
            ]
            if tool != OURS and pairs:
                yield max(pairs, key=lambda pair: pair[0].size)


def read_run(path: Path) -> Run:
    """Read a file that ``--benchmark-json`` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    info = content["machine_info"]
    cpu = info.get("cpu", {})
    measurements = []
    for entry in content["benchmarks"]:
        extra = entry["extra_info"]
        measurements.append(
            Measurement(
                name=entry["fullname"],
                seconds=extra.get("seconds", entry["stats"]["min"]),
                work=extra.get("work", entry["group"] or entry["name"]),
                size=extra.get("size", 0),
                tool=extra.get("tool") or _tool_of(entry["name"]),
                units=extra.get("units", 1),
                bandwidth=extra.get("bandwidth", 0.0),
                extra=extra,
            )
        )
    measurements += list(_lists_and_walks(measurements))
    return Run(
        tuple(measurements),
        machine=f"{cpu.get('brand_raw', info['machine'])}, {cpu.get('count', '?')} processors, "
        f"Linux {info['release'].split('-')[0]}, Python {info['python_version']}",
        when=content["datetime"][:10],
        smoke=any(one.extra.get("smoke") for one in measurements),
    )


def _tool_of(name: str) -> str:
    return next((tool for tool in OTHERS if tool in name), OURS)


def _lists_and_walks(measurements: list[Measurement]) -> Iterator[Measurement]:
    """Put together what is measured apart: the lists, by whom ever, and the walk over them."""
    for lists in measurements:
        what, _, shape = lists.work.partition(", ")
        if what != "lists":
            continue
        walks = [
            one
            for one in measurements
            if one.work == f"walk, {shape}"
            and one.size == lists.size
            and (one.tool == OURS) == (lists.tool == OURS)
        ]
        for walk in walks:
            tools = dict.fromkeys((lists.tool, walk.tool))
            yield replace(
                lists,
                name="",
                work=f"lists and walk, {shape}",
                seconds=lists.seconds + walk.seconds,
                tool=" and ".join(tools),
            )
