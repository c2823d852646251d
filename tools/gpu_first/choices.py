"""What only a device can choose: the form of the kernels, and up to how many rows exponentials are stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tanl import kernels
from tanl.kernels.triton.shapes import PLAIN, forms_on, target

from .clock import seconds_of
from .operations import SCALE, segments, unit
from .sizes import Sizes


def choices(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """For every form and number of rows the time of the sums by either way, beside float16 labels; in the last row what
    to set: the form that takes the least time over all, and the most rows for which storing took no more."""
    labels = unit(sizes.main_labels + sizes.num_id, sizes.dim, 1, device).half()
    forms = forms_on(target(device)) if "triton" in kernels.available(device) else [PLAIN]
    timed: list[tuple[str, int, float, float]] = []
    for form in forms:
        with _environment("TANL_TRITON_FORM", form):
            for rows in sizes.rows:
                timed.append((form, rows, *_ways(unit(rows, sizes.dim, 2, device), labels, sizes)))
    spent = {form: sum(min(ways) for of, _, *ways in timed if of == form) for form in forms}
    best = min(forms, key=lambda form: spent[form])
    stored = [rows for form, rows, kept, twice in timed if form == best and kept <= twice]
    found: list[dict[str, Any]] = [
        {"form": form, "n": rows, "stored_us": kept, "twice_us": twice} for form, rows, kept, twice in timed
    ]
    return [*found, {"set": f"TANL_TRITON_FORM={best} TANL_TRITON_STORED={max(stored, default=0)}"}]


def _ways(z: torch.Tensor, labels: torch.Tensor, sizes: Sizes) -> tuple[float, float]:
    """Microseconds of a pass that stores exponentials, and of one that makes the product twice."""
    bounds = segments(len(z)).to(z.device)
    memory = kernels.exp_store(z, labels, SCALE)

    def stored() -> None:
        kernels.segment_colsum_stored(kernels.exp_store(z, labels, SCALE, memory), bounds)

    def twice() -> None:
        kernels.segment_colsum(z, labels, SCALE, kernels.row_lse(z, labels, SCALE), bounds)

    return 1e6 * seconds_of(stored, z.device, sizes), 1e6 * seconds_of(twice, z.device, sizes)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
