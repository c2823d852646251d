"""Tensors in files that are larger than memory: written a part at a time, and mapped where they are to be read.

The files are those of `tanl.io.tensors`, with the same checksum. A mapped file costs no memory that the system cannot
take back, and one thing that a file in memory does not: whoever *cuts* it while it is mapped kills the process, with a
signal that no program can answer (SIGBUS). So a file is mapped only where it is asked for; all of it is read and held
against its checksum before; and `MappedFile.check` tells a file that was written to or cut since, as long as nobody
touches what is gone. Nothing here, and nothing that writes through `write_whole`, ever writes into a file that is
there: a new one takes its name, and who has the old one mapped keeps that.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .atomic import write_whole

_KEY = "sha256"
_BLANK = "0" * 64  # what stands for the checksum while it is computed
_AT_ONCE = 8 << 20  # bytes
_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Parts:
    """A tensor that is given a part at a time, and so need not be in memory.

    Attributes:
        shape: of the whole.
        dtype: of every part.
        parts: its rows in order; read once.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Iterable[Tensor]


@dataclass(frozen=True)
class MappedFile:
    """A file whose tensors are mapped, as it was when its checksum was right.

    Attributes:
        path: where it was found.
        size: bytes.
        changed: when it was last written to, ns.
        file: the file itself, open as long as this object is there.
    """

    path: Path
    size: int
    changed: int
    file: BinaryIO

    def check(self) -> None:
        """Whether the file is still as it was, by its size and time; a few microseconds.

        Raises:
            OSError: it was cut or written to. What was read of it since may be anything.
        """
        now = os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise OSError(
                f"{self.path} was written to while it was mapped: load it again, and replace such files by "
                "another of the same name instead of writing into them"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> MappedFile:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path} is mapped in this process: give others its path, and let them map it")


def write_parts(path: Path, tensors: Mapping[str, Tensor | Parts], about: Mapping[str, str]) -> None:
    """As `write_tensors`, with tensors that come in parts; `read_tensors` reads the file too.

    Raises:
        ValueError: parts of another dtype or shape than was said, or that are too few or too many; no file is left.
        OSError: it cannot be written; the message names the file.
    """
    # The largest numbers first, so that every tensor lies where its dtype wants it.
    every = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {**about, _KEY: _BLANK}}
    start = 0
    for name, tensor in every:
        end = start + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_whole(path, partial(_write, head=len(text).to_bytes(8, "little") + text, tensors=every))


def _write(path: Path, head: bytes, tensors: list[tuple[str, Tensor | Parts]]) -> None:
    digest = hashlib.sha256(head)
    with path.open("r+b") as file:
        file.write(head)
        for name, tensor in tensors:
            given = tensor.parts if isinstance(tensor, Parts) else [tensor]
            rows = 0
            for part in given:
                if part.dtype != tensor.dtype or part.shape[1:] != tensor.shape[1:]:
                    raise ValueError(
                        f"{name}: a part is {list(part.shape)} of {part.dtype}, and the whole {list(tensor.shape)} "
                        f"of {tensor.dtype}"
                    )
                rows += len(part)
                if rows > tensor.shape[0]:
                    break
                content = part.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data
                digest.update(content)
                file.write(content)
            if rows != tensor.shape[0]:
                more = "at least " if rows > tensor.shape[0] else ""
                raise ValueError(f"{name}: the parts have {more}{rows} rows, not {tensor.shape[0]}")
        file.seek(head.index(f'"{_KEY}":"{_BLANK}"'.encode()) + len(_KEY) + 4)
        file.write(digest.hexdigest().encode())


def map_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], MappedFile]:
    """What `write_tensors` or `write_parts` wrote, mapped: read-only tensors on the CPU, the notes, and the file.

    All of the file is read once, a few megabytes at a time, and held against its checksum.

    Raises:
        ValueError: not such a file, or one that is not as it was written, in any bit; the message does not name it.
        OSError: it cannot be read.
    """
    file = path.open("rb")
    try:
        status = os.fstat(file.fileno())
        try:
            with safe_open(str(path), framework="numpy"):  # its library's own checks of header and sizes
                pass
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            about = dict(header.pop("__metadata__", {}))
            places = {name: _place_of(name, entry, 8 + length) for name, entry in header.items()}
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is no safetensors file, or a damaged one ({error})") from error
        kept = about.pop(_KEY, None)
        if kept is None:
            raise ValueError("it has no checksum: tanl did not write it, or it is damaged")
        if _digest(file, 8 + length, kept) != kept:
            raise ValueError("it is damaged: its checksum is not that of its content")
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tensors = {name: _mapped(whole, *place) for name, place in places.items()}
        mapped = MappedFile(path, status.st_size, status.st_mtime_ns, file)
        mapped.check()
        return tensors, about, mapped
    except BaseException:
        file.close()
        raise


def _place_of(name: str, entry: dict[str, object], data: int) -> tuple[torch.dtype, tuple[int, ...], int]:
    """A tensor's dtype, shape and place in the file."""
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in _DTYPES:
        raise ValueError(f"{name} is of {code}")
    return _DTYPES[str(code)], tuple(shape), data + int(offsets[0])  # type: ignore[arg-type,index]


def _mapped(whole: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], place: int) -> Tensor:
    count = prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype, device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # nor is it ever written to
        return torch.frombuffer(whole, dtype=dtype, count=count, offset=place).view(shape)


def _digest(file: BinaryIO, data: int, kept: str) -> str:
    """The checksum of a file's bytes, those of the one it carries left out."""
    file.seek(0)
    head = file.read(data)
    start = head.find(f'"{_KEY}":"{kept}"'.encode())
    if start < 0:
        raise ValueError("it is damaged: its checksum cannot be read")
    start += len(_KEY) + 4
    digest = hashlib.sha256(head[:start] + _BLANK.encode() + head[start + len(_BLANK) :])
    while content := file.read(_AT_ONCE):
        digest.update(content)
    return digest.hexdigest()
