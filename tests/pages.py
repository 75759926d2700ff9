"""Turns the console blocks of a page into commands that are run, and into patterns of their output.

What varies between two runs may differ: addresses, but each stands for one thing on the whole page;
where lines are wrapped; what the page's own test says. A line with nothing but ``…`` stands for
any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS = r"\b0x[1-9a-f][0-9a-f]{8,15}\b"
#: A row of a hex dump that has a pointer in it.
_POINTER_ROW = re.compile(r"^ +(?:[0-9a-f]{2} )*?(?:[0-9a-f]{2} ){3}(?:5[56]|7f) 00 00 ")
_ANY_ROW = r" *(?:[0-9a-f]{2} ){8}.*"


@dataclass(frozen=True, slots=True)
class Command:
    """A command, what the page shows of its output, and the line of the page that it stands on."""

    text: str
    shown: tuple[str, ...]
    line: int


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of a page's console blocks; each begins with a dollar sign."""
    for block in re.finditer(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, block.start(1)) + 1
        lines = block[1].splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
        for i, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            yield Command(lines[i][2:], tuple(lines[i + 1 : end]), first + i)


class Reader:
    """Runs a page's commands one after the other, and compares what they print with the page.

    Parameters
    ----------
    folder
        Where they run.
    varies
        Patterns, without groups, of what may be another text of that pattern in each run.
    """

    def __init__(self, folder: Path, varies: Sequence[str] = ()) -> None:
        self.folder = folder
        #: What an address of the page is in the run.
        self.real: dict[str, str] = {}
        self._kinds = (ADDRESS, r"\s+", *varies)
        self._pieces = re.compile("|".join(f"({kind})" for kind in self._kinds))
        script = folder / "bin" / "kmemleak"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m kmemleak_core "$@"\n')
        script.chmod(0o755)
        self._environment = {
            **os.environ,
            "COLUMNS": "97",
            "PATH": f"{script.parent}:{os.environ['PATH']}",
        }

    def read(self, command: Command) -> None:
        """Run a command; what it shows has to be the page's, ``cat FILE`` writes the file first."""
        if command.text.startswith("cat "):
            text = "\n".join(command.shown) + "\n"
            (self.folder / command.text.removeprefix("cat ")).write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["sh", "-c", re.sub(ADDRESS, lambda found: self.real[found[0]], command.text)],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )
        place = 0
        for part in _parts(command.shown):
            found, names = self._find(part, done.stdout, place)
            if found is None:
                fits = [n for n in range(len(part)) if self._find(part[:n], done.stdout, place)[0]]
                raise AssertionError(
                    f"$ {command.text} (line {command.line}) does not show\n{part[max(fits)]}\n"
                    f"but\n{done.stdout}"
                )
            place = found.end()
            self.real.update({address: found[name] for address, name in names.items()})

    def _find(
        self, lines: Sequence[str], output: str, place: int
    ) -> tuple[re.Match[str] | None, dict[str, str]]:
        """Find lines in an output, and the groups that hold the addresses that are new."""
        names: dict[str, str] = {}
        pattern = r"\s*".join(self._pattern(line, names) for line in lines if line.strip())
        return re.compile(rf"(?m)^\s*{pattern}\s*?$").search(output, place), names

    def _pattern(self, line: str, names: dict[str, str]) -> str:
        if _POINTER_ROW.match(line):
            return _ANY_ROW
        line = line.strip()
        made, end = [], 0
        for piece in self._pieces.finditer(line):
            made += [re.escape(line[end : piece.start()]), self._piece(piece, names)]
            end = piece.end()
        return "".join([*made, re.escape(line[end:])])

    def _piece(self, piece: re.Match[str], names: dict[str, str]) -> str:
        text, kind = piece[0], self._kinds[(piece.lastindex or 1) - 1]
        if kind != ADDRESS:
            return kind
        if text in self.real:
            return re.escape(self.real[text])
        if text in names:
            return f"(?P={names[text]})"
        names[text] = f"address{len(names)}"
        return f"(?P<{names[text]}>{ADDRESS})"


def _parts(shown: Sequence[str]) -> Iterator[list[str]]:
    """Yield the runs of lines that follow each other in the output as well."""
    part: list[str] = []
    for line in [*shown, "…"]:
        if line.strip() != "…":
            part.append(line)
        elif any(one.strip() for one in part):
            yield part
            part = []
