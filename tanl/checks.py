"""Checks of what users hand in: each error names the value and says what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Embeddings = Tensor | NDArray[np.floating[Any]]
"""Rows of embeddings ``[n, D]``, as whoever calls has them."""

# Rounding a unit vector to half precision moves its norm by up to about 5e-4 (fp16) and 4e-3 (bf16).
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NORMS_AT_ONCE = 1 << 16
_NORM_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2}
_LARGEST = 1e12  # times the largest logit, 1e6, and squared, it is still a float32


def as_tensor(z: Embeddings, what: str) -> Tensor:
    """Embeddings as a tensor, of any shape; an array's memory is shared where torch can do so.

    Args:
        z: a tensor, which comes back as it is, or a NumPy array.
        what: what to call them in an error.

    Raises:
        TypeError: neither, or not of a floating dtype.
    """
    if isinstance(z, np.ndarray):
        if isinstance(z, np.ma.MaskedArray):
            raise TypeError(f"{what} must not be a masked array; leave masked rows out and give z.data")
        if z.dtype.kind != "f" or z.itemsize > 8:
            raise TypeError(f"{what} must be of a floating dtype up to float64, not {z.dtype}")
        if not (z.flags.writeable and z.flags.aligned and z.dtype.isnative and _strides_fit(z)):
            z = np.array(z, dtype=z.dtype.newbyteorder("="), order="C", subok=False)
        return torch.from_numpy(z)
    if not isinstance(z, Tensor):
        raise TypeError(f"{what} must be a torch.Tensor or a NumPy array, not {type(z).__name__}")
    if not is_dense(z):
        raise TypeError(f"{what} must be a dense tensor, not a nested, sparse or quantized one")
    if z.dtype not in _DTYPES:
        raise TypeError(f"{what} must be of a floating dtype, not {z.dtype}")
    return z.as_subclass(Tensor).resolve_neg()


def is_dense(z: Tensor) -> bool:
    """Whether a tensor is of the usual kind: not nested, sparse or quantized."""
    return z.layout is torch.strided and not z.is_nested and not z.is_quantized


def _strides_fit(z: NDArray[Any]) -> bool:
    return all(stride >= 0 and stride % z.itemsize == 0 for stride in z.strides)


def norm_tolerance(dtype: torch.dtype) -> float:
    """How far from 1 the norm of a unit vector may lie when it is kept as ``dtype``."""
    return _NORM_TOLERANCE.get(dtype, 1e-3)


def off_norm(z: Tensor, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
    """The norms ``[n]`` of rows ``[n, D]``, and which are not 1; ``tolerance`` as in `unit_embeddings`."""
    wide = torch.promote_types(z.dtype, torch.float32)
    # In parts: half precision becomes float32 on the way, and the rows may be more than memory holds.
    parts = (z,) if len(z) <= _NORMS_AT_ONCE else torch.split(z, _NORMS_AT_ONCE)
    found = [torch.linalg.vector_norm(part, dim=1, dtype=wide) for part in parts]
    norms = found[0] if len(found) == 1 else torch.cat(found)
    off = (norms - 1).abs() > (norm_tolerance(z.dtype) if tolerance is None else tolerance)
    return norms, off | ~norms.isfinite()


def unit_embeddings(
    z: Embeddings,
    what: str,
    *,
    dim: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
) -> Tensor:
    """Check embeddings and give them as a contiguous tensor of float32 (or ``dtype``), detached from any graph.

    Args:
        z: ``[n, D]``, a tensor or a NumPy array, floating point, unit rows, n >= 1.
        what: what to call them in an error.
        dim: the D that is wanted.
        device: the device that is wanted.
        dtype: what to give them as.
        tolerance: how far from 1 norms may lie; None goes by the dtype that they come as.

    Raises:
        TypeError: neither a tensor nor an array, or not of a floating dtype.
        ValueError: wrong shape, no row, wrong device, a NaN or infinite value, a row that is not of unit norm.
    """
    is_array = isinstance(z, np.ndarray)
    z = as_tensor(z, what)
    if z.ndim != 2:
        hint = "; one embedding is z[None]" if z.ndim == 1 else ""
        raise ValueError(f"{what} must have shape [n, D], not {list(z.shape)}{hint}")
    if len(z) == 0:
        raise ValueError(f"{what} is empty (shape {list(z.shape)}); leave empty batches out")
    if dim is not None and z.shape[1] != dim:
        raise ValueError(
            f"{what} has D = {z.shape[1]}, but the label bank has D = {dim}; both must come from the same backbone"
        )
    if device is not None and z.device != device:
        raise ValueError(
            f"{what} is on {z.device}, but the label bank is on {device}; move one with .to(...)"
        )
    if z.is_meta:
        raise ValueError(f"{what} is on meta, which holds no values")
    norms, off = off_norm(z, tolerance)
    if bool(off.any()):
        row = int(off.nonzero()[0])
        if not bool(z[row].isfinite().all()):
            raise ValueError(f"{what}: row {row} has a NaN or infinite value; leave such rows out")
        how = "z / np.linalg.norm(z, axis=1, keepdims=True)"
        if not is_array:
            how = "torch.nn.functional.normalize(z, dim=1)"
        raise ValueError(f"{what}: row {row} has norm {float(norms[row]):.4g}, not 1; normalise with {how}")
    return z.detach().to(dtype).contiguous()


def kept_tensor(value: object, what: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of a saved state, checked.

    Args:
        value: what the state holds.
        what: what to call it in an error.
        shape: that it must have; None where any length will do.
        dtype: that it must have.

    Raises:
        ValueError: no dense tensor, another shape or dtype, on meta, or a NaN or infinite value.
    """
    if not isinstance(value, Tensor) or not is_dense(value) or value.is_meta:
        raise ValueError(f"{what} must be a dense tensor that holds values, not {_in_short(value)}")
    if value.ndim != len(shape) or not all(map(_fits, shape, value.shape)):
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise ValueError(f"{what} must be [{wanted}], not {list(value.shape)}")
    if value.dtype != dtype:
        raise ValueError(f"{what} must be of {dtype}, not {value.dtype}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{what} has a NaN or infinite value")
    return value.detach()


