"""Curation: pictograms thinned to a long tail; the share of the rare classes' images that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tanl.beyond.curation import curate, farthest_points

from .images import Images

BUDGETS = (0.05, 0.1, 0.2, 0.4)
_FEWEST = 12


def measured(loaded: Mapping[str, Images], seeds: Sequence[int]) -> list[dict[str, Any]]:
    images = loaded["pictograms"]
    kept: dict[tuple[str, float], list[float]] = {}
    for seed in seeds:
        members, rare = _long_tail(images, seed)
        z = images.z[members]
        for budget in BUDGETS:
            count = round(budget * len(z))
            generator = torch.Generator().manual_seed(seed)
            chosen = {
                "curate": curate(z, budget, seed=seed).kept,
                "curate, nothing set aside": curate(z, budget, outliers=1.0, seed=seed).kept,
                "k-centre": farthest_points(z, torch.arange(len(z)), count),
                "random": torch.randperm(len(z), generator=generator)[:count],
            }
            for name, rows in chosen.items():
                kept.setdefault((name, budget), []).append(100 * float(torch.isin(rare, rows).float().mean()))
    return [
        {"method": name, "budget": f"{budget:.0%}", "rare kept %": fmean(values)}
        for (name, budget), values in kept.items()
    ]


def _long_tail(images: Images, seed: int) -> tuple[Tensor, Tensor]:
    """Images of the coarse classes with numbers that fall as 1 / rank; and which of them are of the rarest third."""
    generator = np.random.default_rng(seed)
    classes: dict[str, list[int]] = {}
    for index, row in enumerate(images.rows):
        if row.coarse and row.in_tracks:
            classes.setdefault(row.coarse, []).append(index)
    names = generator.permutation(
        [name for name, members in classes.items() if len(members) >= _FEWEST]
    ).tolist()
    names.sort(key=lambda name: -len(classes[name]))
    members: list[int] = []
    rare: list[int] = []
    for rank, name in enumerate(names, start=1):
        size = max(2, min(len(classes[name]), round(200 / rank)))
        if rank > 2 * len(names) // 3:
            size = max(2, size // 4)
            rare += range(len(members), len(members) + size)
        members += generator.permutation(classes[name])[:size].tolist()
    return torch.tensor(members), torch.tensor(rare)
