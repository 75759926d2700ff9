"""Turns what a report says beside its leaks into sentences, for every renderer that people read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..coverage import CoverageNote
from .escape import printable, quoted
from .kernel_part import kernel_facts
from .model import RenderOptions, Report
from .select import hidden, hidden_possible
from .units import count_text, size_text


def source_facts(report: Report) -> list[str]:
    """Return what was analysed, a fact each: format, machine, process, heap."""
    source = report.source
    facts = [source.format, source.architecture]
    if source.process.get("name"):
        facts.append(f"process {quoted(source.process['name'])}")
    if source.process.get("pid"):
        facts.append(f"pid {source.process['pid']}")
    if report.kernel is not None:
        facts += kernel_facts(report)
    else:
        facts.append(count_text(source.threads, "thread") if source.threads else "")
        facts.append(f"heap of {report.allocator}" if report.allocator else "")
    return [printable(fact) for fact in facts if fact]


#: Options that decide what an object is held by: name, what the command calls it, and a value that
#: needs no telling.
_ASKED: tuple[tuple[str, str, Any], ...] = (
    ("sysroot", "--sysroot", None),
    ("no_roots", "--no-roots", frozenset()),
    ("pointer_mask", "--pointer-mask", (1 << 64) - 1),
    ("interior", "--starts-only", True),
    ("alignment", "--alignment", None),
    ("vmlinux", "--vmlinux", None),
    ("layout", "--layout", None),
    ("records", "--records", "auto"),
)


def core_argument(report: Report) -> str:
    """Return the dump as a command line names it, with the options on what is scanned.

    Empty if no other command reads it.
    """
    path = printable(report.source.path)
    if not path or report.source.format == "raw" or len(path) > 1000:
        return ""
    told = []
    for name, option, usual in _ASKED:
        value = report.options.get(name, usual)
        if value == usual:
            continue
        told.append(option)
        if name == "no_roots":
            value = ",".join(sorted(value))
        elif name == "pointer_mask":
            value = hex(value)
        if name != "interior":
            told.append(printable(str(value)))
    return shlex.join([*told, path])


def left_out_facts(report: Report, options: RenderOptions) -> Iterator[str]:
    """Yield what a baseline and the filters leave out."""
    compared = report.comparison
    if compared is not None:
        known = report.leaks["size"][compared.known]
        text = f"compared with {compared.path or 'a baseline'}: "
        held = f"{known.size:,} known ({size_text(int(known.sum()))})"
        if known.size == len(report.leaks):
            text += f"nothing new, {held}"
        else:
            amounts = report.counted(RenderOptions())
            text += f"{amounts.objects:,} new ({size_text(amounts.nbytes)}), {held}"
        gone = f", {count_text(compared.gone, 'group')} gone" if compared.gone else ""
        yield printable(text + gone)
    left = [
        f"{count_text(objects, what)} ({size_text(nbytes)})"
        for what, (objects, nbytes) in (
            ("leak", hidden(report, options)),
            ("possibly lost object", hidden_possible(report, options)),
        )
        if objects
    ]
    if left:
        yield f"the filters hide {' and '.join(left)} of these"


def suppression_facts(report: Report) -> Iterator[str]:
    """Yield a sentence for each suppression that met nothing, and for built-in ones that did."""
    for use in report.suppressions:
        if not use.used:
            where = f"{use.path}, line {use.line}" if use.path else f"line {use.line}"
            yield printable(f"suppression {use.pattern!r} ({where}) was not used")
        elif use.builtin:
            what = f"{count_text(use.count, 'object')} ({size_text(use.nbytes)})"
            if not use.count:
                what = f"{count_text(use.possible, 'possibly lost object')}"
            yield (
                f"{what} kept on purpose by a library: built-in suppression {use.pattern!r}"
                " (--no-builtin-suppressions reports them)"
            )


def check_facts(report: Report) -> Iterator[str]:
    """Yield whether the allocator's own sums agree with ours, then those that do not."""
    if not report.checks:
        return
    passed = sum(check.passed for check in report.checks)
    verdict = "agrees" if passed == len(report.checks) else "does not agree"
    yield f"heap walk {verdict} with the allocator's own sums: {passed} of {len(report.checks)}"
    for check in report.checks:
        if not check.passed:
            yield (
                f"{printable(check.name)}: the allocator says {check.expected:,},"
                f" the walk found {check.found:,}"
            )


def note_text(note: CoverageNote) -> str:
    """Return what was not seen, how often, how much and where."""
    told = str(note.count) in note.message or f"{note.count:,}" in note.message
    extra = [f"{note.count:,} times"] if note.count > 1 and not told else []
    extra += [size_text(note.nbytes)] if note.nbytes else []
    extra += [f"at {note.address:#x}"] if note.address is not None else []
    return printable(note.message) + (f" ({', '.join(extra)})" if extra else "")


def counter_facts(counters: Mapping[str, int | float]) -> tuple[list[str], list[str]]:
    """Return what was counted, and how long each part took; what is none of either is left out."""
    counted, times = [], []
    for name, value in counters.items():
        words = printable(name.replace("_", " "))
        if not round(value, 2):
            continue
        if words.endswith("seconds"):
            times.append(f"{words.removesuffix('seconds').strip() or 'all'} {value:.2f} s")
        elif words.endswith(" bytes"):
            counted.append(f"{words.removesuffix(' bytes')} {size_text(int(value))}")
        else:
            counted.append(f"{words} {int(value):,}")
    return counted, times
