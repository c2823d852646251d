"""What a GPU could do at best, and how near a step comes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tanl.detectors.state import BLOCK

from .config import Case
from .contenders import STEP
from .measure import Measured, spread

# Half-precision tensor cores without sparsity, and memory, as the maker's data sheet gives them.
KNOWN = {"NVIDIA H100 80GB HBM3": (989e12, 3.35e12)}
_COPIED_BYTES = 1 << 30
_PRODUCT = 8192
_ROUNDS = 10


@dataclass(frozen=True)
class Roofline:
    """A device's limits.

    Attributes:
        name: the device's.
        flop_per_second: of half-precision products.
        bytes_per_second: of its memory.
        source: where the limits are from.
    """

    name: str
    flop_per_second: float
    bytes_per_second: float
    source: str

    def least_seconds(self, case: Case, label_bytes: int) -> float:
        """The least time of a step: one product of the batch with all labels, or one stream of the labels."""
        return self.floors(case.labels, case.num_id, case.batch, case.dim, label_bytes)[0]

    def floors(
        self, labels: int, num_id: int, batch: int, dim: int, label_bytes: int
    ) -> tuple[float, float, float]:
        """Seconds that a step takes at least, by three ways.

        Sums of activations need every row's log-sum-exp first. So the exact step cannot reach the first figure: it
        makes two products, or writes the exponentials and reads them.

        Returns:
            One product of the batch with all labels, or one stream of the labels, whichever takes longer; two of them,
            and the writing of a sum for every 20 rows; one of them, where a write of the exponentials goes along, then
            a read of them, and the sums.
        """
        count = labels + num_id
        product = 2 * batch * count * dim / self.flop_per_second
        stream = count * dim * label_bytes / self.bytes_per_second
        exponentials = 4 * batch * count / self.bytes_per_second
        sums = 4 * -(-batch // BLOCK) * count / self.bytes_per_second
        one = max(product, stream)
        return one, 2 * one + sums, max(product, stream + exponentials) + exponentials + sums


class GpuRow(NamedTuple):
    """A contender's row: seconds of a step, bytes a second that its operations moved, share of the roofline."""

    seconds: float
    bytes_per_second: float | None
    share: float


def roofline_of(device: torch.device) -> Roofline:
    """From the data sheet where the device is known, else by a copy and a product on it."""
    name = torch.cuda.get_device_name(device)
    if name in KNOWN:
        return Roofline(name, *KNOWN[name], source="data sheet")
    # Random: ones toggle fewer wires, and are copied and multiplied faster than labels.
    data = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device).random_(0, 256)
    target = torch.empty_like(data)
    copied = 2 * _COPIED_BYTES / _seconds(lambda: target.copy_(data))
    square = torch.randn(_PRODUCT, _PRODUCT, dtype=torch.float16, device=device)
    out = torch.empty_like(square)
    product = 2 * _PRODUCT**3 / _seconds(lambda: torch.mm(square, square, out=out))
    return Roofline(name, product, copied, source="measured by a copy and a half-precision product")


def gpu_row(case: Case, measured: Measured, roofline: Roofline) -> GpuRow:
    """What to show of tanl's or the naive step on a GPU."""
    seconds = spread(measured.seconds[STEP]).median
    moved = measured.moved_bytes
    label_bytes = 2 if measured.spec.dtype == "float16" else 4
    share = roofline.least_seconds(case, label_bytes) / seconds
    return GpuRow(seconds, None if moved is None else moved / seconds, share)


def _seconds(action: Callable[[], object]) -> float:
    taken: list[float] = []
    for _ in range(_ROUNDS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        action()
        stop.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(taken)
