"""The sizes that the kernels are shipped with, chosen so that no target spills a register.

`python -m tools.triton_resources` compiles all of them and tells what they take.
"""

from __future__ import annotations

import os
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
        max_registers: a thread may take, so that more programs fit beside each other; None leaves it to the compiler.
        descriptors: whether rows and labels are fetched by tensor descriptors (TMA), not by addresses.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    precision: str = "ieee"
    max_registers: int | None = None
    descriptors: bool = False

    def constants(self, labels: Tensor) -> dict[str, int | str | bool]:
        """The compile-time arguments of a kernel that begins with the product, for these labels."""
        return self.constants_for(labels.dtype, labels.shape[1])

    def constants_for(self, dtype: torch.dtype, dim: int) -> dict[str, int | str | bool]:
        """The same for labels of a dtype, ``dim`` wide."""
        return {
            "D": dim,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "DEPTH": self.depth,
            "PRECISION": self.precision,
            "PARTS": 2 if dtype is torch.float16 else 1,
            "DESCRIPTORS": self.descriptors,
        }

    @property
    def options(self) -> dict[str, int]:
        """How it is compiled."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options if self.max_registers is None else options | {"maxnreg": self.max_registers}


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

# Other forms of the same kernels, where a target has them, for float16 labels whose rows begin on 16 bytes. Nobody has
# measured which is the fastest on a device: `python -m tools gpu-first` does, and TANL_TRITON_FORM chooses.
FORMS: dict[str, dict[str, ProductShape]] = {
    # Rows and labels by tensor descriptors (TMA), which leaves registers for two programs on a multiprocessor where a
    # kernel only begins with the product.
    "descriptors": {
        "sm_90": ProductShape(128, 128, 64, warps=8, stages=3, descriptors=True),
        "interpreter": ProductShape(32, 64, 64, warps=1, stages=1, descriptors=True),
    },
    # Narrower tiles and no more than 128 registers: two programs at least on a multiprocessor for all of them.
    "two-programs": {
        "sm_90": ProductShape(128, 64, 64, warps=8, stages=3, descriptors=True, max_registers=128),
        "interpreter": ProductShape(32, 32, 64, warps=1, stages=1, descriptors=True),
    },
}
PLAIN = "addresses"

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
        ValueError: ``TANL_TRITON_FORM`` names no form, or one that this device has not.
    """
    if labels.dtype not in (torch.float16, torch.float32):
        raise TypeError(f"labels must be float16 or float32, not {labels.dtype}")
    form = os.environ.get("TANL_TRITON_FORM", PLAIN)
    there = forms_on(target(labels.device))
    if form not in there:
        raise ValueError(f"TANL_TRITON_FORM={form!r}: for {labels.device} there are {', '.join(there)}")
    return shape_on(target(labels.device), labels.dtype, labels.shape[1], form)


def forms_on(target: str) -> list[str]:
    """The forms that kernels have on a target, the default first."""
    return [PLAIN, *(name for name, targets in FORMS.items() if target in targets)]


def shape_on(target: str, dtype: torch.dtype, dim: int, form: str = PLAIN) -> ProductShape:
    """The shape on a target, for labels of a dtype and width, in a form that the target has.

    Other forms than the default are for float16 labels whose rows begin on 16 bytes; other labels keep theirs. Rows
    that do not begin on 16 bytes are loaded component by component, which takes registers from the tile.
    """
    shape = PRODUCT[target][dtype]
    if form != PLAIN and dtype is torch.float16 and dim % 8 == 0:
        return FORMS[form][target]
    if dim * dtype.itemsize % 16 and target != "interpreter":
        return replace(shape, rows=64, columns=64, depth=64 // dtype.itemsize, warps=8, stages=1)
    return shape
