"""Where a step's time goes: the operations of `tanl.kernels` and the products outside them, timed one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tanl import kernels

OPERATIONS = (
    "row_lse",
    "exp_store",
    "segment_colsum_stored",
    "segment_colsum",
    "prefix_share",
    "otsu_histogram",
    "stable_topk",
)
_READS_LABELS = ("row_lse", "exp_store", "segment_colsum")
# The logits of the selected labels, and the rows that they are made from.
_OUTSIDE = ("products", "gathers")
_FUNCTIONS: dict[Any, str] = {
    torch.mm: "products",
    torch.matmul: "products",
    Tensor.mm: "products",
    Tensor.matmul: "products",
    Tensor.__matmul__: "products",
    Tensor.__getitem__: "gathers",
}


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Operations:
    """What was seen of a step.

    Attributes:
        seconds: spent in each operation.
        moved_bytes: labels read, and exponentials written and read again.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*OPERATIONS, *_OUTSIDE), 0.0))
    moved_bytes: int = 0


@contextmanager
def watched_operations(device: torch.device) -> Iterator[Operations]:
    """Within the block, what the operations cost adds up in the record that it gives."""
    seen = Operations()
    clock = _Clock(device, seen.seconds)
    originals: dict[str, Any] = {name: getattr(kernels, name) for name in OPERATIONS}

    def watched(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = clock.timed(name, originals[name], args, kwargs)
            if name in _READS_LABELS:
                labels = args[1] if len(args) > 1 else kwargs["labels"]
                seen.moved_bytes += labels.nbytes
            if isinstance(result, kernels.StoredExponentials):
                seen.moved_bytes += 2 * result.values.nbytes
            return result

        return call

    try:
        for name in OPERATIONS:
            setattr(kernels, name, watched(name))
        with _Outside(clock):
            yield seen
    finally:
        for name, original in originals.items():
            setattr(kernels, name, original)


class _Clock:
    """Adds up seconds by name; what runs inside a timed call counts as that call's."""

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        self._device, self._seconds, self._inside = device, seconds, False

    def timed(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._inside:
            return function(*args, **kwargs)
        self._inside = True
        synchronise(self._device)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            synchronise(self._device)
            self._seconds[name] += time.perf_counter() - start
            self._inside = False


class _Outside(TorchFunctionMode):
    """Times torch's products and the gathering of rows, where no kernel operation is at work."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = _FUNCTIONS.get(func)
        if name is None:
            return func(*args, **(kwargs or {}))
        return self._clock.timed(name, func, args, kwargs or {})
