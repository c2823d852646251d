"""Volumes: the slices of a scan judged as one batch, and what they say of the whole.

MASS (Gao et al. 2026, arXiv 2603.13660) learns from volumes and masks to segment what an example shows. Here volumes
and masks become questions to a guard (`Guard.score_volume`); in-context segmentation itself is out of scope, and masks
come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ..checks import whole_number
from ..detectors.verdict import Detection

Aggregate = Literal["top", "max", "mean"]


@dataclass(frozen=True)
class VolumeVerdict:
    """What was said of a volume.

    Attributes:
        ood_score: of the whole, as its slices' were put together.
        slices: verdict, best label and evidence of each slice, in order.
        regions: for each of the caller's masks the score of what lies inside, put together in the same way; NaN where
            the mask is empty.
    """

    ood_score: float
    slices: Detection
    regions: Mapping[str, float]

    @property
    def flagged(self) -> list[int]:
        """Which slices are flagged; none without a threshold."""
        is_ood = self.slices.is_ood
        return [] if is_ood is None else is_ood.nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class Together:
    """How the scores of slices become one: "top", the mean of the k highest; "max"; "mean"."""

    aggregate: Aggregate
    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole_number(self.k, "k", at_least=1))
        if self.aggregate not in ("top", "max", "mean"):
            raise ValueError(f"aggregate is {self.aggregate!r}; use 'top', 'max' or 'mean'")

    def __call__(self, scores: Tensor) -> float:
        if self.aggregate == "mean":
            return float(scores.double().mean())
        count = 1 if self.aggregate == "max" else min(self.k, len(scores))
        return float(torch.topk(scores.double(), count).values.mean())


def judge_slices(
    judge: Callable[[Sequence[Image.Image]], Detection],
    slices: Sequence[Image.Image],
    regions: Mapping[str, Sequence[Image.Image]],
    together: Together,
) -> VolumeVerdict:
    """Judge what `tanl.io.volumes.cut` gives: the slices as one batch, and each region's boxes as another."""
    detection = judge(slices)
    inside = {
        name: together(judge(boxes).ood_score) if boxes else float("nan") for name, boxes in regions.items()
    }
    return VolumeVerdict(together(detection.ood_score), detection, inside)
