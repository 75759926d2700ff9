"""The Python code in the documentation runs, page by page, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run_python(page: Path, names: dict[str, object]) -> None:
    """Run the Python code of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert blocks
    for block in blocks:
        # Empty lines before it: errors name the page's own line.
        above = "\n" * (text.count("\n", 0, block.start()) + 1)
        exec(compile(above + block[1], str(page), "exec"), names)


@pytest.mark.parametrize("page", [DOCS / "embedding.md"], ids=lambda page: page.name)
def test_the_python_code_of_a_page_runs(page: Path) -> None:
    run_python(page, {})
