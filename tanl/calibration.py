"""Thresholds from ID scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def threshold_at_tpr(id_scores: Tensor, tpr: float = 0.95) -> float:
    """The OOD score above which an image is called OOD, so that new ID images are kept with probability >= tpr.

    Split conformal prediction: the k-th smallest score, ``k = ceil((n + 1) tpr)``. The guarantee is marginal
    and holds for a finite sample when calibration and future ID scores are exchangeable (Vovk et al. 2005,
    *Algorithmic learning in a random world*); a stateful method's scores are so only approximately.

    Args:
        id_scores: ``[n]`` OOD scores of ID images.
        tpr: wanted share of ID images that are kept, in (0, 1).

    Raises:
        ValueError: tpr outside (0, 1), scores not ``[n]`` or not finite, or too few of them for this tpr.
    """
    if not 0 < tpr < 1:
        raise ValueError(f"tpr must lie strictly between 0 and 1, not {tpr}")
    scores = torch.as_tensor(id_scores, dtype=torch.float32).detach()
    if scores.ndim != 1:
        raise ValueError(f"id_scores must have shape [n], not {list(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError("id_scores has a NaN or infinite value; leave such images out")
    # Rounding first: (19 + 1) * 0.95 must count as 19, whatever its last bit says.
    rank = math.ceil(round((len(scores) + 1) * tpr, 9))
    if rank > len(scores):
        needed = math.ceil(round(tpr / (1 - tpr), 9))
        raise ValueError(
            f"{len(scores)} ID scores are too few for tpr = {tpr}: {needed} are needed, or a lower tpr"
        )
    return float(scores.sort().values[rank - 1])
