"""The operations that the time goes into, each in several backends behind one dispatch.

``TANL_KERNELS`` chooses the backend; it is read at every call:

- ``auto`` (the default): Triton for tensors on a GPU, native for tensors on the CPU, the reference where
  the better one is not there (no Triton installed, the extension not compiled).
- ``reference``: plain torch, on any device. It is what every other backend is tested against.
- ``native``: the compiled extension, CPU tensors only.
- ``triton``: Triton kernels, GPU tensors only (CPU tensors under ``TRITON_INTERPRET=1``).

A backend that is asked for by name and cannot do it raises; nothing falls back quietly.

Notation: ``z [n, D]`` float32 rows, ``labels [N, D]`` float32 or float16 rows, both of unit norm, contiguous and
on one device; ``scale`` the logit scale. Segments are ranges ``(first, last + 1)`` of rows of z; they may overlap.
"""

from __future__ import annotations

import os
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .reference import running_sum
from .stored import Segments, StoredExponentials

__all__ = [
    "BACKENDS",
    "Segments",
    "StoredExponentials",
    "available",
    "exp_store",
    "otsu_histogram",
    "prefix_share",
    "queued",
    "row_lse",
    "running_sum",
    "segment_colsum",
    "segment_colsum_stored",
    "stable_topk",
    "stored_rows",
    "why_not",
]

BACKENDS = ("reference", "native", "triton")
_BEST = {"cpu": "native", "cuda": "triton"}


def available(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The backends that can serve tensors on this device."""
    return tuple(name for name in BACKENDS if why_not(name, torch.device(device)) is None)


def queued(tensor: Tensor) -> bool:
    """Whether operations on this tensor are queued and done later, so that to read a value back is to wait for all."""
    return tensor.device.type != "cpu" or _backend(tensor).__name__.endswith(".triton")


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Log-sum-exp of ``scale * z @ labels.T`` along the labels, ``[n]`` float32.

    Results for parts of the labels merge with ``torch.logaddexp``.
    """
    result: Tensor = _backend(z).row_lse(z, labels, scale)
    return result


def stored_rows(z: Tensor, labels: Tensor) -> int:
    """How many rows' exponentials the backend would rather keep at once; 0: rather compute them twice."""
    result: int = _backend(z).stored_rows(z, labels)
    return result


def exp_store(
    z: Tensor, labels: Tensor, scale: float, out: StoredExponentials | None = None
) -> StoredExponentials:
    """``exp(scale * z @ labels.T)`` in block floating point, with its row log-sum-exps, in one pass.

    Args:
        z: ``[n, D]``.
        labels: ``[N, D]``.
        scale: the logit scale.
        out: an earlier result that is not needed any more; its memory is used again where it fits, and else given up.
    """
    result: StoredExponentials = _backend(z).exp_store(z, labels, scale, out)
    return result


def segment_colsum_stored(stored: StoredExponentials, segments: Segments) -> Tensor:
    """Sums of softmax rows over segments, from what `exp_store` kept, ``[G, N]`` float32.

    ``out[g, j] = sum over rows b of segment g of exp(scale * z_b . label_j - lse_b)``.
    """
    result: Tensor = _module(stored.backend).segment_colsum_stored(stored, segments)
    return result


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """The same sums with the product made anew and given log-sum-exps ``lse [n]``, ``[G, N]`` float32.

    The log-sum-exps may be those over more labels than are given here (a shard of them, say).
    """
    result: Tensor = _backend(z).segment_colsum(z, labels, scale, lse, segments)
    return result


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """Activation-aware share of the negatives, ``[B]`` in [0, 1] (TANL, arXiv 2603.25250).

    With ``W_m`` the summed ``exp(negative_logits - id_lse)`` of the first m columns, the mean of ``W_m / (1 + W_m)``
    over m in {step, 2 step, ..., K}, where the last m is always K; ``step=0`` means the single m = K.

    Args:
        id_lse: log-sum-exp of the ID logits, ``[B]`` float32.
        negative_logits: ``[B, K]`` float32, contiguous.
        step: distance between prefixes.
    """
    result: Tensor = _backend(id_lse).prefix_share(id_lse, negative_logits, step)
    return result


def otsu_histogram(scores: Tensor, grid: Tensor) -> Tensor:
    """Count, sum and sum of squares of the scores between grid values, ``[3, len(grid) + 1]`` float64.

    Bin k holds the scores with exactly k grid values ``<= score``.

    Args:
        scores: ``[n]`` float32.
        grid: ascending, float32, on the same device.
    """
    result: Tensor = _backend(scores).otsu_histogram(scores, grid)
    return result


def stable_topk(values: Tensor, k: int) -> Tensor:
    """Indices ``[min(k, M)]`` of the largest of values ``[M]``, largest first; equal ones keep their order.

    Raises:
        ValueError: there is none to choose; one is NaN, which Triton's does not wait to see: there it is the largest.
    """
    result: Tensor = _backend(values).stable_topk(values, k)
    return result


def _backend(tensor: Tensor) -> ModuleType:
    wanted = os.environ.get("TANL_KERNELS", "auto")
    if wanted == "auto":
        best = _BEST.get(tensor.device.type, "reference")
        return _module(best if why_not(best, tensor.device) is None else "reference")
    if wanted not in BACKENDS:
        raise ValueError(f"TANL_KERNELS={wanted!r}: there are auto, {', '.join(BACKENDS)}")
    reason = why_not(wanted, tensor.device)
    if reason is not None:
        raise RuntimeError(f"TANL_KERNELS={wanted}: {reason}")
    return _module(wanted)


def _module(name: str) -> ModuleType:
    if name == "native":
        from . import native

        return native
    if name == "triton":
        from . import triton

        return triton
    return reference


def why_not(name: str, device: torch.device) -> str | None:
    """Why a backend cannot serve a device; None if it can."""
    if name == "reference":
        return None
    reason: str | None = _module(name).why_not(device)
    return reason
