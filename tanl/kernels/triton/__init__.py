"""The operations as Triton kernels, for tensors on a GPU (or on the CPU in Triton's interpreter).

See `tanl.kernels` for their arguments. This module works without Triton; its kernels are imported, and with them
Triton, when the first of them is called.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys

import torch
from torch import Tensor

from ..stored import Segments, StoredExponentials

STORED_BYTES = 1 << 30


def why_not(device: torch.device) -> str | None:
    """Why this backend cannot serve a device; None if it can."""
    interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return (
            f"Triton kernels need a GPU tensor (this one is on {device}); "
            "TRITON_INTERPRET=1 runs them on the CPU in Triton's interpreter"
        )
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if interpreted and not _imported_for_interpreter():
        return "TRITON_INTERPRET=1 came too late: set it before Triton is imported (torch may import it)"
    return _not_served(device)


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Labels are split among programs, and the splits' maxima and sums joined."""
    from .ops.row_lse import row_lse as op

    with _device_of(z):
        return op(z, labels, scale)


def stored_rows(z: Tensor, labels: Tensor) -> int:
    """All of them where there are few, and they fit into 1 GiB; else none.

    Storing costs 8 bytes a row and label, to write and to read; the product anew costs the labels read again, 2 D or
    4 D bytes a label, as long as memory is what it waits for. So up to D / 4 rows are for storing beside float16
    labels, and D / 2 beside float32. That is an estimate: ``TANL_TRITON_STORED`` sets the number of rows that
    `python -m tools gpu-first` found for a device.
    """
    told = os.environ.get("TANL_TRITON_STORED", "")
    if told and not told.isdecimal():
        raise ValueError(f"TANL_TRITON_STORED={told!r}: give a number of rows, 0 to store none")
    most = int(told) if told else labels.shape[1] * labels.element_size() // 8
    return len(z) if len(z) <= most and 4 * len(z) * len(labels) <= STORED_BYTES else 0


def exp_store(
    z: Tensor, labels: Tensor, scale: float, out: StoredExponentials | None = None
) -> StoredExponentials:
    """The values are ``[tiles, n, labels to a tile]``: ``exp(logit - the tile's maximum)``."""
    from .ops.exp_store import exp_store as op

    with _device_of(z):
        return op(z, labels, scale, out)


def segment_colsum_stored(stored: StoredExponentials, segments: Segments) -> Tensor:
    """Each program adds up one segment's rows of one tile."""
    from .ops.segment_colsum_stored import segment_colsum_stored as op

    with _device_of(stored.values):
        return op(stored, segments)


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """One product for all segments: rows are summed over the pieces that the segments' bounds cut them into."""
    from .ops.segment_colsum import segment_colsum as op

    with _device_of(z):
        return op(z, labels, scale, lse, segments)


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """A running sum along each row."""
    from .ops.prefix_share import prefix_share as op

    with _device_of(id_lse):
        return op(id_lse, negative_logits, step)


def otsu_histogram(scores: Tensor, grid: Tensor) -> Tensor:
    """Each program reads all scores and adds up those of its bin."""
    from .ops.otsu_histogram import otsu_histogram as op

    with _device_of(scores):
        return op(scores, grid)


def stable_topk(values: Tensor, k: int) -> Tensor:
    """A sort of all: a selection would have to be waited for, to know how many are equal to the last."""
    k = min(k, len(values))
    if k < 1:
        raise ValueError(f"there must be at least one value to choose, not {k} of {len(values)}")
    order: Tensor = values.sort(descending=True, stable=True).indices
    return order[:k]


def _device_of(tensor: Tensor) -> torch.cuda.device:
    """Makes a tensor's GPU the current one, which Triton launches on; nothing on the CPU."""
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]


@functools.cache
def _not_served(device: torch.device) -> str | None:
    import triton

    if int(triton.__version__.split(".")[0]) < 3:
        return f"Triton 3 or newer is needed, this is {triton.__version__}: pip install -U triton"
    if device.type == "cuda" and torch.cuda.is_available() and torch.version.hip is not None:
        architecture = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        if architecture != "gfx942":
            return (
                f"of AMD's GPUs these kernels are compiled for gfx942 (MI300) alone, this one is {architecture}; "
                "TANL_KERNELS=reference runs on it"
            )
    elif device.type == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            return (
                f"Triton needs compute capability 8.0 or more, this GPU has {capability[0]}.{capability[1]}"
            )
    return None


def _imported_for_interpreter() -> bool:
    """Whether Triton's own functions, which are settled when it is imported, are for its interpreter."""
    if "triton" not in sys.modules:
        return True  # it will be imported with the environment as it is now
    import triton

    return not isinstance(triton.language.sum, triton.JITFunction)
