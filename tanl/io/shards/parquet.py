"""Images in Parquet files: a column of the bytes of image files, as `datasets` and many exports write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..image_files import reason_in_words
from ..paths import is_address
from .files import opened
from .items import Broken, Item, Remote

_AT_ONCE = 64  # rows that are read at a time: images are large
_THREADS = 16


@dataclass(frozen=True)
class ParquetUnit:
    """Some row groups of a file.

    Attributes:
        file: a path or an address.
        groups: the row groups; None reads all there are, of a file whose footer could not be read.
        start: the number of the first row in the file.
        count: how many rows; None where nobody knows.
        column: where the images are.
        id_column: what names them, or None.
    """

    file: str
    groups: tuple[int, ...] | None
    start: int
    count: int | None
    column: str | None
    id_column: str | None

    @property
    def rows(self) -> int | None:
        return self.count

    @property
    def identity(self) -> str:
        return f"{self.file}\n{self.groups}\n{self.start}\n{self.count}\n{self.column}\n{self.id_column}"

    def items(self, skip: int = 0) -> Iterator[Item]:
        at = 0
        try:
            for name, value in self._values():
                if at >= skip:
                    yield Item(name, contents(value))
                at += 1
        except Exception as error:
            # Of a damaged file pyarrow raises whatever its parser stumbles on. Each row that is missing has its place.
            reason = reason_in_words(error)
            missing = 1 if self.count is None else self.count - at
            for row in range(at, at + missing):
                if row >= skip:
                    name = self.file if self.count is None else f"{self.file}:{self.start + row}"
                    yield Item(name, Broken(f"the Parquet file {self.file} cannot be read here: {reason}"))

    def _values(self) -> Iterator[tuple[str, Any]]:
        import pyarrow.parquet as pq

        columns = [name for name in (self.column, self.id_column) if name is not None]
        number = self.start
        with opened(self.file) as source:
            file = pq.ParquetFile(source)
            if self.column is None:  # its footer could not be read before
                columns = [image_column(file.schema_arrow, self.file, None)]
            groups = range(file.num_row_groups) if self.groups is None else self.groups
            for batch in file.iter_batches(_AT_ONCE, row_groups=list(groups), columns=columns):
                names = None if self.id_column is None else batch.column(self.id_column).to_pylist()
                for row, value in enumerate(batch.column(columns[0]).to_pylist()):
                    named = None if names is None or names[row] is None else str(names[row])
                    yield named or f"{self.file}:{number}", value
                    number += 1


def units(
    files: Sequence[str], column: str | None, id_column: str | None, unit_rows: int
) -> list[ParquetUnit]:
    """Row groups of the files, in units of about so many rows. A file whose footer is damaged is a unit of its own.

    Raises:
        ValueError: a file without such columns.
        ImportError: without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'tanl[parquet]'") from error

    def of_file(name: str) -> list[ParquetUnit]:
        try:
            with opened(name) as source:
                metadata = pq.read_metadata(source)
                sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
                schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError, ValueError):
            return [ParquetUnit(name, None, 0, None, column, id_column)]
        found = image_column(schema, name, column)
        if id_column is not None and id_column not in schema.names:
            raise ValueError(f"{name} has no column {id_column!r}; it has {', '.join(schema.names)}")
        made: list[ParquetUnit] = []
        start = 0
        groups: list[int] = []
        rows = 0
        for group, size in enumerate(sizes):
            groups.append(group)
            rows += size
            if rows >= unit_rows or group == len(sizes) - 1:
                made.append(ParquetUnit(name, tuple(groups), start, rows, found, id_column))
                start, groups, rows = start + rows, [], 0
        return made

    if any(map(is_address, files)):
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(of_file, files))
    else:
        parts = list(map(of_file, files))
    return [unit for part in parts for unit in part]


def image_column(schema: Any, file: str, column: str | None) -> str:
    """The column that holds images.

    Raises:
        ValueError: no such column, or several that may be meant.
    """
    import pyarrow as pa

    def holds_images(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    if column is not None:
        if column not in schema.names:
            raise ValueError(f"{file} has no column {column!r}; it has {', '.join(schema.names)}")
        return column
    if "image" in schema.names:
        return "image"
    fitting = [field.name for field in schema if holds_images(field.type)]
    if len(fitting) != 1:
        found = (
            f"several columns may hold images ({', '.join(fitting)})" if fitting else "no column of images"
        )
        raise ValueError(f"{file} has {found}; name it, as --column NAME or column=")
    return str(fitting[0])


def contents(value: Any) -> Any:
    """What a cell holds: bytes, ``{"bytes": ..., "path": ...}``, or a path, or a Pillow image, for an `Item`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and value:
        return Remote(value) if is_address(value) else value
    if isinstance(value, Image.Image):
        return value
    if value is None or value == "":
        return Broken("its cell is empty")
    return Broken(f"its cell holds a {type(value).__name__}, which is no image")
