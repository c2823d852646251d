"""Embeddings in .safetensors files, read in plain slices: a file that is cut while it is mapped kills the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from .file import EmbeddingBatch, EmbeddingFile, chosen, numbers, refuse_ids

_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_LONGEST_HEADER = 100_000_000  # bytes, as the format says


class _Place(NamedTuple):
    """Where a tensor is: its shape, what the format calls its dtype, and its first and last bytes in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int


def open_safetensors(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into a file of tensors."""
    refuse_ids(path, id_column)
    try:
        with path.open("rb") as file:
            found = _places(file, path.stat().st_size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged: {error}") from error
    fitting = [
        name
        for name, place in found.items()
        if len(place.shape) == 2 and place.shape[1] and place.dtype in _FLOATS
    ]
    name = chosen(path, column, found, fitting)
    place = found[name]
    rows, dim = place.shape
    dtype = _FLOATS[place.dtype]
    row = dim * dtype.itemsize
    if place.end - place.start != rows * row:
        raise ValueError(
            f"{path} is not a safetensors file, or damaged: {name!r} has {place.end - place.start} bytes, but its "
            f"shape {[rows, dim]} and dtype {place.dtype} make {rows * row}"
        )

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        with path.open("rb") as file:
            file.seek(place.start)
            for start in range(0, rows, batch_size):
                content = bytearray(min(batch_size, rows - start) * row)
                if file.readinto(content) != len(content):
                    raise ValueError(f"{path} was changed while it was read: it ends in {name!r}")
                z = torch.frombuffer(content, dtype=dtype).reshape(-1, dim)
                yield EmbeddingBatch(numbers(start, len(z)), z)

    return EmbeddingFile(path, dim, rows, False, read)


def _places(file: BinaryIO, size: int) -> dict[str, _Place]:
    """Where the tensors are, of a file of that size; the notes are left out."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        raise ValueError(f"its header would have {length} bytes")
    header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(each) is int and each >= 0 for each in (*shape, start, end)):
            raise ValueError(f"{name!r} has no shape, or no place")
        if not isinstance(entry["dtype"], str):
            raise ValueError(f"{name!r} has no dtype")
        place = _Place(shape, entry["dtype"], 8 + length + start, 8 + length + end)
        if not place.start <= place.end <= size:
            raise ValueError(f"{name!r} would lie outside of it")
        found[name] = place
    return found
