"""Embedding files in, batches of rows out: NumPy, safetensors, Parquet, JSON lines, CSV.

Nothing is read before it is needed, and no more than a batch at a time, whatever the file's size.
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import as_tensor, norm_tolerance, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 8
_FLOATS = ("F16", "BF16", "F32", "F64")
_PARQUET_BUFFER = 1 << 20


@dataclass(frozen=True)
class EmbeddingBatch:
    """Some rows of a file.

    Attributes:
        ids: of each row, as text.
        z: ``[n, D]``; a row with an error is NaN.
        errors: why a row has no usable embedding, by its place in the batch.
    """

    ids: list[str]
    z: Tensor
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingFile:
    """A file that was opened: what is in it, and its rows in batches.

    Attributes:
        path: where it is.
        dim: D.
        rows: how many there are; None where only reading the whole file would tell.
        has_ids: whether rows are named by a column of ids, rather than by their numbers.
    """

    path: Path
    dim: int
    rows: int | None
    has_ids: bool
    _read: Callable[[int], Iterator[EmbeddingBatch]] = field(repr=False)

    def batches(self, batch_size: int, *, normalize: bool = False) -> Iterator[EmbeddingBatch]:
        """Its rows in order, at most ``batch_size`` at a time, in their own dtype.

        Args:
            batch_size: rows at a time, at least 1.
            normalize: bring rows to unit norm; they come as float32 then.

        Raises:
            ValueError: a row that is not of unit norm without ``normalize``; a damaged file.
        """
        return self._checked(self._read(whole_number(batch_size, "batch_size", at_least=1)), normalize)

    def _checked(self, batches: Iterator[EmbeddingBatch], normalize: bool) -> Iterator[EmbeddingBatch]:
        start = 0
        for batch in batches:
            yield self._of_unit_norm(batch, start, normalize)
            start += len(batch.ids)

    def _of_unit_norm(self, batch: EmbeddingBatch, start: int, normalize: bool) -> EmbeddingBatch:
        z = batch.z
        norms = torch.linalg.vector_norm(z, dim=1, dtype=torch.float64)
        usable = norms.isfinite() & (norms > 0)
        errors = dict(batch.errors)
        for row in (~usable).nonzero()[:, 0].tolist():
            reason = "is all zeros" if norms[row] == 0 else "has NaN or infinite values"
            errors.setdefault(row, f"the embedding {reason}")
        if normalize:
            z = (z.double() / norms[:, None]).float()
        else:
            off = usable & ((norms - 1).abs() > norm_tolerance(z.dtype))
            if bool(off.any()):
                row = int(off.nonzero()[0])
                named = f" (id {batch.ids[row]})" if self.has_ids else ""
                raise ValueError(
                    f"{self.path}: row {start + row}{named} has norm {float(norms[row]):.4g}, not 1; add --normalize "
                    "(in Python: normalize=True) if its model's embeddings are compared by cosine"
                )
        if errors:
            z = z.index_fill(0, torch.tensor(sorted(errors)), float("nan"))
        return EmbeddingBatch(batch.ids, z, errors)


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
    column of lists of floats; .jsonl and .csv with a column of JSON arrays (``[0.1, 0.2]``, as pgvector
    writes them). In .jsonl ``vector.image`` is the value ``image`` in the object ``vector``.

    Args:
        path: the file; its ending tells its kind.
        column: where the embeddings are; None takes the only column that can hold them.
        id_column: what names the rows; None takes ``id`` if there is one, else their numbers from 0 on. Arrays
            have none.
        normalize: bring rows to unit norm.
        batch_size: rows at a time; the last ones may be fewer, and in Parquet those that end a row group.

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


def is_embedding_file(path: str | PathLike[str]) -> bool:
    """Whether the ending is one that `open_embeddings` reads."""
    return Path(path).suffix.lower() in _OPENERS


def endings() -> str:
    """The endings of embedding files, as a list in words."""
    return ", ".join(_OPENERS)


def open_embeddings(
    path: str | PathLike[str], *, column: str | None = None, id_column: str | None = None
) -> EmbeddingFile:
    """Look into a file of embeddings, without reading more of it than its head.

    ``column`` and ``id_column`` are `read_embeddings`'s, and so are the errors.
    """
    path = Path(path)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"embeddings are read from {endings()}; {str(path)!r} ends in none of them")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the files of embeddings in it")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    file = opener(path, column, id_column)
    if file.rows == 0:
        raise ValueError(f"{path} has no rows")
    if file.dim == 0:
        raise ValueError(f"the embeddings in {path} have no numbers (D = 0)")
    return file


# --- arrays: .npy, .npz, .safetensors -----------------------------------------------------------------------


def _numbers(start: int, count: int) -> list[str]:
    return [str(row) for row in range(start, start + count)]


def _refuse_ids(path: Path, id_column: str | None) -> None:
    if id_column is not None:
        raise ValueError(
            f"{path} holds arrays, which have no column {id_column!r}: rows go by their numbers, so leave "
            "--id-column out"
        )


def _open_npy(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    _refuse_ids(path, id_column)
    if column is not None:
        raise ValueError(f"{path} holds one array, so leave --column out")
    return _array_file(path, str(path), path.stat().st_size, lambda: path.open("rb"))


def _open_npz(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    _refuse_ids(path, id_column)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            shapes, sizes = {}, {name: archive.getinfo(name).file_size for name in members}
            for name in members:
                with archive.open(name) as file:
                    shape, _, dtype = _npy_header(file, f"{path}, {name}")
                    shapes[name.removesuffix(".npy")] = (shape, dtype.kind == "f")
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz file, or damaged: {error}") from error
    name = _chosen(
        path, column, shapes, [key for key, (shape, real) in shapes.items() if real and len(shape) == 2]
    )
    member = f"{name}.npy"
    return _array_file(path, f"{path}, {name}", sizes[member], lambda: _Member(path, member))


class _Member:
    """A file in an archive, open together with it."""

    def __init__(self, path: Path, name: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._file = self._archive.open(name)

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self._archive.filename} is damaged: {error}") from error

    def tell(self) -> int:
        return self._file.tell()

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._archive.close()


def _npy_header(file: Any, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype."""
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{what} is not a NumPy array, or damaged: {error}") from error
    return header


