"""Medians of what a device takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from .sizes import Sizes


def seconds_of(action: Callable[[], object], device: torch.device, sizes: Sizes) -> float:
    """The median time of an action, after two that are not timed; on a GPU between events on its stream.

    At least three are timed, and as many as there are rounds if the time allows.
    """
    for _ in range(2):
        action()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 3 or (len(taken) < sizes.rounds and time.perf_counter() - began < sizes.seconds):
        taken.append(_once(action, device))
    return median(taken)


def _once(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        start.record()
        action()
        stop.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(stop)) / 1e3
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
