"""Embeddings in .safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .file import EmbeddingBatch, EmbeddingFile, chosen, numbers, refuse_ids

_FLOATS = ("F16", "BF16", "F32", "F64")


def open_safetensors(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into a file of tensors."""
    from safetensors import SafetensorError, safe_open

    refuse_ids(path, id_column)
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
            del slices
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged: {error}") from error
    fitting = [name for name, (shape, dtype) in found.items() if len(shape) == 2 and dtype in _FLOATS]
    name = chosen(path, column, found, fitting)
    (rows, dim), _ = found[name]

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        for start in range(0, rows, batch_size):
            # Opened anew for every batch: pages of the file that stay mapped would count as this process's memory.
            try:
                with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                    z = file.get_slice(name)[start : start + batch_size].clone()
            except SafetensorError as error:
                raise ValueError(f"{path} was changed while it was read, or is damaged: {error}") from error
            yield EmbeddingBatch(numbers(start, len(z)), z)

    return EmbeddingFile(path, dim, rows, False, read)