def _array_file(path: Path, what: str, size: int, opened: Callable[[], Any]) -> EmbeddingFile:
    """Plain reads in place of a memory map: mapped pages would count as this process's memory, all of the file."""
    with opened() as file:
        shape, columns_first, dtype = _npy_header(file, what)
        left = size - file.tell()
    if len(shape) != 2:
        hint = "; one embedding is z[None]" if len(shape) == 1 else ""
        raise ValueError(f"{what} must have shape [n, D], not {list(shape)}{hint}")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"{what} must be of a floating dtype up to float64, not {dtype}")
    if columns_first and min(shape) > 1:
        raise ValueError(
            f"{what} is stored columns first (Fortran order), so rows cannot be read one after the other; "
            "save np.ascontiguousarray(z)"
        )
    rows, dim = shape
    if left < rows * dim * dtype.itemsize:
        raise ValueError(
            f"{what} is cut short: {rows} rows are named, and {left // (dim * dtype.itemsize)} are there"
        )

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        with opened() as file:
            _npy_header(file, what)
            for start in range(0, rows, batch_size):
                count = min(batch_size, rows - start)
                content = file.read(count * dim * dtype.itemsize)
                z = np.frombuffer(content, dtype).reshape(count, dim)
                yield EmbeddingBatch(_numbers(start, count), as_tensor(z, what))

    return EmbeddingFile(path, dim, rows, False, read)


def _open_safetensors(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    from safetensors import SafetensorError, safe_open

    _refuse_ids(path, id_column)
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
            del slices
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged: {error}") from error
    fitting = [name for name, (shape, dtype) in found.items() if len(shape) == 2 and dtype in _FLOATS]
    name = _chosen(path, column, found, fitting)
    (rows, dim), _ = found[name]

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        for start in range(0, rows, batch_size):
            # Opened anew for every batch: pages of the file that stay mapped would count as this process's memory.
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                z = file.get_slice(name)[start : start + batch_size].clone()
            yield EmbeddingBatch(_numbers(start, len(z)), z)

    return EmbeddingFile(path, dim, rows, False, read)


def _chosen(path: Path, wanted: str | None, present: Iterable[str], fitting: Sequence[str]) -> str:
    """The column that is meant: the one wanted, or the only one that can hold embeddings."""
    if wanted is not None:
        if wanted in fitting:
            return wanted
        if wanted in present:
            raise ValueError(f"{path}: {wanted!r} holds no embeddings (rows of floats); {_listed(fitting)}")
        raise ValueError(f"{path} has no {wanted!r}; {_listed(fitting)}")
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ValueError(
            f"{path} has nothing that holds embeddings (rows of floats); it has {_names(list(present)) or 'nothing'}"
        )
    raise ValueError(f"{path} has several columns of embeddings: {_names(fitting)}; choose one with --column")


def _listed(fitting: Sequence[str]) -> str:
    return f"embeddings are in {_names(fitting)}" if fitting else "nothing in it does"


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


# --- tables: .parquet ---------------------------------------------------------------------------------------


def _open_parquet(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "reading Parquet needs pyarrow: pip install 'tanl[parquet]', or convert the file to .npy or .jsonl"
        ) from error

    def opened() -> Any:
        # Unbuffered, a whole row group's column would be in memory, and often the file is one row group.
        return pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False)

    try:
        with opened() as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file, or damaged: {error}") from error
    name = _chosen(path, column, schema.names, [each.name for each in schema if _holds_vectors(each.type)])
    ids = _id_column(path, id_column, schema.names)
    wanted = [name] if ids is None or ids == name else [name, ids]
    dim = _fixed_dim(schema.field(name).type)
    if dim is None:
        dim = _first_length(path, name, opened)

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        start = 0
        with opened() as file:
            for part in file.iter_batches(batch_size, columns=wanted):
                count = part.num_rows
                named = _numbers(start, count) if ids is None else _texts(part.column(ids).to_pylist())
                z, errors = _vectors_of(part.column(name), dim)
                yield EmbeddingBatch(named, z, errors)
                start += count

    return EmbeddingFile(path, dim, rows, ids is not None, read)


