"""The sizes that the kernels are shipped with, chosen so that no target spills a register.

`python -m tools.triton_resources` compiles all of them and tells what they take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProductShape:
    """The tile of a kernel that begins with the product, and how the product of float32 operands is made.

    Attributes:
        rows: rows of z to a tile.
        columns: labels to a tile.
        depth: components of D to a step of the product.
        warps: warps to a program.
        stages: steps that are in flight at once.
        precision: of a product of float32 operands. "tf32x3" splits each operand into two TF32 numbers and makes three
            products on the tensor cores; the compiler adds each step of ``depth`` components to the total outside
            of them, in float32 rounded to nearest, so the tensor cores' own rounding towards zero never adds
            up along D. "ieee" multiplies as float32: where there is no TF32 or no need of it.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    precision: str = "ieee"

    def constants(self, dim: int) -> dict[str, int | str]:
        """The compile-time arguments of a kernel that begins with the product, for labels ``dim`` wide."""
        return {
            "D": dim,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "DEPTH": self.depth,
            "PRECISION": self.precision,
        }


# sm_80 serves every other NVIDIA GPU of compute capability 8.0 and more: its shapes fit into 99 KB of shared memory.
PRODUCT: dict[str, dict[torch.dtype, ProductShape]] = {
    "sm_80": {
        torch.float16: ProductShape(128, 128, 64, warps=8, stages=3),
        torch.float32: ProductShape(128, 64, 32, warps=8, stages=3, precision="tf32x3"),
    },
    "sm_90": {
        torch.float16: ProductShape(128, 128, 64, warps=8, stages=3),
        torch.float32: ProductShape(128, 64, 32, warps=8, stages=3, precision="tf32x3"),
    },
    "sm_100": {
        torch.float16: ProductShape(128, 128, 64, warps=8, stages=3),
        torch.float32: ProductShape(128, 64, 32, warps=8, stages=3, precision="tf32x3"),
    },
    "gfx942": {
        torch.float16: ProductShape(64, 128, 64, warps=8, stages=2),
        torch.float32: ProductShape(64, 64, 32, warps=4, stages=2),
    },
    "interpreter": {
        torch.float16: ProductShape(32, 64, 64, warps=1, stages=1),
        torch.float32: ProductShape(32, 64, 64, warps=1, stages=1),
    },
}

# The same for every target.
SEGMENTS = 32  # that segment_colsum sums at once; a step of 256 images has so many at most
STORED_ROWS = 16  # rows of a segment that segment_colsum_stored reads at once
PREFIX_COLUMNS = 1024
OTSU_SCORES = 1024
WARPS = 4
STAGES = 2


def target(device: torch.device) -> str:
    """Whose shapes a device takes."""
    if device.type == "cpu":
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def product_shape(labels: Tensor) -> ProductShape:
    """The shape for these labels.

    Raises:
        TypeError: the labels are neither float16 nor float32.
    """
    if labels.dtype not in (torch.float16, torch.float32):
        raise TypeError(f"labels must be float16 or float32, not {labels.dtype}")
    return shape_on(target(labels.device), labels.dtype, labels.shape[1])


def shape_on(target: str, dtype: torch.dtype, dim: int) -> ProductShape:
    """The shape on a target, for labels of a dtype and width.

    Rows that do not begin on 16 bytes are loaded component by component, which takes registers from the tile.
    """
    shape = PRODUCT[target][dtype]
    if dim * dtype.itemsize % 16 and target != "interpreter":
        return replace(shape, rows=64, columns=64, depth=64 // dtype.itemsize, warps=8, stages=1)
    return shape
