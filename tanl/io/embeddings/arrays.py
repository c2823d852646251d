"""Embeddings in NumPy's files, .npy and .npz, read in plain slices."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import as_tensor
from .file import EmbeddingBatch, EmbeddingFile, chosen, numbers, refuse_ids

Header = tuple[tuple[int, ...], bool, "np.dtype[Any]"]
"""Shape, whether columns come first, and dtype."""

_ENCRYPTED = 0x1  # in the flags of a member of a zip archive
_DAMAGE = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, OSError)


def open_npy(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into an array."""
    refuse_ids(path, id_column)
    if column is not None:
        raise ValueError(f"{path} holds one array, so leave --column out")
    return _array_file(path, str(path), path.stat().st_size, lambda: path.open("rb"))


def open_npz(path: Path, column: str | None, id_column: str | None) -> EmbeddingFile:
    """Look into an archive of arrays."""
    refuse_ids(path, id_column)
    headers: dict[str, Header] = {}
    sizes: dict[str, int] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                if member.flag_bits & _ENCRYPTED:
                    raise ValueError(
                        f"{path} is encrypted; unpack it with its password and save it without one"
                    )
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    headers[name] = _header(file, f"{path}, {name}")
                sizes[name] = member.file_size
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's, not the archive's
        raise ValueError(f"{path} is not an .npz file, or damaged: {error}") from error
    fitting = [key for key, (shape, _, dtype) in headers.items() if dtype.kind == "f" and len(shape) == 2]
    name = chosen(path, column, headers, fitting)
    return _array_file(path, f"{path}, {name}", sizes[name], lambda: _Member(path, f"{name}.npy"))


class _Member:
    """A file in an archive, open together with it."""

    def __init__(self, path: Path, name: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._file = self._archive.open(name)

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except _DAMAGE as error:
            raise ValueError(f"{self._archive.filename} is damaged: {error}") from error

    def tell(self) -> int:
        return self._file.tell()

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._archive.close()


def _header(file: Any, what: str) -> Header:
    """What an array's header says, as far as it can be true."""
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, columns_first, dtype = read(file)
    except OSError:
        raise
    # The header is a Python literal, and NumPy lets through whatever its parsing stumbles on: ValueError,
    # SyntaxError, TokenError, TypeError, MemoryError, RecursionError ... Each means the same.
    except Exception as error:
        raise ValueError(f"{what} is not a NumPy array, or damaged: {error}") from error
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"{what} is not a NumPy array, or damaged: its header names the shape {list(shape)}")
    return shape, columns_first, dtype


def _array_file(path: Path, what: str, size: int, opened: Callable[[], Any]) -> EmbeddingFile:
    """Plain reads in place of a memory map: mapped pages would count as this process's memory, all of the file."""
    with opened() as file:
        shape, columns_first, dtype = _header(file, what)
        left = size - file.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{what} holds Python objects, which are never unpickled; save numbers: np.save(path, np.stack(list(z)))"
        )
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
    row_size = dim * dtype.itemsize
    if left < rows * row_size:
        raise ValueError(f"{what} is cut short: {rows} rows are named, and {left // row_size} are there")
    if left > rows * row_size:
        raise ValueError(
            f"{what} is damaged, or several arrays are in it: {left - rows * row_size} bytes follow its {rows} rows of "
            f"D = {dim}; save each array in a file of its own"
        )

    def read(batch_size: int) -> Iterator[EmbeddingBatch]:
        with opened() as file:
            _header(file, what)
            for start in range(0, rows, batch_size):
                count = min(batch_size, rows - start)
                content = file.read(count * row_size)
                if len(content) < count * row_size:
                    raise ValueError(
                        f"{what} is cut short: it ends in row {start + len(content) // row_size}"
                    )
                z = np.frombuffer(content, dtype).reshape(count, dim)
                yield EmbeddingBatch(numbers(start, count), as_tensor(z, what))

    return EmbeddingFile(path, dim, rows, False, read)
