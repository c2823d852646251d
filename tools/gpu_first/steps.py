"""Whole steps: eager and captured, what they ask of the device, where they wait for it, and their profile."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tanl.detectors import TANL
from tanl.detectors.captured import CapturedTANL
from tanl.labels.bank import LabelBank
from tools.speed.data import Features

from .clock import seconds_of
from .counts import counted
from .sizes import Sizes

_WARM_UP = 6
_PROFILED = 3
_SHOWN = 25
DTYPES = (torch.float16, torch.float32)


def detector_and_batches(
    device: torch.device, sizes: Sizes, dtype: torch.dtype, labels: int | None = None
) -> tuple[TANL, list[Tensor]]:
    """TANL with the paper's settings on structured features, its rings filled, and further batches."""
    count = sizes.main_labels if labels is None else labels
    features, embeddings = _features(sizes.num_id, count, sizes.dim, sizes.batch)
    names = [f"label {i}" for i in range(sizes.num_id + count)]
    bank = LabelBank(names, embeddings.to(device), num_id=sizes.num_id, logit_scale=100.0).to(dtype=dtype)
    detector = TANL(
        bank,
        num_selected=sizes.selected,
        capacity=sizes.capacity,
        initial_ood=features.known_ood.to(device),
    )
    for i in range(_WARM_UP):
        detector(features.batch(i).to(device))
    return detector, [features.batch(_WARM_UP + i).to(device) for i in range(4)]


@lru_cache(maxsize=1)
def _features(num_id: int, labels: int, dim: int, batch: int) -> tuple[Features, Tensor]:
    """Features and their labels, kept for the next dtype: a million of them take a while."""
    features = Features(num_id, labels, dim, batch, 0)
    return features, features.labels()


def steps(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """For every M and dtype the median of a step of the detector and of a captured one, and how far they are apart."""
    found = []
    for count in sizes.labels:
        for dtype in DTYPES:
            detector, batches = detector_and_batches(device, sizes, dtype, count)
            fixed = CapturedTANL(detector, sizes.batch)
            apart = max(float((fixed(z) - detector(z)).abs().max()) for z in batches)
            found.append(
                {
                    "M": count,
                    "dtype": str(dtype).removeprefix("torch."),
                    "eager_seconds": seconds_of(lambda d=detector, z=batches[0]: d(z), device, sizes),  # type: ignore[misc]
                    "captured_seconds": seconds_of(lambda f=fixed, z=batches[0]: f(z), device, sizes),  # type: ignore[misc]
                    "largest_difference": apart,
                }
            )
    return found


def asked(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """What a step asks of the device: operations, launches, waits; on a GPU the places where torch says it waits."""
    detector, batches = detector_and_batches(device, sizes, torch.float16)
    fixed = CapturedTANL(detector, sizes.batch)
    found: dict[str, Any] = {}
    for name, step in (("eager", detector), ("captured", fixed)):
        with counted() as counts:
            step(batches[0])
        found[name] = counts.as_json()
        found[name]["sites"] = _sites(step, batches[1]) if device.type == "cuda" else "not measured"
    return found


def _sites(step: Any, z: Tensor) -> list[str]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(z)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{each.filename}:{each.lineno}: {each.message}" for each in caught]


def profile(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """The operations that three steps spend their time in, the longest first."""
    detector, batches = detector_and_batches(device, sizes, torch.float16)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for z in batches[:_PROFILED]:
            detector(z)
    on_device = device.type == "cuda"
    rows = [
        {
            "name": event.key,
            "calls": event.count,
            "microseconds": event.self_device_time_total if on_device else event.self_cpu_time_total,
        }
        for event in profiler.key_averages()
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])[:_SHOWN]
