"""Turns columns of a report into Arrow tables and record batches; needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..errors import KmemleakError
from .columns import Coded, Column, Part, Sparse, parts_of
from .escape import printable
from .model import Report


def pyarrow() -> Any:
    """Import pyarrow.

    Raises
    ------
    KmemleakError
        It is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise KmemleakError(
            "Arrow and Parquet need pyarrow, which is not installed",
            hint="pip install 'kmemleak-core[arrow]', or --format npz",
        ) from None
    return pyarrow


def arrow_table(report: Report, table: str, *, redact: bool = False) -> Any:
    """Return a whole table as a ``pyarrow.Table``; errors as `columns.parts_of`."""
    schema, batches = arrow_batches(report, table, redact=redact)
    return pyarrow().Table.from_batches(batches, schema)


def arrow_batches(report: Report, table: str, *, redact: bool = False) -> tuple[Any, Iterator[Any]]:
    """Return a table's ``pyarrow.Schema``, and its record batches one by one."""
    pa = pyarrow()
    parts = parts_of(report, table, redact=redact)
    first = next(parts)
    schema = _schema(first, _metadata(report, table, redact))

    def batches() -> Iterator[Any]:
        part: Part | None = first
        while part is not None:
            arrays = [_array(column) for column in part.values()]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            part = next(parts, None)

    return schema, batches()


def from_numpy(columns: Part) -> Any:
    """Return columns as a ``pyarrow.Table``."""
    schema = _schema(columns, {})
    return pyarrow().Table.from_arrays([_array(c) for c in columns.values()], schema=schema)


def _schema(part: Part, metadata: dict[str, str]) -> Any:
    pa = pyarrow()
    fields = [
        pa.field(name, _array(column).type, nullable=isinstance(column, Coded | Sparse))
        for name, column in part.items()
    ]
    return pa.schema(fields, metadata)


def _array(column: Column) -> Any:
    pa = pyarrow()
    if isinstance(column, Coded):
        codes = pa.array(column.codes, mask=column.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(list(column.names), pa.string()))
    if isinstance(column, Sparse):
        return pa.array(column.values, mask=~column.valid)
    # A column of a structured array is not contiguous.
    return pa.array(column)


def _metadata(report: Report, table: str, redact: bool) -> dict[str, str]:
    """Return what a file says of itself: which table of which dump it is."""
    source = report.source
    told = {
        "table": table,
        "version": report.version,
        "dump": printable(source.path),
        "format": source.format,
        "architecture": source.architecture,
        "word_size": source.word_size,
        "redacted": redact,
    }
    return {"kmemleak_core": json.dumps(told)}
