"""Each operation of `tanl.kernels` by itself: its time, and with it bytes and operations a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tanl import kernels
from tanl.detectors.saved import HISTORY
from tanl.detectors.state import BLOCK

from .clock import seconds_of
from .sizes import Sizes

SCALE = 100.0


def unit(count: int, dim: int, seed: int, device: torch.device) -> Tensor:
    """Random unit rows, made on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return normalize(torch.randn(count, dim, device=device, generator=generator), dim=1)


def segments(count: int) -> Tensor:
    """Blocks of rows as a ring has them, ``[G, 2]`` int32 on the CPU."""
    starts = torch.arange(0, count, BLOCK, dtype=torch.int32)
    return torch.stack([starts, (starts + BLOCK).clamp(max=count)], dim=1)


def operations(device: torch.device, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A record for each operation in each shape and dtype."""
    for count in sizes.labels:
        whole = unit(count + sizes.num_id, sizes.dim, 1, device)
        for dtype in (torch.float16, torch.float32):
            labels = whole.to(dtype)
            for rows in sizes.rows:
                yield from _products(unit(rows, sizes.dim, 2, device), labels, sizes)
            del labels
        values = whole[:, 0].double()
        ranking = partial(kernels.stable_topk, values, sizes.selected)
        yield _record("stable_topk", ranking, device, sizes, M=count)
    logits = 5 * unit(sizes.batch, sizes.selected, 3, device)
    id_lse = logits.logsumexp(dim=1)
    share = "prefix_share"
    yield _record(
        share, lambda: kernels.prefix_share(id_lse, logits, 1), device, sizes, n=sizes.batch, K=sizes.selected
    )
    history = torch.rand(HISTORY, device=device)
    grid = torch.arange(0, 1, 0.01).to(device)
    yield _record("otsu_histogram", lambda: kernels.otsu_histogram(history, grid), device, sizes, n=HISTORY)


def _products(z: Tensor, labels: Tensor, sizes: Sizes) -> Iterator[dict[str, Any]]:
    device, (n, dim), count = z.device, z.shape, len(labels)
    bounds = segments(n).to(device)
    lse = kernels.row_lse(z, labels, SCALE)
    stored = kernels.exp_store(z, labels, SCALE)
    flop, read, sums = 2 * n * count * dim, labels.nbytes, 4 * len(bounds) * count
    kept = stored.values.nbytes
    actions: dict[str, tuple[Callable[[], object], float, float]] = {
        "bare product": (
            lambda: labels @ z.to(labels.dtype).T,
            flop,
            read + labels.element_size() * n * count,
        ),
        "row_lse": (lambda: kernels.row_lse(z, labels, SCALE), flop, read),
        "exp_store": (lambda: kernels.exp_store(z, labels, SCALE, stored), flop, read + kept),
        "segment_colsum_stored": (
            lambda: kernels.segment_colsum_stored(stored, bounds),
            n * count,
            kept + sums,
        ),
        "segment_colsum": (lambda: kernels.segment_colsum(z, labels, SCALE, lse, bounds), flop, read + sums),
    }
    for name, (action, operations, moved) in actions.items():
        record = _record(
            name,
            action,
            device,
            sizes,
            M=count - sizes.num_id,
            n=n,
            dtype=str(labels.dtype).removeprefix("torch."),
        )
        record["gb_s"] = moved / record["seconds"] / 1e9
        record["tflop_s"] = operations / record["seconds"] / 1e12
        yield record


def _record(
    name: str, action: Callable[[], object], device: torch.device, sizes: Sizes, **shape: Any
) -> dict[str, Any]:
    return {"operation": name, **shape, "seconds": seconds_of(action, device, sizes)}