def _storage(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _holds_vectors(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    kind = _storage(kind)
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    return bool(is_list and kinds.is_floating(kind.value_type))


def _fixed_dim(kind: pa.DataType) -> int | None:
    import pyarrow.types as kinds

    kind = _storage(kind)
    return kind.list_size if kinds.is_fixed_size_list(kind) else None


def _first_length(path: Path, name: str, opened: Callable[[], Any]) -> int:
    """D of lists of any length: that of the first row that has one."""
    import pyarrow.compute as pc

    with opened() as file:
        for part in file.iter_batches(1024, columns=[name]):
            for length in pc.list_value_length(_plain(part.column(name))).to_pylist():
                if length:
                    return int(length)
    raise ValueError(f"{path}: no row has an embedding in {name!r}")


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
    errors = {row: _length_error(int(lengths[row]), dim) for row in np.flatnonzero(~fits).tolist()}
    return torch.from_numpy(z), errors


def _length_error(length: int, dim: int) -> str:
    return "there is no embedding" if length < 0 else f"the embedding has D = {length}, not {dim}"


def _id_column(path: Path, wanted: str | None, present: Iterable[str]) -> str | None:
    if wanted is None:
        return "id" if "id" in present else None
    if wanted not in present:
        raise ValueError(f"{path} has no column {wanted!r} for ids; it has {_names(list(present))}")
    return wanted


def _texts(ids: Iterable[Any]) -> list[str]:
    return [each.hex() if isinstance(each, bytes) else "" if each is None else str(each) for each in ids]


# --- records: .jsonl, .csv ----------------------------------------------------------------------------------

Record = Mapping[str, Any]


def _open_records(
    path: Path, column: str | None, id_column: str | None, records: Callable[[], Iterator[Record]]
) -> EmbeddingFile:
    first = next(records(), None)
    if first is None:
        raise ValueError(f"{path} has no rows")
    values = _flat(first)
    name = column
    if name is None or name not in values:
        name = _chosen(
            path, column, values, [key for key, value in values.items() if _looks_like_a_vector(value)]
        )
    ids = _id_column(path, id_column, values)
    dim = 0
    for record in records():
        vector = _vector(_flat(record).get(name))
        if isinstance(vector, np.ndarray) and len(vector):
            dim = len(vector)
            break
    if not dim:
        raise ValueError(f"{path}: no row has an embedding in {name!r}")

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        rows: list[tuple[str, NDArray[Any] | str]] = []
        for row, record in enumerate(records()):
            values = _flat(record)
            (named,) = _texts([row if ids is None else values.get(ids)])
            rows.append((named, _vector(values.get(name))))
            if len(rows) == batch_size:
                yield _batch(rows, dim)
                rows = []
        if rows:
            yield _batch(rows, dim)

    return EmbeddingFile(path, dim, None, ids is not None, read)


def _batch(rows: Sequence[tuple[str, NDArray[Any] | str]], dim: int) -> EmbeddingBatch:
    z = torch.full((len(rows), dim), float("nan"))
    errors = {}
    for row, (_, vector) in enumerate(rows):
        if isinstance(vector, str):
            errors[row] = vector
        elif len(vector) != dim:
            errors[row] = _length_error(len(vector), dim)
        else:
            z[row] = torch.from_numpy(vector)
    return EmbeddingBatch([named for named, _ in rows], z, errors)


def _flat(record: Record) -> dict[str, Any]:
    """A record with the values in its objects beside them, as ``outer.inner``."""
    flat = dict(record)
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
    return flat


def _looks_like_a_vector(value: Any) -> bool:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return False
    return isinstance(_vector(value), np.ndarray)


def _vector(value: Any) -> NDArray[Any] | str:
    """A list of numbers, or the text of one, as float32; what is wrong with it otherwise."""
    if value is None or value == "":
        return _length_error(-1, 0)
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, list) and value and not isinstance(value[0], str):
            vector = np.array(value, dtype=np.float32)
            if vector.ndim == 1:
                return vector
    except (ValueError, TypeError, OverflowError):
        pass
    return "the embedding is not a list of numbers"


def _open_jsonl(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    def records() -> Iterator[Record]:
        for number, line in _lines(path):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object with named values")
            yield record

    return _open_records(path, column, id_column, records)


def _open_csv(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    def records() -> Iterator[Record]:
        reader = csv.DictReader((line for _, line in _lines(path)), restkey="")
        try:
            yield from reader
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error

    return _open_records(path, column, id_column, records)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    file: IO[str]
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from enumerate(file, start=1)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error


_OPENERS: dict[str, Callable[[Path, str | None, str | None], EmbeddingFile]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".parquet": _open_parquet,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".csv": _open_csv,
}