def _fits(wanted: int | None, length: int) -> bool:
    return wanted is None or wanted == length


def _in_short(value: object) -> str:
    return f"one of {value.layout}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def real(value: object, name: str) -> float:
    """The value as a float, be it infinite or NaN, or an error that names it: a number (not a bool)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {_shown(value)}{_item(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is too large: {_shown(value)}") from error


def finite(value: object, name: str) -> float:
    """The value as a float, or an error that names it: a finite number (not a bool)."""
    if not math.isfinite(found := real(value, name)):
        raise ValueError(f"{name} must be finite, not {found}")
    return found


def _item(value: object) -> str:
    """What to do with a number that is held by an array or tensor."""
    return "; give its .item()" if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"


def whole_number(value: int, name: str, *, at_least: int, at_most: int | None = None) -> int:
    """The value as an int, or an error that names it: a whole number in that range, NumPy's too, but no bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {_shown(value)}{_item(value)}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {value}")
    if at_most is not None and value > at_most:
        raise ValueError(f"{name} must be at most {at_most}, not {value}")
    return int(value)


def seed_number(value: int | None, name: str) -> int | None:
    """The seed of a random order, or an error that names it: None, or a whole number below 2^63."""
    return None if value is None else whole_number(value, name, at_least=0, at_most=(1 << 63) - 1)


def number(value: float, name: str) -> float:
    """The value, or an error that names it: a finite number, NumPy's too (it becomes a float), but no bool."""
    found = finite(value, name)
    return value if type(value) is int else found


def fraction(value: float, name: str) -> float:
    """The value, or an error that names it: a number in [0, 1]."""
    if not 0 <= real(value, name) <= 1:
        raise ValueError(f"{name} must lie in [0, 1], not {value}")
    return number(value, name)


def positive(value: float, name: str) -> float:
    """The value, or an error that names it: a number that float32 can multiply and divide by, above 0."""
    if not 0 < real(value, name) < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {value}")
    if not 1 / _LARGEST <= real(value, name) <= _LARGEST:
        raise ValueError(f"{name} must lie between {1 / _LARGEST:g} and {_LARGEST:g}, not {value:g}")
    return number(value, name)


def not_negative(value: float, name: str) -> float:
    """The value, or an error that names it: 0, or a number as `positive` takes it."""
    if real(value, name) == 0:
        return number(value, name)
    if not 0 < real(value, name) < math.inf:
        raise ValueError(f"{name} must be finite and not negative, not {value}")
    return positive(value, name)


def sources_of(source: str | Sequence[str | None] | None, count: int) -> tuple[str | None, ...] | None:
    """The source of each of ``count`` images; None where none is told.

    Raises:
        TypeError, ValueError: something that is no name, or another number of names than images.
    """
    if source is None:
        return None
    if not isinstance(source, str | Iterable) or isinstance(source, Tensor | np.ndarray):
        raise TypeError(f"source must be a name, or one for each image, not a {type(source).__name__}")
    names = (source,) * count if isinstance(source, str) else tuple(source)
    for name in names:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"a source must be a string or None, not {name!r}")
        if name == "":
            raise ValueError("a source must have a name; give None for an image without one")
    if len(names) != count:
        raise ValueError(f"{len(names)} sources for {count} images: give one for all, or one for each")
    return names
