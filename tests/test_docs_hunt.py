"""The page on a hunt in a core file tells what really comes out, but for addresses and numbers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from kmemleak_core.dumps.capture import capture

from .builders.programs import running
from .pages import Reader, commands
from .test_docs import DOCS

PAGE = (DOCS / "hunt.md").read_text(encoding="utf-8")
#: What is another in every run, or with another compiler: ids, where the program is, and in it.
VARIES = (
    r"\bpid \d+",
    r"\bthread \d+",
    r"(?:/[\w.-]+)*/server\b",
    r"(?<=server\+)0x[0-9a-f]+",
    r"\+0x[0-9a-f]+(?= \(server\))",
)


def test_what_the_commands_show_is_their_output(tmp_path: Path) -> None:
    source = DOCS.parent / "examples" / "server.c"
    (compile_line,) = re.findall(r"`cc (.*?)`", PAGE)
    words = [str(source) if word == "server.c" else word for word in compile_line.split()]
    subprocess.run(["cc", *words], cwd=tmp_path, check=True)
    with running(tmp_path / "server") as process:
        capture(process.pid, tmp_path / "core")
    reader = Reader(tmp_path, VARIES)
    shown = 0
    for command in commands(PAGE):
        if not command.text.startswith("kmemleak dump "):
            reader.read(command)
            shown += len(command.shown)
    assert shown > 60
