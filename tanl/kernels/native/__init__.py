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
from ..operands import check_segments, label_dtype, operand, plain
from ..stored import Segments, StoredExponentials, memory_for

VARIANTS = ("portable", "avx2", "avx512")
STORED_BYTES = 1 << 30
LEAST_ROWS = 64
_CPU = torch.device("cpu")

otsu_histogram = reference.otsu_histogram  # 20 000 scores: torch's own sum is at once done


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
    n, count = len(stored.lse), stored.num_labels
    padded, tiles = _padded(n), _tiles(count)
    bounds = _bounds(segments, n)
    lse = torch.nn.functional.pad(stored.lse, (0, padded - n))
    sums = _new(len(bounds), count)
    _call(
        "tanl_segment_colsum_stored",
        _pointer(stored.values, "values", tiles * _tile() * padded),
        _pointer(stored.maxima, "maxima", tiles, padded),
        _pointer(lse, "lse", padded),
        n,
        count,
        _pointer(bounds, "segments", len(bounds), 2, dtype=torch.int64),
        len(bounds),
        _pointer(sums, "sums", len(bounds), count),
    )
    return sums


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """A tile's exponentials are summed while they are in the cache."""
    z, labels, lse = plain(z), plain(labels), plain(lse)
    bounds = _bounds(segments, len(z))
    sums = _new(len(bounds), len(labels))
    _call(
        "tanl_segment_colsum",
        *_operands(z, labels),
        ctypes.c_float(scale),
        _pointer(lse, "lse", len(z)),
        _pointer(bounds, "segments", len(bounds), 2, dtype=torch.int64),
        len(bounds),
        _pointer(sums, "sums", len(bounds), len(labels)),
    )
    return sums


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """A thread a row."""
    id_lse, logits = plain(id_lse), plain(negative_logits)
    rows, columns = logits.shape
    if columns == 0 or step < 0:
        raise ValueError(f"there must be a negative and no step below 0, not {columns} and {step}")
    shares = _new(rows)
    _call(
        "tanl_prefix_share",
        _pointer(id_lse, "id_lse", rows),
        _pointer(logits, "negative_logits", rows, columns),
        rows,
        columns,
        step,
        _pointer(shares, "shares", rows),
    )
    return shares


def stable_topk(values: Tensor, k: int) -> Tensor:
    """A selection, then a sort of what was selected."""
    exact = plain(values.double())
    count = len(exact)
    k = min(k, count)
    if k < 1:
        raise ValueError(f"there must be at least one value to choose, not {k} of {count}")
    top = torch.empty(k, dtype=torch.int64, device=_CPU)
    status = _loaded().tanl_stable_topk(
        _pointer(exact, "values", count, dtype=torch.float64),
        _long(count),
        _long(k),
        _pointer(top, "indices", k, dtype=torch.int64),
    )
    if status == 3:
        raise ValueError("values to choose from must not be NaN")
    _checked(status)
    return top


def _pass(z: Tensor, labels: Tensor, scale: float, values: Tensor | None) -> StoredExponentials:
    z, labels = plain(z), plain(labels)
    padded, tiles = _padded(len(z)), _tiles(len(labels))
    maxima, lse = _new(tiles, padded), _new(padded)
    kept = _new(0) if values is None else values[: tiles * _tile() * padded]
    _call(
        "tanl_exp_store",
        *_operands(z, labels),
        ctypes.c_float(scale),
        None if values is None else _pointer(kept, "values", tiles * _tile() * padded),
        _pointer(maxima, "maxima", tiles, padded),
        _pointer(lse, "lse", padded),
    )
    return StoredExponentials("native", kept, maxima, lse[: len(z)], len(labels))


def _operands(z: Tensor, labels: Tensor) -> tuple[object, ...]:
    dtype = label_dtype(labels)
    n, count, dim = len(z), len(labels), labels.shape[1]
    half = ctypes.c_int(dtype == torch.float16)
    return _pointer(z, "z", n, dim), n, _pointer(labels, "labels", count, dim, dtype=dtype), half, count, dim


def _bounds(segments: Segments, rows: int) -> Tensor:
    check_segments(segments, rows)
    return torch.as_tensor(segments, dtype=torch.int64, device=_CPU).reshape(-1, 2).contiguous()


def _new(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=_CPU)


def _call(name: str, *arguments: object) -> None:
    converted = [_long(a) if isinstance(a, int) else a for a in arguments]
    _checked(getattr(_loaded(), name)(_variant(), torch.get_num_threads(), *converted))


def _checked(status: int) -> None:
    if status != 0:
        raise MemoryError("the native kernels could not get the memory for their tiles")


def _pointer(tensor: Tensor, what: str, *shape: int, dtype: torch.dtype = torch.float32) -> ctypes.c_void_p:
    return ctypes.c_void_p(operand(tensor, what, shape, dtype, _CPU).data_ptr())


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
