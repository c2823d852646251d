"""Structured features that behave as CLIP's do: text and images in two cones, concepts in clusters."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

CLUSTERS = 400
ID_CLUSTERS = 100  # ID labels lie in the first hundred clusters
OOD_CLUSTERS = 40  # the stream's outliers come from the next forty; negatives come from all
KNOWN_OOD = 15
# The share of images between an ID concept and an outlier, and how much ID is in them. It leaves about 16 of
# 256 images unsure at gap 0.2, M = 70 000, K = 1000; the benchmark prints what it counts.
MIXED_SHARE = 0.55
MIXED_ID = (0.55, 0.8)
_ROWS = 1 << 16


class Features:
    """Labels and a stream of batches, the same for the same arguments on every machine's torch.

    Args:
        num_id: C.
        num_negatives: M.
        dim: D.
        batch: B.
        seed: of everything.

    Attributes:
        known_ood: ``[15, D]``, in place of the noise images that TANL starts from.
    """

    def __init__(self, num_id: int, num_negatives: int, dim: int, batch: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._num_negatives, self._dim, self._batch, self._seed = num_negatives, dim, batch, seed
        self._text, self._image = (normalize(self._noise(1, generator), dim=1) for _ in range(2))
        self._centres = self._noise(CLUSTERS, generator)
        self._id_concepts = self._concepts(torch.arange(num_id) % ID_CLUSTERS, generator)
        self.known_ood = normalize(
            1.3 * self._image + 0.05 * self._text + 0.5 * self._noise(KNOWN_OOD, generator), dim=1
        )

    def labels(self) -> Tensor:
        """``[C + M, D]`` unit rows, ID labels first."""
        generator = torch.Generator().manual_seed(1_000_003 * (self._seed + 1) - 1)
        num_id = len(self._id_concepts)
        labels = torch.empty(num_id + self._num_negatives, self._dim)
        labels[:num_id] = normalize(self._text + self._id_concepts, dim=1)
        for part in torch.split(labels[num_id:], _ROWS):  # in parts: a million labels are 2 GB already
            cluster = torch.randint(CLUSTERS, (len(part),), generator=generator)
            concepts = self._concepts(cluster, generator).add_(self._text)
            torch.div(concepts, concepts.norm(dim=1, keepdim=True), out=part)
        return labels

    def batch(self, index: int) -> Tensor:
        """Batch number ``index`` of the stream, ``[B, D]`` unit rows: ID images, outliers, and some between."""
        generator = torch.Generator().manual_seed(1_000_003 * (self._seed + 1) + index)
        count = self._batch
        chosen = torch.randint(len(self._id_concepts), (count,), generator=generator)
        outlying = ID_CLUSTERS + torch.randint(OOD_CLUSTERS, (count,), generator=generator)
        low, high = MIXED_ID
        share = low + (high - low) * torch.rand(count, 1, generator=generator)
        mixed = round(MIXED_SHARE * count)
        share[mixed:] = 0
        share[mixed : mixed + (count - mixed) // 2] = 1
        concept = share * self._id_concepts[chosen] + (1 - share) * self._concepts(outlying, generator)
        images = 1.3 * self._image + 0.2 * self._text + 0.42 * concept + 0.3 * self._noise(count, generator)
        return normalize(images, dim=1)[torch.randperm(count, generator=generator)]

    def _concepts(self, cluster: Tensor, generator: torch.Generator) -> Tensor:
        return self._centres[cluster] * 0.75 + self._noise(len(cluster), generator) * 0.65

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """``[count, D]`` Gaussian rows of norm about 1."""
        return torch.randn(count, self._dim, generator=generator) / math.sqrt(self._dim)
