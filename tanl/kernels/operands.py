"""What compiled code is handed: a tensor's memory, checked to be what it will be taken for."""

from __future__ import annotations

import torch
from torch import Tensor

from .stored import Segments


def operand(
    tensor: Tensor, what: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The tensor, if a kernel can read or write ``shape`` values of ``dtype`` at its address.

    Every pointer that C++ or Triton is given comes through here.

    Raises:
        TypeError: another dtype, or a tensor that is not laid out in strides.
        ValueError: another shape or device, or memory that is not contiguous.
    """
    if (
        tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.layout is torch.strided
        and tensor.device == device
        and tensor.is_contiguous()
        and not tensor.is_neg()
    ):
        return tensor
    if tensor.dtype is not dtype or tensor.layout is not torch.strided:
        raise TypeError(f"{what} must be a plain tensor of {dtype}, not {tensor.dtype} ({tensor.layout})")
    if tensor.device != device:
        raise ValueError(f"{what} must be on {device}, not on {tensor.device}")
    if tensor.shape != shape:
        raise ValueError(f"{what} must have shape {list(shape)}, not {list(tensor.shape)}")
    raise ValueError(f"{what} must be contiguous: give {what}.contiguous()")


def plain(tensor: Tensor) -> Tensor:
    """The same values in memory of their own where they are not as `operand` wants them."""
    return tensor.resolve_neg().contiguous() if tensor.layout is torch.strided else tensor


def label_dtype(labels: Tensor) -> torch.dtype:
    """The dtype of labels, float16 or float32.

    Raises:
        TypeError: it is another one.
        ValueError: there are no labels, over which nothing can be summed.
    """
    if len(labels) == 0:
        raise ValueError("there are no labels; give at least one")
    if labels.dtype not in (torch.float16, torch.float32):
        raise TypeError(f"labels must be float16 or float32, not {labels.dtype}")
    return labels.dtype


def check_segments(segments: Segments, rows: int) -> None:
    """Refuse a segment that is no range of that many rows. A tensor of a GPU is not waited for, and not checked.

    Raises:
        ValueError: it is not.
    """
    if isinstance(segments, Tensor) and segments.device.type != "cpu":
        return
    for first, stop in segments.tolist() if isinstance(segments, Tensor) else segments:
        if not 0 <= first <= stop <= rows:
            raise ValueError(f"the segment ({first}, {stop}) is no range of {rows} rows")
