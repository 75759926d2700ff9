"""Takes the pictures of a report that the documentation shows: light and dark.

``python -m tests.html.pictures CORE FOLDER [MAX_SIZE]`` writes report-light.png and
report-dark.png, of leaks of at most so many bytes each.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image  # comes with matplotlib

from kmemleak_core import Report, scan

from .browser import Browser, browser, find_chromium

WIDTH, HEIGHT = 1240, 1480
COLOURS = 256

#: Opens the groups that lead to the most bytes and to the longest cluster, and draws the latter.
_OPEN = """
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { groups, clusters } = data.parts[0];
  const held = (row) => groups[row][data.fields.indexOf("heldBytes")];
  const first = (compare) => clusters.slice().sort(compare)[0]?.group;
  for (const row of new Set([first((a, b) => held(b.group) - held(a.group)),
                             first((a, b) => b.at.length - a.at.length)])) {
    const shown = document.querySelector(`tr[data-row="${row}"]`);
    shown?.click();
    const made = document.querySelector(`tr[data-row="${row}"]`)?.nextSibling;
    made?.querySelector("button.draw")?.click();
  }
  document.activeElement.blur();
  scrollTo(0, 0);
})()
"""


def take(opened: Browser, report: Report, folder: Path, max_size: int | None = None) -> list[Path]:
    """Write the pictures of a report into a folder, and return their paths."""
    opened.resize(WIDTH, HEIGHT)
    taken = []
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        page.write_text(report.report("html", max_size=max_size), encoding="ascii")
        for scheme in ("light", "dark"):
            opened.prefer(scheme)
            opened.open(page)
            opened.run(_OPEN)
            taken.append(folder / f"report-{scheme}.png")
            opened.screenshot(taken[-1])
            with Image.open(taken[-1]) as picture:
                picture.quantize(
                    COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
                ).save(taken[-1], optimize=True)
    return taken


def main(core: str, folder: str, max_size: str | None = None) -> None:
    """Scan a core and take its pictures; the report names the core without its folder."""
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    into = Path(folder).resolve()
    into.mkdir(parents=True, exist_ok=True)
    place = Path(core).resolve()
    os.chdir(place.parent)
    with browser(program) as opened:
        report = scan(Path(place.name))
        for path in take(opened, report, into, None if max_size is None else int(max_size)):
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
