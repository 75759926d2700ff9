"""Shows a report, one renderer a format."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from ..errors import UsageError
from ..lazy import export
from ..plugins import registered

if TYPE_CHECKING:
    from .model import RenderOptions, Report, ReportSource
    from .summary import Summary

__all__ = [
    "RenderOptions",
    "Renderer",
    "Report",
    "ReportSource",
    "Summary",
    "built_in_formats",
    "renderer",
    "renderer_names",
]

#: Our own renderers: name → module here, class in it, what it is for.
_BUILT_IN = {
    "text": ("text", "TextRenderer", "for people"),
    "list": ("list", "ListRenderer", "one leak a line"),
    "json": ("json", "JsonRenderer", "everything; report/schema.json tells the layout"),
    "html": ("html.page", "HtmlRenderer", "one file for a browser: table, treemap, graphs"),
    "kmemleak": ("kernel", "KernelRenderer", "leaks as the kernel's own kmemleak reports them"),
    "sarif": ("sarif", "SarifRenderer", "SARIF 2.1.0, for code scanning services and editors"),
    "folded": ("folded", "FoldedRenderer", "a line a stack of leaks, for flame graph tools"),
    "speedscope": ("speedscope", "SpeedscopeRenderer", "profiles of leaks, for speedscope"),
    "suppressions": ("suppressions", "SuppressionsRenderer", "lines that would suppress all leaks"),
}

_GROUP = "kmemleak_core.reports"


class Renderer(Protocol):
    """One format."""

    name: str

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the report to a text stream."""
        ...


def renderer_names() -> tuple[str, ...]:
    """Return the name of every format: ours, then those of installed entry points."""
    others = sorted({entry.name for entry in registered(_GROUP)} - _BUILT_IN.keys())
    return (*_BUILT_IN, *others)


def built_in_formats() -> dict[str, str]:
    """Return what each of our own formats is for."""
    return {name: purpose for name, (_, _, purpose) in _BUILT_IN.items()}


def renderer(name: str) -> Renderer:
    """Return the renderer of a format.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name in _BUILT_IN:
        module, attribute, _ = _BUILT_IN[name]
        return cast("Renderer", getattr(import_module(f".{module}", __name__), attribute)())
    for entry in registered(_GROUP):
        if entry.name == name:
            return cast("Renderer", entry.load()())
    raise UsageError(
        f"there is no report format {name!r}", hint=f"one of: {', '.join(renderer_names())}"
    )


export(
    __name__,
    {"model": ("RenderOptions", "Report", "ReportSource"), "summary": ("Summary",)},
)
