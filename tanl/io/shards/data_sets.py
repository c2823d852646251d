"""Data sets of Hugging Face's `datasets`: those on disk, and those that stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..image_files import reason_in_words
from .items import Broken, Item
from .parquet import contents, image_column


@dataclass(frozen=True)
class StreamUnit:
    """One of the files that a streaming data set is made of, or some rows of one that is on disk.

    Attributes:
        data: the data set, cut to this.
        name: what the whole is called.
        number: which unit it is.
        start: the number of the first row in the whole, where it is known.
        count: how many rows; None of one that streams.
        column: where the images are.
        id_column: what names them, or None.
    """

    data: Any
    name: str
    number: int
    start: int | None
    count: int | None
    column: str
    id_column: str | None

    @property
    def rows(self) -> int | None:
        return self.count

    @property
    def identity(self) -> str:
        return f"{self.name}\n{self.number}\n{self.start}\n{self.count}\n{self.column}\n{self.id_column}"

    def items(self, skip: int = 0) -> Iterator[Item]:
        at = skip
        try:
            data = self.data
            if skip:
                data = data.skip(skip)
            for row in data:
                named = None if self.id_column is None else row[self.id_column]
                yield Item(self._row(at) if named is None else str(named), contents(row[self.column]))
                at += 1
        except Exception as error:  # of damaged files every reader raises its own
            reason = f"the data set cannot be read here: {reason_in_words(error)}"
            for row in range(at, at + 1 if self.count is None else self.count):
                yield Item(self._row(row), Broken(reason))

    def _row(self, row: int) -> str:
        if self.start is None:
            return f"{self.name}:{self.number}:{row}"
        return f"{self.name}:{self.start + row}"


def is_data_set(value: object) -> bool:
    """Whether it is a data set of `datasets`; does not import it."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(value, library.Dataset | library.IterableDataset)


def opened(name: str, split: str) -> Any:
    """A data set by its name, or the path of one that `datasets` saved; it streams.

    Raises:
        ValueError, OSError: there is none, or it has no such split.
        ImportError: without `datasets`.
    """
    library = _library()
    try:
        return library.load_dataset(name, split=split, streaming=True)
    except (ValueError, OSError, library.exceptions.DatasetsError) as error:
        raise ValueError(f"the data set {name} cannot be opened: {reason_in_words(error)}") from error


def units(
    data: Any, name: str, column: str | None, id_column: str | None, *, unit_rows: int
) -> list[StreamUnit]:
    """A streaming data set in the files that it is made of; one on disk in units of so many rows.

    Raises:
        ValueError: no such column.
    """
    library = _library()
    if data.features is None:  # a stream that does not say what it holds before it is read
        names = list(next(iter(data), {}))
        found = column or ("image" if "image" in names else "")
        if found not in names:
            raise ValueError(f"the {name} has no column {found or 'image'!r}; it has {', '.join(names)}")
    else:
        names = list(data.features)
        found = image_column(data.features.arrow_schema, f"the {name}", column)
        if isinstance(data.features[found], library.Image):
            data = data.cast_column(
                found, library.Image(decode=False)
            )  # a broken image is found where it is read
    if id_column is not None and id_column not in names:
        raise ValueError(f"the {name} has no column {id_column!r}; it has {', '.join(names)}")
    data = data.select_columns([found] + [id_column] * (id_column is not None))
    if isinstance(data, library.Dataset):
        return [
            StreamUnit(
                data.select(range(start, min(start + unit_rows, len(data)))),
                name,
                number,
                start,
                min(unit_rows, len(data) - start),
                found,
                id_column,
            )
            for number, start in enumerate(range(0, len(data), unit_rows))
        ]
    count = data.num_shards
    return [
        StreamUnit(data.shard(count, number), name, number, None, None, found, id_column)
        for number in range(count)
    ]


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data sets need datasets: pip install 'tanl[ray]'") from error
    return datasets
