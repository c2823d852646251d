"""Segments as the kernels take them: bounds in the memory of the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...operands import check_segments
from ...stored import Segments
from ...surroundings import upload


def bounds_of(segments: Segments, rows: int, device: torch.device) -> Tensor:
    """First and last + 1 row of each segment, ``[G, 2]`` int32, checked to be ranges of that many rows.

    A tensor is not checked, which would be to wait for it: kernels take no row that is not there.
    """
    if isinstance(segments, Tensor):
        return segments.to(device, torch.int32).contiguous().view(-1, 2)
    check_segments(segments, rows)
    return upload(segments, np.int32, device).view(-1, 2)
