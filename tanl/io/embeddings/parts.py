"""A folder of numbered parts of one set of embeddings: ``part-0.npy``, ``part-1.npy``, ... in numeric order.

clip-retrieval writes such folders: ``img_emb/img_emb_0.npy`` with the ids of its rows in
``metadata/metadata_0.parquet``, or all of them in one folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from mimetypes import guess_type
from pathlib import Path

from ..text import some_of
from .columns import open_parquet_ids
from .file import SHOWN, EmbeddingBatch, EmbeddingFile, numbers

_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")
_IMAGES = "img_emb"  # clip-retrieval's name for embeddings of images
_METADATA = "metadata"
_ID_COLUMNS = ("id", "image_path", "key", "url")

Opener = Callable[[Path], EmbeddingFile]


def has_parts(folder: Path, beside_images: bool) -> bool:
    """Whether a folder holds numbered .npy files, or clip-retrieval's folders; and no images, unless they may be.

    One that cannot be listed holds none: it is named where its images are looked for.
    """
    try:
        if not _sets(folder, (".npy",)):
            return False
        return beside_images or not any(
            str(guess_type(path.name)[0]).startswith("image/") for path in folder.iterdir()
        )
    except PermissionError:
        return False


def _sets(folder: Path, endings: tuple[str, ...]) -> dict[str, list[tuple[int, Path]]]:
    """The numbered files in a folder by what is common to their names, each set in the order of its numbers.

    Of clip-retrieval's folder of folders, those of ``img_emb``. Tables of ids (``metadata_0.parquet``) are no parts.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    inner = folder / _IMAGES
    for path in (inner if inner.is_dir() else folder).iterdir():
        match = _NUMBERED.fullmatch(path.stem)
        if match is None or path.suffix.lower() not in endings or path.name.startswith("."):
            continue
        stem = match["stem"].rstrip("_-. ")
        if stem.lower() != _METADATA and path.is_file():
            found.setdefault(f"{stem}{path.suffix.lower()}", []).append((int(match["number"]), path))
    return {name: sorted(parts) for name, parts in sorted(found.items())}


def _whole(folder: Path, parts: list[tuple[int, Path]]) -> list[Path]:
    for (before, path), (number, after) in pairwise(parts):
        if number == before:
            raise ValueError(f"{path} and {after} have the same number; leave one of them out of the folder")
        if number != before + 1:
            raise ValueError(
                f"{folder}: part {before + 1} is missing, between {path.name} and {after.name}; complete the set, or "
                "name its files one by one"
            )
    return [path for _, path in parts]


def open_parts(
    folder: Path, column: str | None, id_column: str | None, endings: tuple[str, ...], opener: Opener
) -> EmbeddingFile:
    """Look into the parts of a set; ``opener`` opens one.

    Raises:
        ValueError: no numbered parts, several sets, a part that is missing or has another D, ids of another number.
    """
    sets = _sets(folder, endings)
    if not sets:
        raise ValueError(
            f"{folder} is a folder without numbered parts of one set (part-0.npy, part-1.npy, ...); name the files of "
            "embeddings in it"
        )
    name = f"{_IMAGES}.npy" if f"{_IMAGES}.npy" in sets else next(iter(sets))
    if len(sets) > 1 and name != f"{_IMAGES}.npy":
        raise ValueError(
            f"{folder} holds several sets: {some_of(list(sets), SHOWN)}; name the files of one of them"
        )
    files = [opener(path) for path in _whole(folder, sets[name])]
    first = files[0]
    for file in files:
        if file.dim != first.dim:
            raise ValueError(f"{file.path} has D = {file.dim}, but {first.path} has D = {first.dim}")
        if file.has_ids != first.has_ids:
            raise ValueError(f"of {file.path} and {first.path} one has a column of ids, the other none")
    if not first.has_ids:
        files = _with_metadata(folder, files, id_column)
    counts = [file.rows for file in files]
    has_ids = files[0].has_ids

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        start = 0
        for file in files:
            for batch in file.read(batch_size):
                yield batch if has_ids else replace(batch, ids=numbers(start, len(batch.ids)))
                start += len(batch.ids)

    rows = None if None in counts else sum(count or 0 for count in counts)
    return EmbeddingFile(folder, first.dim, rows, has_ids, read)


def _with_metadata(folder: Path, files: list[EmbeddingFile], id_column: str | None) -> list[EmbeddingFile]:
    """The parts with the ids in the tables beside them, if there are such tables."""
    places = (folder, folder / _METADATA, folder.parent / _METADATA)
    tables: dict[int, Path] = {}
    for place in places:
        if place.is_dir():
            for path in sorted(place.glob(f"{_METADATA}*.parquet")):
                match = _NUMBERED.fullmatch(path.stem)
                if match is not None:
                    tables[int(match["number"])] = path
        if tables:
            break
    if not tables:
        if id_column is not None:
            raise ValueError(
                f"{folder} has no metadata_0.parquet, metadata_1.parquet, ... with a column {id_column!r}: rows go by "
                "their numbers, so leave --id-column out"
            )
        return files
    return [_named_by(file, tables, id_column) for file in files]


def _named_by(file: EmbeddingFile, tables: dict[int, Path], id_column: str | None) -> EmbeddingFile:
    match = _NUMBERED.fullmatch(file.path.stem)
    assert match is not None, file.path
    table = tables.get(int(match["number"]))
    if table is None:
        raise ValueError(
            f"{file.path} has no {_METADATA}_{match['number']}.parquet with its ids, though other parts have one"
        )
    count, ids = open_parquet_ids(table, id_column, _ID_COLUMNS)
    if count != file.rows:
        raise ValueError(f"{table} has {count} rows, but {file.path} has {file.rows}")
    if ids is None:
        return file

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        called = ids()
        for batch in file.read(batch_size):
            yield replace(batch, ids=[next(called) for _ in batch.ids])

    return replace(file, has_ids=True, read=read)
