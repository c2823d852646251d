"""Embeddings in Parquet: a column of lists of floats, or of their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .file import (
    HEAD,
    EmbeddingBatch,
    EmbeddingFile,
    Lengths,
    chosen,
    id_column_of,
    length_error,
    numbers,
    texts,
)
from .records import Record, open_records

if TYPE_CHECKING:
    import pyarrow as pa

_BUFFER = 1 << 20


def open_parquet(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into a Parquet file."""
    opened = _opener(path)
    with _damage_told(path), opened() as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    lists = [each.name for each in schema if _holds_vectors(each.type)]
    written = [each.name for each in schema if _holds_text(each.type)]
    if rows and (column in written if column is not None else not lists and written):
        return _open_text(path, column, id_column, opened, schema.names, written, rows)
    name = chosen(path, column, schema.names, lists)
    ids = id_column_of(path, id_column, schema.names)
    wanted = [name] if ids is None or ids == name else [name, ids]
    dim = _fixed_dim(schema.field(name).type)
    if dim is None and rows:
        dim = _usual_length(path, name, opened)

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        start = 0
        with _damage_told(path), opened() as file:
            for part in file.iter_batches(batch_size, columns=wanted):
                count = part.num_rows
                called = numbers(start, count) if ids is None else texts(part.column(ids).to_pylist())
                z, errors = _vectors_of(part.column(name), dim or 0)
                yield EmbeddingBatch(called, z, errors)
                start += count

    return EmbeddingFile(path, dim or 0, rows, ids is not None, read)


def open_parquet_ids(
    path: Path, column: str | None, usual: Sequence[str]
) -> tuple[int, Callable[[], Iterator[str]] | None]:
    """How many rows a table has, and its ids: of the column that is wanted, else of the first usual one, if any."""
    opened = _opener(path)
    with _damage_told(path), opened() as file:
        present, rows = file.schema_arrow.names, file.metadata.num_rows
    name = next((each for each in usual if each in present), None)
    if column is not None:
        name = id_column_of(path, column, present)
    if name is None:
        return rows, None

    def ids() -> Iterator[str]:
        with _damage_told(path), opened() as file:
            for part in file.iter_batches(HEAD, columns=[name]):
                yield from texts(part.column(name).to_pylist())

    return rows, ids


def _opener(path: Path) -> Callable[[], Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "reading Parquet needs pyarrow: pip install 'tanl[parquet]', or convert the file to .npy or .jsonl"
        ) from error

    # Unbuffered, a whole row group's column would be in memory, and often the file is one row group.
    return lambda: pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Damage that pyarrow finds, be it in the footer or in a page, is told with the file's name."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is not a Parquet file, or damaged: {error}") from error


def _open_text(
    path: Path,
    column: str | None,
    id_column: str | None,
    opened: Callable[[], Any],
    present: list[str],
    written: list[str],
    rows: int,
) -> EmbeddingFile:
    # Only the columns that may be meant: others can be of any type, and of any size.
    ids = id_column_of(path, id_column, present)
    wanted = dict.fromkeys([*(written if column is None else [column]), *([] if ids is None else [ids])])

    def records() -> Iterator[Record]:
        with _damage_told(path), opened() as file:
            for part in file.iter_batches(HEAD, columns=list(wanted)):
                yield from part.to_pylist()

    return open_records(path, column, ids, records, rows)


def _storage(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _holds_vectors(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    kind = _storage(kind)
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    return bool(is_list and kinds.is_floating(kind.value_type))


def _holds_text(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))


def _fixed_dim(kind: pa.DataType) -> int | None:
    import pyarrow.types as kinds

    kind = _storage(kind)
    return kind.list_size if kinds.is_fixed_size_list(kind) else None


def _usual_length(path: Path, name: str, opened: Callable[[], Any]) -> int:
    """D of lists of any length, from the first rows; from as many as it takes to find a usable one."""
    lengths = Lengths()
    count = 0
    with _damage_told(path), opened() as file:
        for part in file.iter_batches(HEAD, columns=[name]):
            column = _plain(part.column(name))
            for row in column:
                if row.is_valid and len(row):
                    values = row.values.to_numpy(zero_copy_only=False)
                    lengths.add(len(values), bool(np.isfinite(values).all() and values.any()))
            count += len(column)
            if count >= HEAD and lengths.usable:
                break
    if not lengths.usual:
        raise ValueError(f"{path}: no row has an embedding in {name!r}")
    return lengths.usual


def _plain(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _vectors_of(column: pa.Array, dim: int) -> tuple[Tensor, dict[int, str]]:
    """Lists as rows ``[n, D]``; those that are missing or of another length are NaN."""
    import pyarrow.compute as pc

    column = _plain(column)
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    fits = lengths == dim
    # A null in a list of fixed length still takes up its place below, so what does not fit is filtered out first.
    whole = column if fits.all() else column.filter(fits)
    values = whole.flatten().to_numpy(zero_copy_only=False)
    z = np.full((len(lengths), dim), np.nan, dtype=values.dtype)
    z[fits] = values.reshape(-1, dim)
    errors = {row: length_error(int(lengths[row]), dim) for row in np.flatnonzero(~fits).tolist()}
    return torch.from_numpy(z), errors
