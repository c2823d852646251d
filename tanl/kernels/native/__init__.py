"""The compiled CPU backend: fused.cpp, loaded with ctypes.

It reads the label matrix as it lies in memory (float32 or float16), once for all rows, and keeps no copy of it.
``torch.get_num_threads()`` threads work on it, torch's own where they can be had; results do not depend on how many.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from .. import reference
from ..stored import Segments, StoredExponentials, memory_for

VARIANTS = ("portable", "avx2", "avx512")
STORED_BYTES = 1 << 30
LEAST_ROWS = 64

otsu_histogram = reference.otsu_histogram  # 20 000 scores: torch's own bincount is at once done


def why_not(device: torch.device) -> str | None:
    """Why this backend cannot serve tensors on a device; None if it can."""
    if device.type != "cpu":
        return f"the native kernels are for CPU tensors; this one is on {device}"
    if _library() is None:
        return "the native extension was not compiled; install a C++17 compiler (GCC or Clang) and install tanl again"
    return None


def variants() -> tuple[str, ...]:
    """The instruction sets that this processor can run, the fastest last."""
    library = _library()
    if library is None:
        return ()
    return tuple(name for i, name in enumerate(VARIANTS) if library.tanl_supported(i))


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """One pass that keeps nothing."""
    return _pass(z, labels, scale, None).lse


def stored_rows(z: Tensor, labels: Tensor) -> int:
    """As many as fit into 1 GiB, at least 64: every further pass reads all labels again."""
    return max(LEAST_ROWS, STORED_BYTES // (4 * len(labels)))


def exp_store(
    z: Tensor, labels: Tensor, scale: float, out: StoredExponentials | None = None
) -> StoredExponentials:
    """The values are ``[tiles, labels of a tile, n rounded up to whole vectors]``."""
    size = _tiles(len(labels)) * _tile() * _padded(len(z))
    return _pass(z, labels, scale, memory_for(size, z, out))


def segment_colsum_stored(stored: StoredExponentials, segments: Segments) -> Tensor:
    """Columns belong to one thread each."""
    bounds = torch.tensor(segments, dtype=torch.int64).reshape(-1, 2)
    padded = _padded(len(stored.lse))
    lse = torch.nn.functional.pad(stored.lse, (0, padded - len(stored.lse)))
    sums = torch.empty(len(bounds), stored.num_labels)
    _call(
        "tanl_segment_colsum_stored",
        _pointer(stored.values),
        _pointer(stored.maxima),
        _pointer(lse),
        len(stored.lse),
        stored.num_labels,
        _pointer(bounds),
        len(bounds),
        _pointer(sums),
    )
    return sums


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """A tile's exponentials are summed while they are in the cache."""
    z, labels, lse = z.contiguous(), labels.contiguous(), lse.contiguous()
    bounds = torch.tensor(segments, dtype=torch.int64).reshape(-1, 2)
    sums = torch.empty(len(bounds), len(labels))
    _call(
        "tanl_segment_colsum",
        *_operands(z, labels),
        ctypes.c_float(scale),
        _pointer(lse),
        _pointer(bounds),
        len(bounds),
        _pointer(sums),
    )
    return sums


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """A thread a row."""
    id_lse, logits = id_lse.contiguous(), negative_logits.contiguous()
    shares = torch.empty(len(logits))
    _call("tanl_prefix_share", _pointer(id_lse), _pointer(logits), *logits.shape, step, _pointer(shares))
    return shares


def stable_topk(values: Tensor, k: int) -> Tensor:
    """A selection, then a sort of what was selected."""
    exact = values.double().contiguous()
    top = torch.empty(min(k, len(exact)), dtype=torch.int64)
    status = _loaded().tanl_stable_topk(_pointer(exact), _long(len(exact)), _long(len(top)), _pointer(top))
    _checked(status)
    return top


def _pass(z: Tensor, labels: Tensor, scale: float, values: Tensor | None) -> StoredExponentials:
    z, labels = z.contiguous(), labels.contiguous()
    padded, tiles = _padded(len(z)), _tiles(len(labels))
    maxima, lse = torch.empty(tiles, padded), torch.empty(padded)
    _call(
        "tanl_exp_store",
        *_operands(z, labels),
        ctypes.c_float(scale),
        None if values is None else _pointer(values),
        _pointer(maxima),
        _pointer(lse),
    )
    kept = torch.empty(0) if values is None else values
    return StoredExponentials("native", kept, maxima, lse[: len(z)], len(labels))


def _operands(z: Tensor, labels: Tensor) -> tuple[object, ...]:
    half = labels.dtype == torch.float16
    if not (half or labels.dtype == torch.float32) or z.dtype != torch.float32:
        raise TypeError(
            f"the native kernels take float32 rows and float32 or float16 labels, not {labels.dtype}"
        )
    return _pointer(z), len(z), _pointer(labels), ctypes.c_int(half), len(labels), z.shape[1]


def _call(name: str, *arguments: object) -> None:
    converted = [_long(a) if isinstance(a, int) else a for a in arguments]
    _checked(getattr(_loaded(), name)(_variant(), torch.get_num_threads(), *converted))


def _checked(status: int) -> None:
    if status != 0:
        raise MemoryError("the native kernels could not get the memory for their tiles")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


_long = ctypes.c_int64


@cache
def _variant() -> int:
    return VARIANTS.index(variants()[-1])


def _padded(rows: int) -> int:
    lanes = int(_loaded().tanl_lanes(_variant()))
    return -(-rows // lanes) * lanes


def _tiles(labels: int) -> int:
    return -(-labels // _tile())


@cache
def _tile() -> int:
    function = _loaded().tanl_tile
    function.restype = _long
    return int(function())


def _loaded() -> ctypes.CDLL:
    """The extension, for what runs only where `why_not` found it."""
    library = _library()
    assert library is not None
    return library


@cache
def _library() -> ctypes.CDLL | None:
    """The extension that setup.py compiled beside this file; None where there was no compiler."""
    if sys.byteorder != "little":
        return None
    for suffix in reversed(EXTENSION_SUFFIXES):  # the plain one is setup.py's
        path = Path(__file__).with_name(f"_fused{suffix}")
        if path.exists():
            library = ctypes.CDLL(str(path))
            library.tanl_use_pool(_torch_pool())
            return library
    return None


def _torch_pool() -> ctypes.c_void_p | None:
    """What runs work on the threads of torch's OpenMP; None where torch is built without (macOS, Windows)."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not path.exists():
        return None
    try:
        function = ctypes.CDLL(str(path)).GOMP_parallel  # of the runtime that it is linked with
    except (AttributeError, OSError):
        return None
    return ctypes.cast(function, ctypes.c_void_p)
