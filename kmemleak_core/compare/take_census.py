"""Turns a scanned dump into a Census: its groups, and who holds what, without its memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import workers
from ..baseline import frame_name
from ..clock import Progress
from ..coverage import Coverage
from ..objects import ObjectTable
from ..pipeline import Found
from ..provenance import Provenance
from ..shapes import mask_words, pointer_masks
from ..who.retained import retained
from .census import NO_OBJECT, Amount, Census, GroupColumns, Likeness, Members
from .identity import identify
from .keys import numbered
from .named_holders import name_holders, name_modules

T = TypeVar("T")

#: No size is greater in a column that has −1 for those that are not known.
_MOST_SIZE = (1 << 63) - 1
#: Sizes and shapes are packed into one number while it has room for both.
_ROOM = 1 << 47


def take_census(
    found: Found,
    sysroot: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Census:
    """Take down what a scan came to.

    Parameters
    ----------
    found
        A scan that kept its references.
    sysroot
        Folder with the process's files, for symbols; None for ``/``.
    threads
        How many may work at once; None: as many as there are processors.
    progress
        Told what begins.

    Raises
    ------
    UsageError
        The scan was done with little memory.
    """
    tell = progress or (lambda _: None)
    result, objects = found.result, found.result.objects
    tell("retained sizes")
    held = retained(result)
    tell("holders")
    holding, holder = name_holders(found, sysroot)
    modules = name_modules(held, str(found.dump.process.get("pid", "")))
    above = held.idom[: len(objects)]
    above = np.where(above < len(objects), above, NO_OBJECT)
    del held
    tell("types")
    provenance = found.heap.provenance
    if found.types is not None:
        provenance = found.types.of(np.arange(len(objects)), provenance)
    tell("groups")
    leaked = result.white
    masks = pointer_masks(result.image, objects, threads or workers.available())
    groups, group = group_all(objects, leaked, masks, provenance)
    coverage = Coverage()
    for part in (found.dump.coverage, found.heap.coverage, objects.anomalies):
        coverage.extend(part)
    if found.types is not None:
        coverage.extend(found.types.coverage)
    sizes = objects.size[leaked]
    return Census(
        identity=identify(found.dump, found.symbols),
        objects=Amount(len(objects), objects.nbytes),
        leaked=Amount(sizes.size, int(sizes.sum(dtype=np.uint64))),
        groups=groups,
        members=Members(
            objects.address,
            group,
            leaked,
            holder,
            above,
            objects.order,
            None if provenance is None else provenance.birth,
        ),
        holders=holding,
        modules=modules,
        coverage=coverage,
    )


def group_all(
    objects: ObjectTable,
    leaked: NDArray[np.bool_],
    masks: NDArray[np.uint16],
    provenance: Provenance | None = None,
) -> tuple[GroupColumns, NDArray[np.int32]]:
    """Group all objects by kind, backtrace, size and where their pointers are.

    Parameters
    ----------
    objects
        The objects.
    leaked, masks
        ``(n,)``: which of them leak, and where they have pointers (`shapes.pointer_masks`).
    provenance
        What they are, row by row.

    Returns
    -------
    groups : GroupColumns
        In no particular order.
    group : ndarray of int32, shape (n,)
        The group of each object.
    """
    number, keys = numbered(_packed(objects.size, masks))
    origin = _origins(provenance, len(objects))
    if origin is not None:
        of_origin, _ = numbered(origin)
        number, keys = numbered(
            of_origin.astype(np.uint64) << np.uint64(32) | number.astype(np.uint64)
        )
    group = number.astype(np.int32)
    first = np.zeros(keys.size, np.int64)
    first[group[::-1]] = np.arange(len(objects))[::-1]
    shapes, shape = np.unique(masks[first], return_inverse=True)
    kinds, kind = _kinds(provenance, first)
    traces, trace, functions = _traces(provenance, first)
    size = np.minimum(objects.size[first], np.uint64(_MOST_SIZE)).astype(np.int64)
    return GroupColumns.counted(
        Likeness(
            kinds=kinds,
            traces=traces,
            functions=functions,
            typed=provenance is not None and provenance.typed,
            shapes=["·".join(mask_words(mask)) for mask in shapes.tolist()],
            kind=kind,
            trace=trace,
            shape=shape.astype(np.int32),
            size=size,
        ),
        objects.address,
        group,
        leaked,
        objects.order,
    ), group


def _packed(size: NDArray[np.uint64], masks: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Return a number for each object that tells its size and its shape."""
    if not size.size or int(size.max()) < _ROOM:
        return (size << np.uint64(16)) | masks
    _, number = np.unique(size, return_inverse=True)
    return (number.astype(np.uint64) << np.uint64(16)) | masks


def _origins(provenance: Provenance | None, n: int) -> NDArray[np.uint64] | None:
    """Return a number for each object that tells its kind and its backtrace."""
    if provenance is None or (provenance.kind is None and provenance.trace is None):
        return None
    nothing = np.zeros(n, np.uint64)
    kind = nothing if provenance.kind is None else (provenance.kind + 1).astype(np.uint64)
    trace = nothing if provenance.trace is None else (provenance.trace + 1).astype(np.uint64)
    return (kind << np.uint64(32)) | trace


def _kinds(
    provenance: Provenance | None, first: NDArray[np.int64]
) -> tuple[Sequence[str], NDArray[np.int32]]:
    """Return the names that occur, and each group's."""
    if provenance is None or provenance.kind is None:
        return (), np.full(first.size, -1, np.int32)
    used, index = np.unique(provenance.kind[first], return_inverse=True)
    names = [provenance.kinds[k] if k >= 0 else "" for k in used.tolist()]
    return _interned(names, index)


def _traces(
    provenance: Provenance | None, first: NDArray[np.int64]
) -> tuple[Sequence[tuple[int, ...]], NDArray[np.int32], dict[int, str]]:
    """Return the backtraces that occur, each group's, and what their functions are called."""
    if provenance is None or provenance.trace is None:
        return (), np.full(first.size, -1, np.int32), {}
    used, index = np.unique(provenance.trace[first], return_inverse=True)
    traces = [provenance.traces[trace] if trace >= 0 else () for trace in used.tolist()]
    name = provenance.symbol or hex
    functions = {at: frame_name(name(at)) for at in {at for trace in traces for at in trace}}
    return *_interned(traces, index), functions


def _interned(values: Sequence[T], index: NDArray[np.int64]) -> tuple[list[T], NDArray[np.int32]]:
    """Give equal values one number, and empty ones −1."""
    numbers: dict[T, int] = {}
    of_value = [numbers.setdefault(v, len(numbers)) if v else -1 for v in values]
    return list(numbers), np.array(of_value, np.int32)[index]
