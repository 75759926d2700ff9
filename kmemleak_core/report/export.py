"""Turns a report into files for data tools, a table a file: Parquet, Arrow or npz."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UsageError
from .columns import TABLES, Coded, Part, Sparse, parts_of
from .model import Report

#: Tables that are written unless told otherwise.
DEFAULT_TABLES = tuple(TABLES)

_COPIED = 1 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was written."""

    table: str
    path: Path
    rows: int
    nbytes: int


def export(
    report: Report,
    folder: str | os.PathLike[str],
    tables: Sequence[str] = DEFAULT_TABLES,
    format: str = "parquet",
    *,
    force: bool = False,
    redact: bool = False,
) -> Iterator[Exported]:
    """Write tables of a report into a folder, and tell each file when it is there.

    Memory is needed for a part of a table, not for the whole.

    Parameters
    ----------
    report
        What is written.
    folder
        Where to; made if it is not there.
    tables
        Of `columns.TABLES`; each becomes the file ``TABLE.FORMAT``.
    format
        ``"parquet"``, ``"arrow"`` (Arrow's file format, which is read where it lies) or ``"npz"``.
    force
        Replace files.
    redact
        Hide what memory holds.

    Raises
    ------
    UsageError
        There is no such format or table, a file is there already, or the report does not carry
        what a table holds.
    KmemleakError
        pyarrow is not installed.
    """
    if format not in FORMATS:
        raise UsageError(f"tables are not written as {format!r}", hint=f"one of: {list(FORMATS)}")
    folder = Path(folder)
    paths = check_folder(folder, tables, format, force)
    folder.mkdir(exist_ok=True)
    for table, path in zip(tables, paths, strict=True):
        with path.open("wb" if force else "xb") as out:
            try:
                rows = FORMATS[format](report, table, redact, out)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        yield Exported(table, path, rows, path.stat().st_size)


def check_folder(
    folder: Path, tables: Sequence[str], format: str, force: bool = False
) -> list[Path]:
    """Return the files that `export` would write; refuse them where one is there already."""
    if not folder.parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {folder.parent}")
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    paths = [folder / f"{table}.{format}" for table in tables]
    there = next((path for path in paths if os.path.lexists(path)), None)
    if there is not None and not force:
        raise UsageError(f"{there} is there already", hint="--force replaces it")
    return paths


def _write_parquet(report: Report, table: str, redact: bool, out: IO[bytes]) -> int:
    from .arrow import arrow_batches, pyarrow

    pa = pyarrow()
    from pyarrow import parquet

    schema, batches = arrow_batches(report, table, redact=redact)
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    # Rising numbers, and those near each other, are small as differences.
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    writer = parquet.ParquetWriter(
        out,
        schema,
        compression="zstd",
        use_dictionary=texts,
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    )
    with writer:
        return _write_batches(batches, writer.write_batch)


def _write_arrow(report: Report, table: str, redact: bool, out: IO[bytes]) -> int:
    from .arrow import arrow_batches, pyarrow

    schema, batches = arrow_batches(report, table, redact=redact)
    with pyarrow().ipc.new_file(out, schema) as writer:
        return _write_batches(batches, writer.write_batch)


def _write_batches(batches: Iterator[Any], write: Callable[[Any], None]) -> int:
    rows = 0
    for batch in batches:
        write(batch)
        rows += batch.num_rows
    return rows


def _write_npz(report: Report, table: str, redact: bool, out: IO[bytes]) -> int:
    """Write each column as an array; it is gathered in a file, since its length comes first.

    Texts are numbers of rows of ``NAME_names``, −1 for none; other numbers that a row lacks are
    −1 where they have a sign, else 0.
    """
    rows = 0
    names: dict[str, Sequence[str]] = {}
    types: dict[str, np.dtype[Any]] = {}
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for part in parts_of(report, table, redact=redact):
            arrays = _plain(part)
            for name, array in arrays.items():
                if name not in files:
                    files[name] = stack.enter_context(tempfile.TemporaryFile())
                    types[name] = array.dtype
                files[name].write(np.ascontiguousarray(array).data)
            names = {n: c.names for n, c in part.items() if isinstance(c, Coded)}
            rows += len(next(iter(arrays.values())))
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
            for name, file in files.items():
                file.seek(0)
                with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(types[name]),
                        "fortran_order": False,
                        "shape": (rows,),
                    }
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, _COPIED)
            for name, texts in names.items():
                with packed.open(f"{name}_names.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.array(list(texts), np.str_))
    return rows


def _plain(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, column in part.items():
        if isinstance(column, Coded):
            found[name] = column.codes
        elif isinstance(column, Sparse):
            signed = column.values.dtype.kind == "i"
            none = column.values.dtype.type(-1 if signed else 0)
            found[name] = np.where(column.valid, column.values, none)
        else:
            found[name] = column
    return found


#: Formats: what writes a table, and returns its rows.
FORMATS: Mapping[str, Callable[[Report, str, bool, IO[bytes]], int]] = {
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "npz": _write_npz,
}
