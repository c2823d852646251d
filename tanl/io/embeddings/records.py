"""Embeddings in records: JSON lines, CSV, and columns of text in Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .file import (
    HEAD,
    EmbeddingBatch,
    EmbeddingFile,
    Lengths,
    chosen,
    id_column_of,
    length_error,
    texts,
)
from .vectors import is_usable, looks_like_a_vector, may_be_a_vector, vector

Record = Mapping[str, Any]

_LONGEST_FIELD = 1 << 26  # characters; a quotation mark that is never closed must not read all of a file


def open_records(
    path: Path,
    column: str | None,
    id_column: str | None,
    records: Callable[[], Iterator[Record]],
    rows: int | None = None,
) -> EmbeddingFile:
    """Look into the first records, wherever among them the good ones are.

    Args:
        path: the file, for errors.
        column: where the embeddings are; None looks for it.
        id_column: what names the rows.
        records: reads the file from its start.
        rows: how many there are, if that is known.
    """
    name, present, lengths = _looked_at(path, column, records)
    ids = id_column_of(path, id_column, present)
    dim = lengths.usual

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        rows: list[tuple[str, NDArray[np.float32] | str]] = []
        for row, record in enumerate(records()):
            values = _flat(record)
            (called,) = texts([row if ids is None else values.get(ids)])
            rows.append((called, vector(values.get(name))))
            if len(rows) == batch_size:
                yield _batch(rows, dim)
                rows = []
        if rows:
            yield _batch(rows, dim)

    return EmbeddingFile(path, dim, rows, ids is not None, read)


def _looked_at(
    path: Path, column: str | None, records: Callable[[], Iterator[Record]]
) -> tuple[str, list[str], Lengths]:
    """The column of embeddings, all columns, and the lengths of its vectors, from the first records.

    They go on until a usable vector is found, be it at the end of the file. What is damaged further on is told where
    it is read.
    """
    present: dict[str, None] = {}
    lengths: dict[str, Lengths] = {}
    in_the_open: dict[str, Lengths] = {}
    reasons: dict[str, str] = {}
    count = 0
    try:
        for record in records():
            count += 1
            values = _flat(record)
            present |= dict.fromkeys(values)
            for key, value in values.items():
                if key != column and (column is not None or not looks_like_a_vector(value)):
                    if column is None and may_be_a_vector(value):
                        found = vector(value)
                        in_the_open.setdefault(key, Lengths()).add(len(found), is_usable(found))
                    continue
                found = vector(value)
                if isinstance(found, str):
                    reasons.setdefault(key, found)
                else:
                    lengths.setdefault(key, Lengths()).add(len(found), is_usable(found))
            if count >= HEAD and any(each.usable for each in (lengths or in_the_open).values()):
                break
    except ValueError:
        if not lengths:
            raise
    if not count:
        raise ValueError(f"{path} has no rows")
    lengths = lengths or in_the_open
    # A list that a few records have beside their embeddings makes no second column of them.
    most = max((each.weight for each in lengths.values()), default=(0, 0))
    fitting = [key for key, each in lengths.items() if tuple(2 * weight for weight in each.weight) >= most]
    if not fitting and reasons:
        key, reason = next(iter(reasons.items()))
        raise ValueError(f"{path}: {key!r} holds no embeddings (rows of floats), in the first row: {reason}")
    name = chosen(path, column, present, fitting)
    return name, list(present), lengths[name]


def _batch(rows: Sequence[tuple[str, NDArray[np.float32] | str]], dim: int) -> EmbeddingBatch:
    z = torch.full((len(rows), dim), float("nan"), dtype=torch.float32, device="cpu")
    errors = {}
    for row, (_, found) in enumerate(rows):
        if isinstance(found, str):
            errors[row] = found
        elif len(found) != dim:
            errors[row] = length_error(len(found), dim)
        else:
            z[row] = torch.from_numpy(found)
    return EmbeddingBatch([called for called, _ in rows], z, errors)


def _flat(record: Record) -> dict[str, Any]:
    """A record with the values in its objects beside them, as ``outer.inner``."""
    flat = dict(record)
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
    return flat


def open_jsonl(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into JSON lines."""

    def records() -> Iterator[Record]:
        for number, line in _lines(path):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object with named values")
            yield record

    return open_records(path, column, id_column, records)


def open_csv(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into comma-separated values with a header.

    The csv module's limit on fields is one for the whole process, and 131 072 characters are too few for the text of
    an embedding: it is raised here and stays so.
    """

    def records() -> Iterator[Record]:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
        reader = csv.DictReader((line for _, line in _lines(path)), restkey="")
        try:
            yield from reader
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error

    return open_records(path, column, id_column, records)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from enumerate(file, start=1)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error
