"""Tensors in a safetensors file that carries the SHA-256 of all its bytes: written whole, read back as it was or not.

Any reader of safetensors reads such a file. It is read into memory, not mapped: a file that is cut while it is mapped
kills the process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .atomic import clear_leftovers, write_whole

_KEY = "sha256"
_BLANK = "0" * 64  # what stands for the checksum while it is computed


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors and notes to a file; an older one of that name is replaced when the new one is whole.

    Leftovers of killed writes in the same folder are taken away, see `clear_leftovers`.

    Args:
        path: the file, in a folder that is there.
        tensors: by name, on any device.
        about: notes by name; not ``sha256``.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    # The format has no place for tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in own.values()}) < len(own):
        own = {name: tensor.clone() for name, tensor in own.items()}
    content = save(own, metadata={**about, _KEY: _BLANK})
    start = _place(content)
    digest = hashlib.sha256(content).hexdigest().encode()
    write_whole(path, b"".join([content[:start], digest, content[start + len(_BLANK) :]]))
    clear_leftovers(path.parent)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_tensors` wrote: the tensors, on the CPU, and the notes.

    Raises:
        ValueError: not such a file, or one that is not as it was written, in any bit; the message does not name it.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        tensors, about = load(content), _about(content)
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no safetensors file, or a damaged one ({error})") from error
    kept = about.pop(_KEY, None)
    if kept is None:
        raise ValueError("it has no checksum: tanl did not write it, or it is damaged")
    try:
        view, start = memoryview(content), _place(content, kept)
    except ValueError as error:
        raise ValueError("it is damaged: its checksum cannot be read") from error
    digest = hashlib.sha256(view[:start])
    digest.update(_BLANK.encode())
    digest.update(view[start + len(_BLANK) :])
    if digest.hexdigest() != kept:
        raise ValueError("it is damaged: its checksum is not that of its content")
    return tensors, about


def read_notes(path: Path) -> dict[str, str]:
    """The notes alone, without reading the tensors: not held against the checksum.

    Raises:
        ValueError: no such file, or a damaged one; the message does not name it.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("it is no safetensors file, or a damaged one")
        content = start + file.read(length)
    try:
        return _about(content)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no safetensors file, or a damaged one ({error})") from error


def _about(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    about: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return dict(about)


def _place(content: bytes, digest: str = _BLANK) -> int:
    """Where the checksum's digits begin. In JSON no value holds a bare quotation mark, so it is found once."""
    length = int.from_bytes(content[:8], "little")
    key = f'"{_KEY}":"'.encode()
    return content.index(key + digest.encode() + b'"', 8, 8 + length) + len(key)
