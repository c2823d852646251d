"""Embedding files in, batches of rows out: NumPy, safetensors, Parquet, JSON lines, CSV, and folders of numbered parts.

Nothing is read before it is needed, and no more than a batch at a time, whatever the file's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path

from torch import Tensor

from ..paths import local_path
from .arrays import open_npy, open_npz
from .columns import open_parquet
from .file import EmbeddingBatch, EmbeddingFile
from .parts import has_parts, open_parts
from .records import open_csv, open_jsonl
from .tensors import open_safetensors

__all__ = [
    "EmbeddingBatch",
    "EmbeddingFile",
    "endings",
    "is_embedding_file",
    "open_embeddings",
    "read_embeddings",
]

_OPENERS: dict[str, Callable[[Path, str | None, str | None], EmbeddingFile]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
    ".jsonl": open_jsonl,
    ".ndjson": open_jsonl,
    ".csv": open_csv,
}
_OF_PARTS = (".npy", ".npz", ".safetensors", ".parquet")


def read_embeddings(
    path: str | PathLike[str],
    *,
    column: str | None = None,
    id_column: str | None = None,
    normalize: bool = False,
    batch_size: int = 4096,
) -> Iterator[tuple[list[str], Tensor]]:
    """Embeddings in a file, batch by batch: no more than a batch is in memory.

    Files are .npy; .npz and .safetensors, with one 2-D array or the one that ``column`` names; .parquet with a
    column of lists of floats; .jsonl and .csv with a column of arrays (``[0.1, 0.2]``, as pgvector writes them; text
    may also be what NumPy prints, ``[0.1 0.2]``, if nothing is left out of it). In .jsonl ``vector.image`` is the value
    ``image`` in the object ``vector``. A folder of numbered parts (``part-0.npy``, ``part-1.npy``, ...) is one set in
    the order of the numbers, with the ids in ``metadata_0.parquet``, ... beside them, as clip-retrieval writes it.

    Where rows can be of any length, D is the commonest length among the first 1024 rows: of the usable ones, if there
    are any.

    Args:
        path: the file; its ending tells its kind.
        column: where the embeddings are; None takes the only column that can hold them.
        id_column: what names the rows; None takes ``id`` if there is one, else their numbers from 0 on. Arrays
            have none.
        normalize: bring rows to unit norm.
        batch_size: rows at a time; the last ones may be fewer, and in Parquet and parts those that end a row group or
            a part.

    Returns:
        Batches, read as they are asked for: ids, and embeddings ``[n, D]`` in the file's dtype (float32 if normalised,
        or read from text). A row without a usable embedding (NaN, infinite, all zeros, missing, another length)
        is NaN.

    Raises:
        ValueError: no embeddings in the file, several columns that could hold them, a row that is not of unit norm
            without ``normalize``, a damaged file.
        OSError: it cannot be read.
        ImportError: Parquet without pyarrow.
    """
    file = open_embeddings(path, column=column, id_column=id_column)
    return ((batch.ids, batch.z) for batch in file.batches(batch_size, normalize=normalize))


def is_embedding_file(path: str | PathLike[str], *, beside_images: bool = False) -> bool:
    """Whether the ending is one that `open_embeddings` reads, or it is a folder with numbered parts of a set.

    Args:
        path: a file or folder.
        beside_images: whether a folder that also holds images counts.
    """
    path = local_path(path)
    return has_parts(path, beside_images) if path.is_dir() else path.suffix.lower() in _OPENERS


def endings() -> str:
    """The endings of embedding files, as a list in words."""
    return ", ".join(_OPENERS)


def open_embeddings(
    path: str | PathLike[str], *, column: str | None = None, id_column: str | None = None
) -> EmbeddingFile:
    """Look into a file of embeddings, without reading more of it than its head.

    ``column`` and ``id_column`` are `read_embeddings`'s, and so are the errors.
    """
    path = local_path(path)
    if path.is_dir():
        return open_parts(path, column, id_column, _OF_PARTS, lambda part: _opened(part, column, None))
    return _opened(path, column, id_column)


def _opened(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"embeddings are read from {endings()}; {str(path)!r} ends in none of them")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    file = opener(path, column, id_column)
    if file.rows == 0:
        raise ValueError(f"{path} has no rows")
    if file.dim == 0:
        raise ValueError(f"the embeddings in {path} have no numbers (D = 0)")
    return file
